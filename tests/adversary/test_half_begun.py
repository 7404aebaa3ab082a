"""Accounts that are half there: one whose process was killed as it began, one whose file was lost, two entered at once.

The account of a run and the other one that it counts are at hand whole, or the run is told; a kill harms nobody.
"""

import os
import shutil
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest import mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from experiments.deploy.homes import prepare_homes
from fedmm_secure.federation.account import account_of, begin_account, readers_account
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting import account as accounts
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError, AccountFile
from privacy.accounting.places import AccountPlaceError, users_account
from privacy.accounting.spendings import RunState, Spending
from tests.command_line import fedmm
from tests.conftest import STATE, tiny
from tests.faults import configuration
from tests.people import of_people

CONFIG = of_people(tiny(privacy={"epsilon": 8.0}))
EVENTS = dict.fromkeys(DECRYPTED_VIEWS, GaussianDpEvent(1.0))
ROWS = [b"row"]


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv(STATE, str(tmp_path / "machine"))


@pytest.fixture
def home(tmp_path):
    """Where a run of a deployed market is."""
    return tmp_path / "home" / "runs" / "run"


def enter(account, run):
    found = account.enter(ROWS, Spending(run, EVENTS, markets=1), RunState(f"nonce of {run}"), market="m")
    return sorted(one.run for one in found.earlier)


def as_it_was(file):
    """An account was there where any file was."""
    return os.path.lexists(file.path)


def begun_until(path, written):
    """A process that was killed as it began an account, with so much of the first line on the disk."""
    PrivacyAccount(path).begin()
    first = path.read_bytes()
    shutil.rmtree(path.parent / "accounts")
    path.write_bytes(first[:written])


@pytest.mark.parametrize("written", [0, 100])
def test_killed_as_it_began(home, written):
    begun_until(users_account(), written)
    with mock.patch.object(AccountFile, "is_there", as_it_was):
        with pytest.raises(AccountError, match="no privacy account is here"):  # for good: what enters comes after
            account_of(CONFIG, home).spent_on(ROWS, "m")
        with pytest.raises(AccountError, match="no privacy account is here"):
            enter(account_of(CONFIG, home, home=True), "deployed")
    assert not account_of(CONFIG, home).is_there
    assert enter(account_of(CONFIG, home, home=True), "deployed") == []
    assert enter(account_of(CONFIG, home), "by hand") == ["deployed"]
    assert enter(account_of(CONFIG, home, home=True), "last") == ["by hand", "deployed"]


def test_the_file_of_the_other_account_is_lost(home):
    """Its key is there, and the machine knows that it had lines: a run of the home, and a reader, did not ask."""
    for run in ("first", "second"):
        enter(account_of(CONFIG, home), run)
    users_account().unlink()
    with mock.patch.object(AccountFile, "is_there", as_it_was):
        assert enter(account_of(CONFIG, home, home=True), "deployed") == []  # the attack
        assert len(readers_account(account_of(CONFIG, home, home=True).path).spendings_of("deployed", "m")) == 1
    with pytest.raises(AccountError, match="has 0 of 3 lines"):
        enter(account_of(CONFIG, home, home=True), "later")
    with pytest.raises(AccountError, match="has 0 of 3 lines"):
        readers_account(account_of(CONFIG, home, home=True).path).spendings_of("deployed", "m")


@pytest.mark.parametrize("held", [True, False])
def test_two_runs_enter_two_accounts_at_once(home, held, monkeypatch):
    """Each asked the other account before either had entered its own: both notes of earlier runs were empty."""
    runs = {"deployed": account_of(CONFIG, home, home=True), "by hand": account_of(CONFIG, home)}
    meet, heard_of, found = threading.Barrier(2, timeout=0.2), accounts.heard_of, {}

    def slowly(*asked):
        heard = heard_of(*asked)
        with suppress(threading.BrokenBarrierError):
            meet.wait()
        return heard

    monkeypatch.setattr(accounts, "heard_of", slowly)
    if not held:
        monkeypatch.setattr(AccountFile, "starting", lambda file: nullcontext())
    threads = [threading.Thread(target=lambda run=run: found.update({run: enter(runs[run], run)})) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, found.values())) == ([0, 1] if held else [0, 0])


@pytest.mark.parametrize("remembers", [True, False])
def test_an_account_that_was_moved_here_is_known_once_its_process_began(home, tmp_path, monkeypatch, remembers):
    account = account_of(CONFIG, home, home=True)
    enter(account, "first")
    old = shutil.copytree(home.parent, tmp_path / "backup")
    enter(account, "second")
    monkeypatch.setenv(STATE, str(tmp_path / "another machine"))
    if not remembers:
        monkeypatch.setattr(AccountFile, "remember", lambda file, key: None)
    begin_account(CONFIG, home.parent)
    shutil.rmtree(home.parent)
    shutil.copytree(old, home.parent)
    if remembers:
        with pytest.raises(AccountError, match="older copy"):
            enter(account_of(CONFIG, home, home=True), "third")
    else:
        assert enter(account_of(CONFIG, home, home=True), "third") == ["first"]  # the attack


def test_no_account_begins_where_another_folder_has_another(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    privacy = CONFIG.privacy.model_copy(update={"account": Path("x")})
    named = CONFIG.model_copy(update={"privacy": privacy})
    with pytest.raises(AccountPlaceError, match="by its whole path"):
        begin_account(named, home.parent)
    assert list(tmp_path.iterdir()) == []


def test_a_new_home_is_told_what_its_machine_lacks(tmp_path, capsys, monkeypatch):
    """It was told to name another account, and had begun one half."""
    home = prepare_homes(configuration(markets=3), tmp_path / "f").market("m0")
    monkeypatch.delenv(STATE)
    monkeypatch.setenv("HOME", "/proc/nobody")
    status, _, err = fedmm(capsys, "deploy", "market", home, "--for", 20)
    assert status == 2
    assert "XDG_STATE_HOME: nothing can be kept in ~/.local/state" in err
    assert not list((home / "runs").glob("*account*"))
