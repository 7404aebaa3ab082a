"""Which ε can be planned for a market: known before anything is solved, from how many values its releases draw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.multipliers import RESERVE
from privacy.accounting.exactness import discretisation_slack, largest_epsilon

if TYPE_CHECKING:
    from fedmm_secure.guarantee.plan import SpendingPlan

LEAST_EPSILON = 1e-3  # within the solver's range at any δ that a market states
Range = tuple[float, float]


def plannable_epsilon(plan: SpendingPlan) -> Range:
    """The smallest and the largest ε that can be planned, whatever the scale of the noise.

    Below, what discrete noise adds to ε is more than the part of the budget that is kept back for it; it moves δ as
    well, so twice. Above, the sampler is not shown to be exact enough.
    """
    releases = list(plan.at_most().releases())
    slack = discretisation_slack(sum(release.coordinates for release in releases), 1)
    left = plan.delta - sum(release.extra_delta for release in releases)
    return max(LEAST_EPSILON, 2.0 * slack.epsilon / RESERVE), largest_epsilon(left, slack)


def check_epsilon(plan: SpendingPlan) -> None:
    """Refuse what cannot be planned before a solver or a run finds out; raises ``ConfigError``."""
    if plan.epsilon is None:
        return
    least, most = found = plannable_epsilon(plan)
    if not least <= plan.epsilon <= most:
        raise ConfigError(
            f"privacy.epsilon: {plan.epsilon:g} cannot be planned for market {plan.market} of {plan.size.users} users; "
            f"{range_text(found)} can"
        )


def range_text(found: Range) -> str:
    """A range of ε, rounded inwards."""
    least, most = found
    return f"from {math.ceil(least * 1e4) / 1e4:g} to {math.floor(most * 10) / 10:g}"
