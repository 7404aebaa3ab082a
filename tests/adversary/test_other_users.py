"""Runs on one market whose users are told apart by different columns: sessions in one, people in the other.

A run by sessions bounds what one session adds. A person has many of them, so that plain composition with a run by
people was a number for nobody; the other way round, a session is a part of a person, whose rows change and do not go.
"""

import csv
from dataclasses import replace
from unittest import mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure import load_market
from fedmm_secure.data.prepare import prepare, prepare_markets
from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.account_entries import market_spending
from fedmm_secure.federation.foresight import look_ahead
from fedmm_secure.federation.parties import open_federation
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.guarantees import guarantee_with_earlier_runs, view_guarantee
from privacy.accounting.losses import COARSE
from privacy.accounting.spendings import Spending
from tests.conftest import tiny

USERS, SESSIONS, ROWS, ITEMS = 15, 6, 6, 40  # sessions of a person, rows of a session
VIEW = "collusion"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Three files; each row is of a session and of the person whose it is, under two pairs of headers."""
    folder = tmp_path_factory.mktemp("rows")
    for market in range(3):
        with (folder / f"m{market}.csv").open("w", newline="") as file:
            write = csv.writer(file).writerow
            write(["person", "session", "item", "rating", "time"])
            for session in range(USERS * SESSIONS):
                for row in range(ROWS):
                    item = (session * ROWS + row) % ITEMS
                    write([f"{market}-{session % USERS}", f"{market}-{session}", f"i{item}", 5, row])
    return folder


@pytest.fixture
def run(rows, tmp_path):
    """Begin a run whose users are a column of the files: its federation, what was foreseen of it, and its markets."""

    def begun(name, column):
        files = {f"m{number}": {"path": f"m{number}.csv", "user": column, "item": "item"} for number in range(3)}
        files = {market: file | {"rating": "rating", "time": "time"} for market, file in files.items()}
        data = {"root": str(rows), "markets": files, "synthetic": None}
        config = tiny(data=data, privacy={"epsilon": 8.0}, ctr={"features": ["scores"]})
        markets, directory = prepare_markets(config.data), tmp_path / name
        account = account_of(config, directory)
        ahead = look_ahead(config, markets, directory, account)["m0"]
        return open_federation(config, markets, directory, account=account), ahead

    return begun


def stated(federation):
    """ε with earlier runs, once all of the run's own counts are charged."""
    door, plan = federation.doors["m0"], federation.plans["m0"]
    if not door.ledger.charges:
        for release in plan.releases():
            if release.draws:
                door.begin(release)
    return guarantee_with_earlier_runs(door.ledger.entries, VIEW).epsilon


@pytest.mark.parametrize("columns", [("session", "person"), ("person", "session")])
def test_users_of_another_column_are_others(run, columns):
    for name, column in zip("ab", columns, strict=True):
        federation, ahead = run(name, column)
    assert (ahead.earlier, ahead.without_bound, ahead.epsilon) == (1, 1, None)
    assert stated(federation) is None
    spent = spent_on_same_data(federation.account, federation.directory, "m0")
    assert [bool(one.events) for one in spent] == [False, True]


def test_what_was_stated_of_a_person_with_many_sessions(run):
    """The attack: a finite ε, below what the counts of the first run alone say of all sessions of one person."""
    with mock.patch.object(Spending, "to_user_of", lambda self, users: self):
        first, _ = run("a", "session")
        second, ahead = run("b", "person")
        assert (ahead.without_bound, stated(second) < 20) == (0, True)
    alone = GaussianDpEvent(first.plans["m0"].noise["counts"] / SESSIONS)
    assert pld_epsilon([alone], second.plans["m0"].delta, interval=COARSE) > 2 * 20


def test_users_of_the_same_column_add_up(run):
    run("a", "person")
    federation, ahead = run("b", "person")
    assert (ahead.earlier, ahead.without_bound) == (1, 0)
    own = view_guarantee(federation.doors["m0"].ledger.entries, VIEW).epsilon
    assert 8 < stated(federation) < 20
    assert own is not None


def test_a_market_that_is_loaded_by_hand_knows_its_users(rows, run):
    """``load_market`` names a column, and ``FedMM.fit`` has no file: each such run was entered with the default's."""
    federation, _ = run("a", "person")
    plan, columns = federation.plans["m0"], {"item": "item", "rating": "rating", "time": "time"}
    for column in ("person", "session"):
        market = load_market(rows / "m0.csv", user=column, **columns)
        prepared = prepare(market, plan.config.data)
        assert market_spending("b", plan, prepared.whole.market).users == column
    assert market_spending("b", plan, replace(market, users=None)).users is None  # of rows in memory
