"""What a guarantee claims, as the curve that no attack may rise above."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from dp_accounting import dp_event, pld
from dp_accounting.dp_event import DpEvent
from numpy.typing import NDArray
from scipy import optimize, stats

from privacy.accounting.accountants import COARSE, pld_epsilon
from privacy.accounting.events import gaussian_steps

_EPSILONS = np.concatenate([np.linspace(0.0, 4.0, 161), np.linspace(4.1, 12.0, 80), np.linspace(12.5, 40.0, 56)])
_RATIOS, _INVERSE_RATIOS = np.exp(_EPSILONS), np.exp(-_EPSILONS)


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

    def largest_tpr(self, fpr: float) -> float:
        """The most true positives that any test of membership can have at a false-positive rate.

        The trade-off function of the composed events (Dong, Roth, Su, JRSS-B 2022): the least over ε of what
        ``(ε, δ(ε))`` admits, in both directions of add-or-remove-one (Kairouz et al., ICML 2015). δ(ε) by privacy loss
        distributions errs upwards, so no test can exceed it.
        """
        deltas = self._profile
        forwards = _RATIOS * fpr + deltas
        backwards = 1.0 - _INVERSE_RATIOS * (1.0 - deltas - fpr)
        return float(min(1.0, forwards.min(), backwards.min()))

    @property
    def distance(self) -> float:
        """How many standard deviations apart the best test sees "in" and "out", as if both were Gaussian."""
        return float(2.0 * stats.norm.ppf(min(self.largest_tpr(self._balanced), 1.0 - 1e-9)))

    @cached_property
    def _balanced(self) -> float:
        """The false-positive rate at which the best test errs equally often both ways."""
        return float(optimize.brentq(lambda fpr: 1.0 - self.largest_tpr(fpr) - fpr, 0.0, 0.5))

    @cached_property
    def _profile(self) -> NDArray[np.float64]:
        """δ(ε) at each of the fixed ε, ``(n,)``."""
        if not self.events:
            return np.zeros(len(_EPSILONS))
        steps = gaussian_steps(dp_event.ComposedDpEvent(list(self.events)))
        if steps is None:
            return np.ones(len(_EPSILONS))
        accountant = pld.PLDAccountant(value_discretization_interval=COARSE)
        for (noise_multiplier, rate), count in sorted(steps.items()):
            step: DpEvent = dp_event.GaussianDpEvent(noise_multiplier)
            if rate < 1.0:
                step = dp_event.PoissonSampledDpEvent(rate, step)
            accountant.compose(step, count)
        return np.array([float(accountant.get_delta(epsilon)) for epsilon in _EPSILONS])


def gaussian_tpr(mu: float, fpr: float) -> float:
    """True positives of the best test between ``N(0, 1)`` and ``N(μ, 1)``."""
    return float(stats.norm.cdf(mu + stats.norm.ppf(fpr)))
