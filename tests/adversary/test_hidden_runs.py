"""Earlier runs that disappear: a file of the run directory, or one beside it, says which data or which account it is.

Each attack first works on what was believed before.
"""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fedmm_secure.federation import account as accounts
from fedmm_secure.federation.account import (
    SoFar,
    account_of,
    enter_account,
    enter_without_bound,
    readers_account,
    spent_on_same_data,
)
from fedmm_secure.federation.account_entries import row_pairs
from fedmm_secure.federation.foresight import foresee
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.federation.places import account_beside
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.fingerprints import keyed_fingerprint
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.ledger import Ledger
from privacy.accounting.places import ACCOUNT_VARIABLE, AccountPlaceError, users_account
from privacy.accounting.spendings import Course, RunState
from tests.conftest import tiny
from tests.people import of_people

GENERATED = tiny(privacy={"epsilon": 8.0})
CONFIG = of_people(GENERATED)  # generated rows are nobody's, and no account holds them


@pytest.fixture(scope="module")
def plans(tiny_markets, tmp_path_factory):
    return open_federation(GENERATED, tiny_markets, tmp_path_factory.mktemp("plans"), account=None).plans


@pytest.fixture
def enter(tiny_markets, plans):
    """Enter a run, with a ledger that says so; the number of runs that it finds before it."""

    def entered(directory, markets=("m0",), account=None):
        account, found = account or account_of(CONFIG, directory), {}
        for name in markets:
            entrance = enter_account(account, directory, directory.name, plans[name], tiny_markets[name], SoFar())
            Ledger(directory / "ledger" / f"{name}.jsonl").open({"run": directory.name, "market": name})
            found[name] = int(entrance.earlier[0].remark)
        return found["m0"]

    return entered


def old_spent_on_same_data(account, directory, market):
    """As it was: the account's name for the data is read from the run's memory."""
    fingerprint = json.loads((directory / "state" / "account" / f"{market}.json").read_text())["fingerprint"]
    found = [spending.run for spending in account.spendings(fingerprint)]
    assert directory.name in found
    return found


def test_a_file_of_the_runs_memory_takes_the_place_of_another(enter, tiny_markets, tmp_path):
    """Runs on the rows of m0 are gone once its file is that of m1."""
    run, account = tmp_path / "run", PrivacyAccount(tmp_path / "account")
    enter(run, ("m0", "m1"), account)
    for name in ("second", "third"):
        enter(tmp_path / name, ("m0",), account)
    rows = [[f"{user} {item}".encode()] for user, item in enumerate("ab")]  # as good as any
    for name, found in zip(("m0", "m1"), rows, strict=True):
        path = run / "state" / "account" / f"{name}.json"
        path.write_text(json.dumps({"fingerprint": account.fingerprint(found)}))
    hidden = _by_fingerprint(account, rows)
    assert len(old_spent_on_same_data(hidden, run, "m0")) == 3
    shutil.copy(run / "state" / "account" / "m1.json", run / "state" / "account" / "m0.json")
    assert len(old_spent_on_same_data(hidden, run, "m0")) == 1  # the attack works on what it was
    assert len(spent_on_same_data(account, run, "m0")) == 3
    shutil.rmtree(run / "state")
    assert [found.run for found in spent_on_same_data(account, run, "m0")] == ["run", "second", "third"]
    assert [found.run for found in spent_on_same_data(account, run, "m1")] == ["run"]
    shutil.copy(run / "ledger" / "m1.jsonl", run / "ledger" / "m0.jsonl")  # and no other market's ledger tells of m0
    with pytest.raises(AccountError, match="is not the ledger of market m0"):
        spent_on_same_data(account, run, "m0")


def _by_fingerprint(account, rows):
    """An account of the first version, of three runs on some rows and one on others."""

    class Spent:
        def __init__(self, run):
            self.run = run

    class Account:
        def spendings(self, fingerprint):
            known = {account.fingerprint(rows[0]): ("run", "second", "third"), account.fingerprint(rows[1]): ("run",)}
            return [Spent(run) for run in known[fingerprint]]

    return Account()


