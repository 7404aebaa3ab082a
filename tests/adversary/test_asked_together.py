"""Ways around an auditor's book, what a run's key opens, and what a kill leaves of the noise that was drawn."""

import hashlib
from dataclasses import replace

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure.federation.coin_book import enter_tosses
from fedmm_secure.federation.coins import CoinError, Coins
from fedmm_secure.federation.noise_chain import NoiseChain
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.tosses import Toss, asked_tosses
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting.account import PrivacyAccount, heard_of
from privacy.accounting.account_file import AccountError
from privacy.accounting.fingerprints import keyed_fingerprint
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.accounting.spendings import RunState, Spending
from privacy.aggregation.at_rest import LockedFiles
from privacy.aggregation.identities import Identity
from tests.command_line import fedmm

AUDITOR, OWNER = Identity.generate("auditor"), Identity.generate("m0")
SPENDING = Spending("first", dict.fromkeys(DECRYPTED_VIEWS, GaussianDpEvent(1.0)), markets=1)


def begun(folder, market, run="run", file=None, **others):
    """A first line that asks for a coin."""
    files = LockedFiles(folder / "keys" / market, b"k" * 32)
    coins, ledger = (
        Coins(AUDITOR.card, market, run, OWNER, files),
        Ledger(folder / "ledger" / f"{file or market}.jsonl"),
    )
    fields = {"run": run, "market": market, "data": f"rows {run}", "configuration": "c", "federation": "f", **others}
    rows = f"{len(list(folder.rglob('*'))):064x}"  # of one row more or less each time
    ledger.open(fields | coins.stated({}, 0, lambda reader: rows))
    return read_ledger(ledger.path)


@pytest.mark.parametrize(
    "other",
    [
        {"run": "another"},
        {"run": "another", "market": "m0"},
        {"configuration": "another"},
        {"federation": "another"},
    ],
    ids=lambda other: " ".join(other),
)
def test_a_market_that_asks_for_many_coins_at_once_does_not_look_like_one_run(other, tmp_path):
    """First lines of several runs in one folder: the book took them for the markets of one, and counted none."""
    told = {"market": "m1", **other}
    contents = [begun(tmp_path, "m0"), begun(tmp_path, told.pop("market"), file="m1", **told)]
    tosses = [Toss.of(content, AUDITOR.card) for content in contents]
    (tmp_path / "before").mkdir()
    together = enter_tosses(tmp_path / "before", tosses, AUDITOR)
    assert {(found.card, found.rows) for found in together.values()} == {(0, 0)}  # as it was, for any two of them
    with pytest.raises(CoinError, match=r"one run|has its market's name"):
        asked_tosses(tmp_path, AUDITOR)


def test_a_market_under_several_names_in_one_run_is_counted(tmp_path, capsys):
    """Rows of one market under sham names, a row more or less in each, in a run of all of them: the book held them for
    markets that one owner signs for, and said nothing. It cannot tell; it says that one card asks for so many.
    """
    names = ["m0", "sham", "another"]
    tosses = [Toss.of(begun(tmp_path, name), AUDITOR.card) for name in names]
    assert asked_tosses(tmp_path, AUDITOR) == sorted(tosses, key=lambda toss: toss.market)  # nothing that is refused
    found = enter_tosses(tmp_path, tosses, AUDITOR)
    assert {name: (one.card, one.rows) for name, one in found.items()} == dict.fromkeys(names, (0, 0))  # as it was
    assert {one.together for one in found.values()} == {2}
    one_by_one = tmp_path / "auditor"
    one_by_one.mkdir()
    apart = [enter_tosses(one_by_one, [toss], AUDITOR)[toss.market] for toss in tosses]
    assert [(one.card, one.together) for one in apart] == [(0, 0), (1, 0), (2, 0)]  # nor is there a way around it
    AUDITOR.save(one_by_one)
    status, shown, _ = fedmm(capsys, "keys", "coins", tmp_path, "--keys", one_by_one, "--out", tmp_path / "coins.json")
    assert (status, shown.count("this card asks for 2 more markets of this run")) == (0, len(names))


def test_a_runs_key_knows_rows_again_that_were_sealed_for_its_reader_in_other_runs(tmp_path):
    """What stays possible: that fingerprint is the same in every run, so that the book can count.

    Who has the key of one run tests guesses at the rows of any other run that sealed one for the same reader; what
    other runs say in public stays closed.
    """
    account, reader = PrivacyAccount(tmp_path / "privacy.account"), AUDITOR.card.fingerprint
    account.start(account.fingerprint([b"row 1"]), SPENDING, RunState("n"), market="m0")
    key, guess = account.run_key(SPENDING.run, "m0", reader), [b"row 1", b"row 3"]
    assert key.fingerprint(guess, reader=reader) == account.fingerprint(guess, reader=reader)
    assert keyed_fingerprint(key.of_run, guess) != account.fingerprint(guess, run="another")
    assert keyed_fingerprint(key.of_reader, guess) != account.fingerprint(guess, run="another")


def test_a_runs_key_is_of_the_account_that_it_was_entered_in(tmp_path):
    """An account that has heard of a run elsewhere has another key: an honest market's rows were not known again."""
    home, users = PrivacyAccount(tmp_path / "home" / "account"), PrivacyAccount(tmp_path / "users" / "account")
    rows, reader = [b"row 1", b"row 2"], AUDITOR.card.fingerprint
    home.start(home.fingerprint(rows), SPENDING, RunState("n"), market="m0")
    later = replace(SPENDING, run="later")
    users.start(users.fingerprint(rows), later, RunState("n"), market="m0", elsewhere=heard_of([home], rows, "m0"))
    key = PrivacyAccount(users.path, [home]).run_key(SPENDING.run, "m0", reader)
    assert key.fingerprint(rows, run=SPENDING.run) == home.fingerprint(rows, run=SPENDING.run)
    with pytest.raises(AccountError, match="does not hold this run"):
        PrivacyAccount(users.path).run_key(SPENDING.run, "m0", reader)


def test_a_kill_behind_a_charge_leaves_nothing_that_makes_its_key_again(tmp_path):
    """The link of what was charged stayed until the next place was drawn: with what was published meanwhile."""
    places = [("counts", None), ("embedding", None)]
    files = LockedFiles(tmp_path / "keys", b"k" * 32)
    chain = NoiseChain(files, "m0", places)
    chain.begin(b"k" * 32)
    keys, ledger = ReleaseKeys("m0", tmp_path / "keys", chain=chain), Ledger(tmp_path / "m0.jsonl")
    ledger.open({"run": "r", "market": "m0"})
    release = Release("counts", "noise", GaussianDpEvent(1.0), 1.0, ("release",), (), coordinates=3)
    key = keys.make(release, ledger)
    entry = release.entry("m0", delta=1e-3, seeded=False)
    charge = ledger.charge(entry, data="d", key=hashlib.sha256(key).hexdigest())  # and killed before the link goes
    assert files.names("link-*.key") == ["link-0.key"]
    assert keys.of(charge, ledger.path) == key  # it goes on
    assert files.names("link-*.key") == ["link-1.key"]
    assert keys.of(charge, ledger.path) == key
    chain.leave(places[1])
    assert keys.of(charge, ledger.path) == key  # whatever comes later
    assert files.names("link-*.key") == ["link-2.key"]
