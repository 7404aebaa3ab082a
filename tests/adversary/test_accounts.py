"""An account that forgets: lines edited or left out, a key that is lost, a copy, a new account for each run.

Each attack first works on the account as it was: lines of JSON that nothing vouches for, and a key that is made
wherever there is none.
"""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure.federation.account import SoFar, account_of, enter_account, spent_on_same_data
from fedmm_secure.federation.parties import open_federation
from privacy import foreign
from privacy.accounting import account_file
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError, AccountFile, digest_of
from privacy.accounting.lines import drop_torn_tail
from privacy.accounting.places import RecordedHead, recorded_head
from privacy.accounting.spendings import RunState, Spending
from privacy.foreign import ForeignFileError
from tests.conftest import tiny
from tests.people import of_people

ROWS = [b"alice", b"bob"]


def spending(run, sigma=1.0):
    return Spending(run, {"release": GaussianDpEvent(sigma)}, coordinates=10)


def started(account, run, sigma=1.0):
    """The runs before it."""
    print_ = account.fingerprint(ROWS)
    found = account.start(print_, spending(run, sigma), RunState(f"{run}'s"))
    with account.charging(run, f"{run}'s", 1):
        pass
    return [earlier.run for earlier in found.earlier]


def held(account):
    return [found.run for found in account.spendings(account.fingerprint(ROWS))]


def old_held(path):
    """As the account was read: whatever its lines say."""
    bodies = [json.loads(line)["body"] for line in path.read_text().splitlines()]
    return [body["run"] for body in bodies if "events" in body]


@pytest.fixture
def account(tmp_path):
    found = PrivacyAccount(tmp_path / "place" / "privacy.account")
    assert started(found, "first") == []
    assert started(found, "second") == ["first"]
    return found


def edited(lines):
    """A run that spent nothing."""
    found = json.loads(lines[1])
    found["body"]["events"] = {"release": {"kind": "no-op"}}
    return [lines[0], json.dumps(found), *lines[2:]]


def renumbered(lines):
    """Left out, and the rest linked again: without the key, the HMACs stay those of other lines."""
    found, previous = [], "0" * 64
    for sequence, line in enumerate([lines[0], *lines[3:]]):
        found.append(json.dumps({**json.loads(line), "sequence": sequence, "previous": previous}))
        previous = json.loads(line)["mac"]
    return found