def test_a_run_that_was_never_entered_is_not_found(enter, tmp_path):
    account = PrivacyAccount(tmp_path / "account")
    enter(tmp_path / "run", ("m0",), account)
    Ledger(tmp_path / "other" / "ledger" / "m0.jsonl").open({"run": "other", "market": "m0"})
    with pytest.raises(AccountError, match="does not hold this run of market m0"):
        spent_on_same_data(account, tmp_path / "other", "m0")


def test_an_empty_file_beside_the_runs_does_not_take_the_place_of_the_users_account(enter, tmp_path):
    runs = tmp_path / "runs"
    assert [enter(runs / name) for name in ("first", "second")] == [0, 1]
    beside = account_beside(runs / "third")
    assert enter(tmp_path / "elsewhere" / "run", account=PrivacyAccount(beside)) == 0  # the attack works: a new account
    for path in (beside, beside.with_name(f"{beside.name}.key")):
        path.unlink()
    beside.touch()
    for way in (lambda: enter(runs / "third"), lambda: enter(runs / "third", account=PrivacyAccount(beside))):
        with pytest.raises(AccountError, match=r"privacy\.account: is (in the way|empty)") as refused:
            way()
        assert "\n" not in str(refused.value)
    beside.unlink()
    assert enter(runs / "third") == 2


def test_a_strangers_account_beside_the_runs_is_refused(enter, tmp_path, monkeypatch):
    """One with lines and a key, made on another machine."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
        enter(tmp_path / "runs" / "planted", account=PrivacyAccount(account_beside(tmp_path / "runs" / "planted")))
    with pytest.raises(AccountError, match="no account that this machine has written"):
        enter(tmp_path / "runs" / "mine")
    named = PrivacyAccount(account_beside(tmp_path / "runs" / "mine"))
    assert enter(tmp_path / "runs" / "mine", account=named) == 1  # who names it trusts it


def test_runs_of_the_users_account_and_of_one_beside_count_both(enter, tmp_path):
    """A market's deployed runs and those that its owner starts by hand, on the same rows."""
    home = tmp_path / "home" / "runs"
    assert enter(tmp_path / "by hand") == 0
    assert enter(home / "deployed", account=account_of(CONFIG, home / "deployed", home=True)) == 1
    assert enter(home / "again", account=account_of(CONFIG, home / "again", home=True)) == 2
    assert enter(home / "by hand beside") == 3
    assert enter(home / "last", account=account_of(CONFIG, home / "last", home=True)) == 4
    assert users_account().is_file()
    assert account_beside(home / "deployed").is_file()


def runs_known(account, directory):
    return sorted(found.run for found in spent_on_same_data(account, directory, "m0"))


def test_a_reader_of_one_account_knows_what_the_other_held(enter, tmp_path):
    """Neither the home's account nor the first run's ledger alone holds all three runs: the larger ε is too small."""
    home = tmp_path / "home" / "runs"
    enter(tmp_path / "mine" / "by hand")
    for name in ("deployed", "again"):
        enter(home / name, account=account_of(CONFIG, home / name, home=True))
    beside, deployed = account_beside(home / "deployed"), home / "deployed"
    alone = [found.run for found in old_spendings_of(PrivacyAccount(beside), "deployed")]
    assert alone == ["deployed", "again"]  # the attack works on what it was
    assert runs_known(PrivacyAccount(beside), deployed) == ["again", "by hand", "deployed"]
    enter(tmp_path / "mine" / "later")  # which knows nothing of the home, nor the home of it
    assert runs_known(PrivacyAccount(beside), deployed) == ["again", "by hand", "deployed"]
    assert runs_known(readers_account(beside), deployed) == ["again", "by hand", "deployed", "later"]
    later = tmp_path / "mine" / "later"
    assert runs_known(readers_account(), later) == ["by hand", "later"]
    with pytest.raises(AccountError, match="does not hold this run"):  # as it was: no reader could count all of them
        runs_known(PrivacyAccount(beside), later)
    assert runs_known(readers_account(beside), later) == ["again", "by hand", "deployed", "later"]
    enter(home / "by hand beside")  # the user's account hears of the home
    assert runs_known(readers_account(), deployed) == ["again", "by hand", "by hand beside", "deployed", "later"]
    assert runs_known(readers_account(beside), deployed) == runs_known(readers_account(), deployed)


