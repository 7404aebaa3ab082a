"""What a run spends on a person who has rows in all markets, where ids are declared to be the same people's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account_entries import planned_spending
from fedmm_secure.federation.parties import Federation
from fedmm_secure.guarantee.multipliers import UNKNOWN
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import decrypted_claims
from fedmm_secure.guarantee.statement import guarantees, stated
from privacy.accounting.groups import NotKnownError, joint_epsilon, joint_spendings


def states_persons(config: Config) -> bool:
    """Whether a run has two units: a user of one market, and a person, who may have rows in all of them."""
    return config.privacy.epsilon is not None and config.data.shared_users == "composed"


@dataclass(frozen=True)
class PersonSpending:
    """What one run spends on a person who has rows in all its markets.

    Attributes:
        markets: how many.
        delta: the largest of a market.
        epsilon: by claimed view; None: unbounded, or not known.
        problem: why it is not known; None where it is.
    """

    markets: int
    delta: float
    epsilon: dict[str, float | None]
    problem: str | None = None


def across_markets(plans: Mapping[str, SpendingPlan]) -> PersonSpending:
    """Of one run alone, by its plans.

    A market of a deployment knows the sizes of all, and with them every market's plan.

    Args:
        plans: of the markets that are here, at least one.
    """
    first = next(iter(plans.values()))
    config, sizes = first.config, first.sizes
    views = decrypted_claims(config)
    unknown: dict[str, float | None] = dict.fromkeys(views)
    if any(size == UNKNOWN for name, size in sizes.items() if name not in plans):
        problem = "the federation's bundle does not state the sizes of its markets"
        return PersonSpending(len(sizes), first.delta, unknown, problem)
    try:
        whole = {name: plans.get(name) or SpendingPlan.of(config, name, sizes) for name in sizes}
        spendings = {name: [planned_spending("", plan)] for name, plan in whole.items()}
        delta = max(plan.delta for plan in whole.values())
        found = {view: joint_epsilon(joint_spendings(spendings, view), delta) for view in views}
    except (ConfigError, NotKnownError) as error:
        return PersonSpending(len(sizes), first.delta, unknown, str(error))
    return PersonSpending(
        len(sizes), delta, {view: None if math.isinf(one) else stated(one) for view, one in found.items()}
    )


def stated_guarantees(federation: Federation, markets: Iterable[str]) -> dict[str, Any]:
    """What metrics state: by market and view, from its ledger, and of a person in all markets where there is one."""
    config = federation.config
    found: dict[str, Any] = {"markets": {name: guarantees(config, federation.entries(name)) for name in markets}}
    return found | ({"across_markets": asdict(across_markets(federation.plans))} if states_persons(config) else {})
