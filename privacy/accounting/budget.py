"""One ε for a run, split over its stages by shares; noise multipliers from the composition, never by adding ε's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent

from privacy.accounting.accountants import solve_noise_multiplier
from privacy.mechanisms.events import dp_sgd_event


@dataclass(frozen=True)
class PlannedStage:
    """A stage that will spend a share of the budget.

    Attributes:
        name: stage group, e.g. ``counts``.
        share: its part of the squared Gaussian-DP parameter ``μ²``; the shares of a plan are normalised.
        steps: Gaussian mechanisms it will run over the whole run.
        sampling_rate: Poisson sampling rate of each, 1 for all users.
        given: a noise multiplier that is set elsewhere; the stage then has no share, and others have what it leaves.
    """

    name: str
    share: float
    steps: int = 1
    sampling_rate: float = 1.0
    given: float | None = None

    def noise_multiplier(self, total_mu: float, total_share: float) -> float:
        """Noise at which the stage spends its share of ``total_mu²``.

        Central limit of subsampled Gaussians, ``μ² = q² T (exp(1/σ²) - 1)`` (Bu, Dong, Long, Su, "Deep learning with
        Gaussian differential privacy", 2020); exact is only the composition that ``total_mu`` is solved from.
        """
        if self.given is not None:
            return self.given
        squared = total_mu**2 * self.share / total_share
        if self.sampling_rate >= 1.0:
            return math.sqrt(self.steps / squared)
        return 1.0 / math.sqrt(math.log1p(squared / (self.sampling_rate**2 * self.steps)))

    def single_repetition(self, repetitions: int) -> PlannedStage:
        """The same stage for one of ``repetitions`` equal repetitions."""
        return replace(self, steps=self.steps // repetitions)

    def event(self, noise_multiplier: float) -> DpEvent:
        """All of the stage's mechanisms at a noise multiplier."""
        if self.sampling_rate >= 1.0:
            return dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise_multiplier), self.steps)
        return dp_sgd_event(noise_multiplier, self.sampling_rate, self.steps)


def plan_noise_multipliers(stages: Sequence[PlannedStage], *, epsilon: float, delta: float) -> dict[str, float]:
    """Noise multiplier of each stage so that all of them together meet (``epsilon``, ``delta``).

    Raises:
        ValueError: no noise meets the budget, or a stage has no share.
    """
    if not stages or any(stage.share <= 0 or stage.steps < 1 for stage in stages):
        raise ValueError("every planned stage needs a positive share and at least one step")

    def multipliers(scale: float) -> dict[str, float]:
        total = sum(stage.share for stage in stages if stage.given is None)
        return {stage.name: stage.noise_multiplier(1.0 / scale, total) for stage in stages}

    def event(scale: float) -> DpEvent:
        found = multipliers(scale)
        return dp_event.ComposedDpEvent([stage.event(found[stage.name]) for stage in stages])

    return multipliers(solve_noise_multiplier(event, epsilon=epsilon, delta=delta))
