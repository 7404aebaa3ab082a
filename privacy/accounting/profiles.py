"""Privacy profiles: the least δ that holds at each ε (Balle, Barthe, Gaboardi, NeurIPS 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountants import group_pld_deltas
from privacy.accounting.exactness import discretisation_slack
from privacy.accounting.losses import SeveralTimes

_LARGEST = 700.0  # e^ε leaves double precision


@dataclass(frozen=True)
class PrivacyProfile:
    """Pairs (ε, δ) that hold together, in both directions of add-or-remove-one.

    Attributes:
        epsilons: ``(n,)``, ascending; none where nothing is said.
        deltas: ``(n,)``, upper bounds; some may be above 1, and later ones above earlier ones, which then hold there.
    """

    epsilons: NDArray[np.float64]
    deltas: NDArray[np.float64]


def drawn_profile(
    steps: SeveralTimes, coordinates: int, epsilons: NDArray[np.float64], *, interval: float | None = None
) -> PrivacyProfile:
    """The profile of steps whose noise is discrete.

    δ at each ε by privacy loss distributions of the continuous noise. What the discrete law and the sampler may add
    comes on top, as in ``privacy.accounting.exactness``: for slack of ``a + b``, tail τ and distance η, ε becomes
    ``ε + a + b`` and δ ``e^(a + b) (δ + e^ε τ) + (1 + e^(ε + a + b)) η``. It is left out where that ε is 700 or more.

    Args:
        steps: how often each is run.
        coordinates: values of noise that are drawn in all, at most.
        epsilons: of the continuous noise ``(n,)``, ascending, none below 0.
        interval: grid of the losses; None for what fits the steps.
    """
    slack = discretisation_slack(coordinates, 1)
    epsilons = epsilons[epsilons + slack.epsilon < _LARGEST]
    if not epsilons.size:
        return PrivacyProfile(epsilons, epsilons)
    total = epsilons + slack.epsilon
    continuous = group_pld_deltas(steps, epsilons, interval=interval)
    deltas: NDArray[np.float64] = (
        math.exp(slack.epsilon) * (continuous + np.exp(epsilons) * slack.tail) + (1.0 + np.exp(total)) * slack.distance
    )
    return PrivacyProfile(total, deltas)
