"""What a guarantee claims of a mechanism, and what would be true of it with less noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import dp_accounting
import numpy as np
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent

from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.events import gaussian_steps
from privacy.accounting.losses import COARSE, ROUGH
from privacy.mechanisms.events import dp_sgd_event

LARGEST = 60.0  # ε beyond which none is computed: no guarantee in any sense
_COARSER = 0.1  # of an ε: the grid of the losses that it is composed on grows with it


@dataclass(frozen=True)
class Claim:
    """Privacy events that a mechanism is said to be, at a δ.

    Attributes:
        events: as in the ledger; empty for a claim that nothing is learnt.
        delta: at which ε is quoted.
    """

    events: tuple[DpEvent, ...]
    delta: float

    @cached_property
    def epsilon(self) -> float:
        """ε at δ by privacy loss distributions; ``inf`` if any event is not private."""
        return pld_epsilon(self.events, self.delta) if self.events else 0.0

    @cached_property
    def distance(self) -> float:
        """Standard deviations between "in" and "out" of the Gaussian mechanism that has this ε at this δ."""
        return distance_of(self.epsilon, self.delta)

    def epsilon_at(self, factor: float, *, interval: float = COARSE) -> float:
        """ε at δ if noise over contribution were ``factor`` of what is claimed; ``inf`` above ``LARGEST``.

        An upper bound at any ``interval`` of the losses that it is composed on.
        """
        steps = gaussian_steps(dp_event.ComposedDpEvent(list(self.events)))
        if steps is None:
            return float("inf")
        rough = epsilon_of(self.distance / factor, self.delta)
        if rough > LARGEST:
            return float("inf")
        events = [dp_sgd_event(factor * noise, rate, count) for (noise, rate), count in steps.items()]
        return pld_epsilon(events, self.delta, interval=interval * max(1.0, _COARSER * rough))


@lru_cache(maxsize=64)
def factor_at(claim: Claim, epsilon: float) -> float:
    """The noise over contribution, in what is claimed, at which ε is ``epsilon``: to a hundredth, and no smaller."""
    low, high = 0.5, 1.0
    while claim.epsilon_at(low, interval=ROUGH) < epsilon:
        low, high = 0.5 * low, low
    while high - low > 0.01 * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if claim.epsilon_at(middle, interval=ROUGH) < epsilon else (middle, high)
    return high


def distance_of(epsilon: float, delta: float) -> float:
    """Standard deviations between the outputs of a Gaussian mechanism of this ε at δ; 0 where nothing is learnt."""
    return 1.0 / float(dp_accounting.get_sigma_gaussian(epsilon, delta)) if 0.0 < epsilon < np.inf else epsilon


def epsilon_of(distance: float, delta: float) -> float:
    """ε at δ of a Gaussian mechanism whose outputs are so far apart."""
    return float(dp_accounting.get_epsilon_gaussian(1.0 / distance, delta)) if distance > 0 else 0.0