def test_an_account_that_knew_of_no_run_is_found_by_what_it_calls_the_data(enter, tmp_path):
    home, account = tmp_path / "home" / "runs", PrivacyAccount(users_account())
    account.fingerprint([b"other rows"])
    enter(home / "deployed", account=account_of(CONFIG, home / "deployed", home=True))
    enter(tmp_path / "mine" / "later")
    beside = account_beside(home / "deployed")
    assert runs_known(readers_account(beside), home / "deployed") == ["deployed", "later"]


def old_spendings_of(account, run):
    """As it was: the courses that were entered in the account itself."""
    bodies = [json.loads(line)["body"] for line in account.path.read_text().splitlines()[1:]]
    (fingerprint,) = {body["fingerprint"] for body in bodies if body.get("run") == run}
    return account.spendings(fingerprint)


def test_a_copy_of_the_users_account_beside_counts_once(enter, tmp_path):
    enter(tmp_path / "runs" / "first")
    for path in users_account().parent.glob("privacy.account*"):
        shutil.copy(path, tmp_path / "runs")
    assert enter(tmp_path / "runs" / "second") == 1


def test_a_run_that_goes_on_counts_what_it_counted_when_it_began(enter, tmp_path, tiny_markets, plans):
    run, home = tmp_path / "runs" / "run", tmp_path / "runs" / "deployed"
    enter(home, account=account_of(CONFIG, home, home=True))
    assert enter(run) == 1
    enter(tmp_path / "runs" / "later", account=account_of(CONFIG, home, home=True))
    account = account_of(CONFIG, run)
    assert [other.path for other in account.others] == [account_beside(run)]
    notes = enter_account(account, run, "run", plans["m0"], tiny_markets["m0"], SoFar()).earlier
    assert [note.remark for note in notes] == ["1"]
    for path in run.parent.glob("privacy.account*"):
        os.replace(path, tmp_path / path.name)
    notes = enter_account(account_of(CONFIG, run), run, "run", plans["m0"], tiny_markets["m0"], SoFar()).earlier
    assert [note.remark for note in notes] == ["1"]  # its own account has heard of them


def test_a_run_that_was_entered_with_another_plan_is_entered_again(plans, tiny_markets, tmp_path, monkeypatch):
    """Entered, killed before its ledger began, and started again with an ε of eight times as much."""
    dear, rows = plans["m0"], row_pairs(tiny_markets["m0"].whole.market)
    frugal = CONFIG.model_copy(update={"privacy": CONFIG.privacy.model_copy(update={"epsilon": 1.0})})
    cheap = SpendingPlan.of(frugal, "m0", dear.sizes)

    def spent(name, *started):
        account = PrivacyAccount(tmp_path / name)
        notes = [enter_account(account, tmp_path / f"run-{name}", name, plan, tiny_markets["m0"], SoFar()).earlier
                 for plan in started][-1]  # fmt: skip
        known = account.spent_on(rows)
        return [note.remark for note in notes], several_runs_epsilon(known, "market", dear.delta)

    whole, again = spent("whole", dear), spent("again", dear, dear)
    assert whole == again == (["0"], whole[1])
    notes, epsilon = spent("cheap", cheap, dear)
    assert (notes, epsilon > whole[1]) == (["0", "1"], True)
    monkeypatch.setattr(Course, "stays", lambda *_: True)  # the attack: the line of the cheap plan stood for both
    notes, epsilon = spent("as it was", cheap, dear)
    assert (notes, epsilon < whole[1] / 4) == (["0"], True)


