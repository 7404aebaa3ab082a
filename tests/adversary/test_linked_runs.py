"""Two published ledgers under one account said, exactly, whether any row changed between them.

The first line committed to the rows by an HMAC under the account's key, which was the same for all its runs, and the
note of earlier runs counted those with the same (user, item) pairs. A reader who knows that nobody but one user was
active between two runs learned with certainty whether that user was.
"""

import numpy as np

from fedmm_secure.data.market import with_rows
from fedmm_secure.data.prepare import prepare
from fedmm_secure.federation.account import SoFar, enter_account
from fedmm_secure.federation.account_entries import row_pairs
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.spendings import RunState, Spending
from tests.people import of_people
from tests.released import release_configuration


def without_a_row(prepared, user, config):
    market = prepared.whole.market
    first = np.flatnonzero(market.user == user)[0]
    return prepare(with_rows(market, np.delete(np.arange(market.n_rows), first)), config.data)


def by_rows(account, prepared):
    """Earlier runs as they were found: those on exactly these (user, item) pairs, whatever the market is called."""
    bodies = [body for _, body in account._file.bodies(account._file.key())[0]] if account.path.exists() else []
    wanted = account.fingerprint(row_pairs(prepared.whole.market))
    return sum("events" in body and body["fingerprint"] == wanted for body in bodies)


def said(account, folder, run, markets, config):
    """What a run's ledger says of market m0 before anything is drawn: its commitment to the rows, its earlier runs."""
    plan = SpendingPlan.of(config, "m0", market_sizes(config, sorted(markets), markets))
    found = enter_account(account, folder, run, plan, markets["m0"], SoFar())
    return found.data, found.earlier[0].remark


def as_it_was(account, prepared):
    """The commitment to all rows, under the account's own key."""
    market = prepared.whole.market
    rows = [
        f"{user} {item} {when}".encode() for user, item, when in zip(market.user, market.item, market.time, strict=True)
    ]
    return account.fingerprint(rows, ordered=True)


def test_ledgers_of_two_runs_do_not_say_whether_a_user_was_active_between_them(tiny_markets, tmp_path):
    config, account = of_people(release_configuration()), PrivacyAccount(tmp_path / "account")
    changed = {**tiny_markets, "m0": without_a_row(tiny_markets["m0"], 7, config)}
    assert len(changed["m0"].whole.market.user_ids) == len(tiny_markets["m0"].whole.market.user_ids)
    days = {"monday": tiny_markets, "tuesday": tiny_markets, "wednesday": changed, "thursday": changed}
    old, found = [], []
    for day, markets in days.items():
        old.append((as_it_was(account, markets["m0"]), by_rows(account, markets["m0"])))
        found.append(said(account, tmp_path / day, day * 4, markets, config))
    # the attack works on what was said: nothing changed on tuesday, something did on wednesday
    assert old[1][0] == old[0][0] != old[2][0]
    assert [count for _, count in old] == [0, 1, 0, 1]
    # now every ledger has another commitment, and counts the runs of the market, whatever its rows were
    assert len({data for data, _ in found}) == 4
    assert [count for _, count in found] == ["0", "1", "2", "3"]


def test_a_renamed_market_is_the_same_data(tiny_markets, tmp_path):
    """Names alone would let a market begin anew under another one: the same rows lead to all runs on them."""
    account = PrivacyAccount(tmp_path / "account")
    rows = row_pairs(tiny_markets["m0"].whole.market)
    for run, market, read in (
        ("a", "m0", rows),
        ("b", "m0", rows[1:]),
        ("c", "renamed", rows[1:]),
        ("d", "m9", [b"x"]),
    ):
        account.start(account.fingerprint(read), Spending(run, {}), RunState(run), market=market)
    for read, market in ((rows, "m0"), ([b"new"], "m0"), ([b"new"], "renamed"), (rows[1:], "yet another")):
        assert [one.run for one in account.spent_on(read, market)] == ["a", "b", "c"]
    assert [one.run for one in account.spent_on([b"new"], "m9")] == ["d"]
    assert account.spent_on([b"new"], "new") == []
    assert [one.run for one in account.spendings_of("c", "renamed")] == ["a", "b", "c"]


def test_where_two_names_are_of_one_market_its_ledger_says_whether_their_rows_are_the_same(tiny_markets, tmp_path):
    """What stays possible: a run under another name is found by its rows, for its ε to count; so one row shows."""
    config = of_people(release_configuration())
    counted = []
    for name, user in (("as-it-was", None), ("without", 7)):
        account = PrivacyAccount(tmp_path / name / "account")
        rows = row_pairs(tiny_markets["m0"].whole.market)
        account.start(account.fingerprint(rows), Spending("a", {}), RunState("a"), market="of-another-name")
        other = tiny_markets["m0"] if user is None else without_a_row(tiny_markets["m0"], user, config)
        counted.append(said(account, tmp_path / name, "b" * 4, {**tiny_markets, "m0": other}, config)[1])
    assert counted == ["1", "0"]
