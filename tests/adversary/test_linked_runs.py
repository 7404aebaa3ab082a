"""Two published ledgers under one account say, exactly, whether any row changed between them.

The first line commits to the rows by an HMAC under the account's key, which is the same for all its runs, and the note
of earlier runs counts those whose (user, item) pairs are the same. A reader who knows that nobody but one user was
active between two runs learns with certainty whether that user was.
"""

import numpy as np

from fedmm_secure.data.market import with_rows
from fedmm_secure.data.prepare import prepare
from fedmm_secure.federation.account import enter_account
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.account import PrivacyAccount
from tests.people import of_people
from tests.released import release_configuration


def without_a_row(prepared, user, config):
    market = prepared.whole.market
    first = np.flatnonzero(market.user == user)[0]
    return prepare(with_rows(market, np.delete(np.arange(market.n_rows), first)), config.data)


def said(account, folder, run, markets, config):
    """What a run's ledger says of market m0 before anything is drawn: its commitment to the rows, its earlier runs."""
    plan = SpendingPlan.of(config, "m0", market_sizes(config, sorted(markets), markets))
    found = enter_account(account, folder, run, plan, markets["m0"], 0)
    return found.data, found.earlier[0].remark


def test_ledgers_of_two_runs_do_not_say_whether_a_user_was_active_between_them(tiny_markets, tmp_path):
    config, account = of_people(release_configuration()), PrivacyAccount(tmp_path / "account")
    monday = said(account, tmp_path / "monday", "a" * 32, tiny_markets, config)
    tuesday = said(account, tmp_path / "tuesday", "b" * 32, tiny_markets, config)
    changed = {**tiny_markets, "m0": without_a_row(tiny_markets["m0"], 7, config)}
    wednesday = said(account, tmp_path / "wednesday", "c" * 32, changed, config)
    assert len(changed["m0"].whole.market.user_ids) == len(tiny_markets["m0"].whole.market.user_ids)
    # whatever a reader computes of both ledgers must not tell "nothing changed" from "one row of user 7 is gone"
    assert (monday[0] == tuesday[0]) == (monday[0] == wednesday[0])
    assert (tuesday[1] == "1") == (wednesday[1] == "1")