def old_earlier(account, rows):
    """As it was: runs that were entered in the account itself."""
    return [run.run for run in account.spendings(keyed_fingerprint(account._file.key(), rows))]


def test_what_an_account_has_heard_of_counts_wherever_it_is_asked(enter, tiny_markets, plans, tmp_path):
    """The home's account has taken down what the user's held; later the user's is not at hand any more."""
    for name in ("u0", "u1", "u2"):
        enter(tmp_path / "mine" / name)
    home = PrivacyAccount(tmp_path / "home" / "account")
    assert enter(tmp_path / "home" / "first", account=PrivacyAccount(home.path, [PrivacyAccount(users_account())])) == 3
    rows = row_pairs(tiny_markets["m0"].whole.market)
    assert old_earlier(home, rows) == ["first"]  # the attack works on what it was: three runs are forgotten
    assert foresee(home, "second", plans["m0"], tiny_markets["m0"], RunState("start")).earlier == 4
    assert sorted(run.run for run in home.spent_on(rows)) == ["first", "u0", "u1", "u2"]
    assert enter(tmp_path / "home" / "second", account=home) == 4
    assert len(runs_known(home, tmp_path / "home" / "second")) == 5
    again = enter_account(home, tmp_path / "home" / "second", "second", plans["m0"], tiny_markets["m0"], SoFar())
    assert [note.remark for note in again.earlier] == ["4"]  # notes never change


def test_an_account_that_is_another_one_in_each_folder_is_refused(tiny_markets, plans, tmp_path, monkeypatch):
    """``privacy.account: ~/fedmm.account``: no shell has seen it, and each folder had a ``~`` with an account in it."""

    def entered(folder, named):
        config = CONFIG.model_copy(update={"privacy": CONFIG.privacy.model_copy(update={"account": named})})
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        account, run = account_of(config, tmp_path / folder / "run"), tmp_path / folder / f"run {named.parent.name}"
        plan = replace(plans["m0"], config=config)
        return int(enter_account(account, run, str(run), plan, tiny_markets["m0"], SoFar()).earlier[0].remark)

    for named in (Path("~/fedmm.account"), Path("fedmm.account")):
        with monkeypatch.context() as patch:  # the attack works where it is taken as it stands
            patch.setattr(accounts, "refuse_relative", lambda path, key: None)
            assert [entered("one", named), entered("another", named)] == [0, 0]
        with pytest.raises(AccountPlaceError, match=r"privacy.account: .*: in another folder this is another account"):
            entered("third", named)
    whole = tmp_path / "mine" / "account"
    assert [entered("one", whole), entered("another", whole)] == [0, 1]
    monkeypatch.setenv(ACCOUNT_VARIABLE, "fedmm.account")
    with pytest.raises(AccountPlaceError, match=rf"{ACCOUNT_VARIABLE}: fedmm.account: .*{tmp_path}"):
        users_account()


def test_a_home_that_is_another_one_in_each_folder_is_refused(tmp_path, monkeypatch):
    """``HOME=.``, as a unit file or a container may have it: each folder had an account, and a memory of accounts."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", ".")
    places = set()
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        places.add((Path.home() / ".local" / "state").resolve())
        account = PrivacyAccount(tmp_path / name / "account")
        for asked in (users_account, partial(account.fingerprint, [b"row"])):
            with pytest.raises(AccountPlaceError, match=r"HOME: \.: in another folder this is another home"):
                asked()
    assert len(places) == 2  # the attack works where it is taken as it stands
    monkeypatch.setenv("HOME", "~nobody-of-this-name")
    with pytest.raises(AccountPlaceError, match="no home folder to keep the privacy account in"):
        users_account()


def test_joining_enters_no_account_of_a_folder(tiny_markets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIG.model_copy(update={"privacy": CONFIG.privacy.model_copy(update={"account": Path("account")})})
    with pytest.raises(AccountPlaceError, match=r"privacy.account: account"):
        enter_without_bound(config, tmp_path / "joined", tiny_markets["m0"])
