"""A monthly export: its file has the month in its name, so ``fedmm init`` names the market by it, and new rows."""

from pathlib import Path

from experiments.first_run.configuration import market_names
from privacy.accounting.account import PrivacyAccount, RunState
from privacy.accounting.spendings import Spending


def test_last_month_s_runs_count_when_name_and_rows_have_changed(tmp_path):
    account, found = PrivacyAccount(tmp_path / "account"), []
    rows = [f"user {number % 500} item {number}".encode() for number in range(5000)]
    for month in (8, 9, 10):
        rows = [*rows, f"user 1 item of {month}".encode()]
        (market,) = market_names([Path(f"exports/shop-2026-{month:02}.csv")])
        started = account.start(account.fingerprint(rows), Spending(market, {}), RunState(market), market=market)
        found.append(len(started.earlier))
    assert found == [0, 1, 2]