TAMPERED = {
    "a spending edited": edited,
    "the lines of a run left out": lambda lines: [lines[0], *lines[3:]],
    "the same, numbered anew": renumbered,
    "a line twice": lambda lines: [*lines, lines[1]],
    "the first line left out": lambda lines: lines[1:],
    "lines in another order": lambda lines: [lines[0], *lines[3:], *lines[1:3]],
    "the last run left out": lambda lines: lines[:3],
    "everything left out": lambda lines: [],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_an_account_edited_with_a_text_editor(account, name):
    lines = account.path.read_text().splitlines()
    changed = "".join(f"{line}\n" for line in TAMPERED[name](lines))
    account.path.write_text(changed)
    if name not in ("a spending edited", "the first line left out"):
        assert old_held(account.path) != ["first", "second"]  # the attack works on what is believed as it stands
    with pytest.raises(AccountError):
        held(account)
    with pytest.raises(AccountError):
        started(account, "third")
    assert account.path.read_text() == changed


def test_the_key_is_lost(account):
    """A new key makes of the same rows other data: the next run was the first on them."""
    key = account.path.with_name("privacy.account.key")
    key.unlink()
    elsewhere = PrivacyAccount(account.path.with_name("other"))
    assert elsewhere.fingerprint(ROWS) not in account.path.read_text()  # the attack works with any other key
    with pytest.raises(AccountError, match=r"privacy\.account\.key: is gone"):
        started(account, "third")
    with pytest.raises(AccountError, match="restore it from a backup"):
        held(account)
    shutil.copy(elsewhere.path.with_name("other.key"), key)
    with pytest.raises(AccountError, match="another account's key"):
        held(account)


def test_the_account_is_deleted_and_its_key_stays(account):
    account.path.unlink()
    with pytest.raises(AccountError, match="has seen a later state"):
        started(account, "third")


def test_nothing_is_cut_off_what_is_no_account(tmp_path):
    """``privacy.account`` names a file of rows: its last one went before anything looked at what the file is."""
    for name in ("rows.csv", "as it was.csv"):
        (tmp_path / name).write_text("user,item\na,1\nb,2")
    drop_torn_tail(tmp_path / "as it was.csv")
    assert (tmp_path / "as it was.csv").read_text() == "user,item\na,1\n"  # the attack
    with pytest.raises(AccountError, match=r"rows\.csv\.key: is gone"):
        started(PrivacyAccount(tmp_path / "rows.csv"), "first")
    assert (tmp_path / "rows.csv").read_text() == "user,item\na,1\nb,2"


def test_an_editor_leaves_the_last_line_feed_out(account):
    """The last line, which is whole, was cut; then the account was refused for lacking it, and could not be mended."""
    whole = account.path.read_bytes()
    copy = account.path.with_name("copy")
    for path in (account.path, copy):
        path.write_bytes(whole[:-1])
    drop_torn_tail(copy)
    assert copy.read_bytes().count(b"\n") == whole.count(b"\n") - 1  # the attack
    with pytest.raises(AccountError, match="has seen a later state"):
        started(account, "third")
    assert account.path.read_bytes() == whole[:-1]
    account.path.write_bytes(whole)
    assert started(account, "third") == ["first", "second"]


def test_a_full_account_stays_readable(account, monkeypatch):
    """One more line, and neither a run nor a report could read any of it."""
    room = account.path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(account_file, "_MOST_BYTES", room - 1)
        with pytest.raises(AccountError, match="too large"):  # the attack: a line more than is read
            held(account)
        patch.setattr(account_file, "_MOST_BYTES", room)
        with pytest.raises(AccountError, match="is full"):
            started(account, "third")
        assert held(account) == ["first", "second"]
    longest = max(map(len, account.path.read_bytes().splitlines()))
    monkeypatch.setattr(foreign, "MAX_LINE_BYTES", longest - 1)
    with pytest.raises(ForeignFileError, match=f"a line of {longest} bytes"):  # the attack: a line longer than is read
        held(PrivacyAccount(account.path))
    monkeypatch.setattr(foreign, "MAX_LINE_BYTES", longest)
    monkeypatch.setattr(account_file, "MAX_LINE_BYTES", longest)
    with pytest.raises(AccountError, match="cannot hold what the run would enter: a line of"):
        started(account, "a run with a longer name")
    assert held(account) == ["first", "second"]


def test_an_account_is_copied_with_the_runs_beside_it(account, tmp_path):
    """Each copy would let the next run in after two; both are on the same rows."""
    copy = PrivacyAccount(shutil.copytree(account.path.parent, tmp_path / "copy") / "privacy.account")
    assert started(account, "third") == ["first", "second"]
    assert old_held(copy.path) == ["first", "second"]  # the attack works: a fourth run would not know of the third
    for use in (held, lambda found: started(found, "fourth")):
        with pytest.raises(AccountError, match="an older copy, or one of two that went on apart"):
            use(copy)
    assert started(account, "fourth") == ["first", "second", "third"]


def test_runs_copied_before_the_first_charge_with_the_account_in_them(tiny_markets, tmp_path):
    """Both know the latest nonce of an account with no charge; each has an account of its own."""
    config = of_people(tiny(privacy={"epsilon": 8.0, "account": str(tmp_path / "a" / "privacy.account")}))
    open_federation(config, tiny_markets, tmp_path / "a" / "run", account=account_of(config, tmp_path / "a" / "run"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = open_federation(config, tiny_markets, tmp_path / "a" / "run", account=account_of(config, tmp_path))
    drawn = first.doors["m0"].begin(first.plans["m0"].counts()).key
    other = PrivacyAccount(tmp_path / "b" / "privacy.account")
    state = json.loads((tmp_path / "b" / "run" / "state" / "account" / "m0.json").read_text())
    assert state["nonces"][-1] in other.path.read_text()  # the attack works: to each of them, it goes on alone
    with pytest.raises(AccountError, match="went on apart"):
        open_federation(config, tiny_markets, tmp_path / "b" / "run", account=other)
    # under the account that is kept, the copy is another run
    copied = open_federation(config, tiny_markets, tmp_path / "b" / "run", account=account_of(config, tmp_path))
    assert copied.doors["m0"].begin(copied.plans["m0"].counts()).key != drawn
    assert len(spent_on_same_data(account_of(config, tmp_path), tmp_path / "b" / "run", "m0")) == 2


def test_each_run_in_a_folder_of_its_own(tiny_markets, tmp_path):
    """As ``FedMM.fit`` has it: an account beside each of them would hold that run alone."""
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    for name in ("one", "other"):
        directory = tmp_path / name / "run"
        open_federation(config, tiny_markets, directory, account=account_of(config, directory))
    beside = PrivacyAccount(tmp_path / "one" / "privacy.account")
    open_federation(config, tiny_markets, tmp_path / "third" / "run", account=beside)
    known = [
        spent_on_same_data(account_of(config, tmp_path), tmp_path / name / "run", "m0") for name in ("one", "other")
    ]
    assert [len(found) for found in known] == [2, 2]
    assert len(spent_on_same_data(beside, tmp_path / "third" / "run", "m0")) == 1  # the attack works


def test_ids_that_run_into_each_other_are_other_rows(tiny_markets, tmp_path):
    """A separator between two ids says nothing where ids may hold it."""
    config, prints = of_people(tiny(privacy={"epsilon": 8.0})), []
    account, prepared = PrivacyAccount(tmp_path / "privacy.account"), tiny_markets["m0"]
    market = prepared.whole.market
    joined = []
    for user, item in (("u\x1fi", "j"), ("u", "i\x1fj")):
        ids = market.user_ids.astype(object), market.item_ids.astype(object)
        ids[0][0], ids[1][0] = user, item
        joined.append(f"{user}\x1f{item}")
        one = replace(market, user_ids=ids[0], item_ids=ids[1], user=market.user * 0, item=market.item * 0)
        changed = replace(prepared, whole=replace(prepared.whole, market=one))
        plan = open_federation(config, tiny_markets, tmp_path / f"plan-{len(prints)}", account=None).plans["m0"]
        prints.append(enter_account(account, tmp_path / f"run-{len(prints)}", "r", plan, changed, SoFar()).data)
    assert joined[0] == joined[1]  # the attack works on joined ids
    assert prints[0] != prints[1]


# -- readers hold no lock ----------------------------------------------------------------------------------------------


class FileFirst(AccountFile):
    """As it was read: the file, and then how far the machine has seen it come."""

    def _state(self, key):
        content = self.path.read_bytes()
        return content, key, recorded_head(digest_of(key)).read()


@pytest.fixture
def busy(account, monkeypatch):
    """Whenever a reader is about to look how far the account had come, another run charges."""
    honest, charges = RecordedHead.read, iter(range(2, 100))
    inside = []

    def read(recorded):
        if not inside:
            inside.append(True)
            with account.charging("second", "second's", next(charges)):
                pass
            inside.pop()
        return honest(recorded)

    monkeypatch.setattr(RecordedHead, "read", read)
    return account


def test_an_account_that_is_charged_while_it_is_read_is_no_older_copy(busy, monkeypatch):
    reader = PrivacyAccount(busy.path)
    monkeypatch.setattr(reader, "_file", FileFirst(busy.path))
    with pytest.raises(AccountError, match="an older copy"):
        reader.spent_on(ROWS)
    for _ in range(3):
        assert [found.run for found in PrivacyAccount(busy.path).spent_on(ROWS)] == ["first", "second"]
        PrivacyAccount(busy.path).require_known()


def test_a_charge_between_the_two_looks_is_counted(account, monkeypatch):
    """The file is then ahead of what was noted before it was read."""
    honest, print_ = AccountFile._state, account.fingerprint(ROWS)

    def state(reader, key):
        seen = recorded_head(digest_of(key)).read()
        monkeypatch.setattr(AccountFile, "_state", honest)
        account.start(print_, spending("third"), RunState("third's"))
        return reader.path.read_bytes(), key, seen

    monkeypatch.setattr(AccountFile, "_state", state)
    assert [found.run for found in PrivacyAccount(account.path).spent_on(ROWS)] == ["first", "second", "third"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"lines": null, "mac": 1}', "\x00"])
def test_a_torn_memory_of_the_account_is_one_line(tmp_path, content):
    """Half-written by a machine that lost power: the traceback of a JSON parser, before."""
    account = PrivacyAccount(tmp_path / "account")
    account.fingerprint(ROWS)
    recorded_head(account.identity).path.write_text(content)
    for use in (partial(started, account, "run"), partial(account.spent_on, ROWS)):
        with pytest.raises(AccountError, match=r"remembers of the account, .*, cannot be read") as refused:
            use()
        assert "\n" not in str(refused.value)
    recorded_head(account.identity).path.unlink()
    assert account.spent_on(ROWS) == []
