"""What accounts will say of a run, before it enters any and spends anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.account import SoFar, kept_state, known_runs
from fedmm_secure.federation.account_entries import market_spending, row_pairs
from fedmm_secure.federation.parties import begun_plan, market_sizes, run_id
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import decrypted_claims
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.ceilings import refuse_above
from privacy.accounting.events import gaussian_steps
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.ledger import read_ledger
from privacy.accounting.spendings import RunState


@dataclass(frozen=True)
class Outlook:
    """What a market's account will say of a run once it is over, by what it says before.

    Attributes:
        earlier: other runs on the same data.
        without_bound: those among them without a budget for a view that is claimed to have one, or with other users.
        epsilon: of all of them and the run, the claimed view that learns most; None where nothing bounds it.
    """

    earlier: int
    without_bound: int
    epsilon: float | None


def look_ahead(
    config: Config, markets: Mapping[str, PreparedMarket], directory: Path, account: PrivacyAccount | PublicData
) -> dict[str, Outlook]:
    """By market, what its account will say of a run that is about to begin or to go on; enters nothing.

    Empty where the rows are nobody's.

    Raises:
        AccountError: the account cannot be read.
        CeilingError: a market's account would not let the run in; so none is asked to.
        ConfigError: no noise meets the budget.
        LedgerError: the run was begun with another configuration.
    """
    if isinstance(account, PublicData):
        return {}
    layout, found = RunDirectory(directory), {}
    sizes, run = market_sizes(config, sorted(markets), markets), run_id(layout.state)
    for name, prepared in markets.items():
        path = layout.ledger(name)
        begun = read_ledger(path) if path.is_file() else None
        plan = begun_plan(config, name, sizes, begun)
        progress = SoFar() if begun is None else SoFar.at(len(begun.kinds), begun.charges, begun.seals)
        found[name] = foresee(account, run, plan, prepared, kept_state(directory, name, progress, config.device))
    return found


def foresee(
    account: PrivacyAccount, run: str, plan: SpendingPlan, prepared: PreparedMarket, state: RunState
) -> Outlook:
    """What the account will say of a run in a state, that is about to begin or to go on; enters nothing.

    Raises:
        CeilingError: it is a course that begins, and would not be entered.
    """
    market = prepared.whole.market
    own = market_spending(run, plan, market)
    rows = row_pairs(market)
    spent = known_runs(account, rows, market.name)
    course, others = account.going_on(rows, own, state, market=market.name), list(spent)
    if course is None:
        refuse_above(account.path, market.name, own, spent)
    elif course in others:  # of a line of an earlier version, which is found by its rows alone, it need not be
        others.remove(course)
    earlier = [one.to_user_of(own.users) for one in others]
    claimed = decrypted_claims(plan.config)
    unbounded = [one for one in earlier if any(gaussian_steps(one.observed(view)) is None for view in claimed)]
    if unbounded or plan.epsilon is None:
        return Outlook(len(earlier), len(unbounded), None)
    totals = [several_runs_epsilon([own, *earlier], view, plan.delta) for view in claimed]
    return Outlook(len(earlier), 0, None if math.isinf(max(totals)) else max(totals))
