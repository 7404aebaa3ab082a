"""k-ary randomised response: the one way to publish a value that is computed from its owner's row alone.

Warner, JASA 1965; Kairouz, Oh, Viswanath, "Extremal mechanisms for local differential privacy", JMLR 2016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from privacy.arrays import IntArray
from privacy.mechanisms.randomness import NoiseSource

_ROUNDING = 2.0**-50  # more than the rounding of the four operations below, relative
SPARE_VALUE = 0  # what dummy users have


@dataclass(frozen=True)
class RandomisedValues:
    """What randomised response releases.

    Attributes:
        values: ``(n,)``, of the users.
        spare: ``(spare,)``, of dummy users whose value is ``SPARE_VALUE``.
    """

    values: IntArray
    spare: IntArray


def truth_probability(epsilon: float, n_values: int) -> float:
    """Probability that the true value is reported: at most ``e^ε / (e^ε + k - 1)``, and less by a part in 2^50."""
    return (1.0 - _ROUNDING) / (1.0 + (n_values - 1) * math.exp(-epsilon))


def randomise(
    values: IntArray, n_values: int, epsilon: float, noise: NoiseSource, *, spare: int = 0
) -> RandomisedValues:
    """Randomised values ``(n,)`` in ``0 … n_values-1``; each is ε-locally differentially private.

    The coin is true with ``t = floor(p 2^64) / 2^64 <= p <= e^ε / (e^ε + k - 1)``, exactly, and each other value has
    ``u = (1 - t) / (k - 1)``, exactly. A smaller ``t`` costs no ε: any two values' answers have probabilities of the
    ratio ``t/u``, ``u/t`` or 1. ``t/u = (k - 1) t / (1 - t)`` grows with ``t`` and is e^ε at ``e^ε / (e^ε + k - 1)``.
    ``u/t <= e^ε`` because ``t >= (1 - 2^-40) / k`` for ``k <= 2^20``, so ``u/t <= 1 + 2^-38``, below ``e^1e-9``.

    Raises:
        ValueError: a value is out of range, there are fewer than two or more than 2^20, or ε is below 1e-9.
    """
    if not 2 <= n_values <= 2**20 or (len(values) and not (values.min() >= 0 and values.max() < n_values)):
        raise ValueError(f"values must lie in 0 … {n_values - 1}, with 2 to 2^20 of them")
    if not epsilon >= 1e-9:
        raise ValueError(f"randomised response needs an epsilon of 1e-9 at least, not {epsilon}")
    everyone = np.concatenate([values, np.full(spare, SPARE_VALUE, dtype=np.int64)]).astype(np.int64)
    truth = noise.coins(truth_probability(epsilon, n_values), len(everyone))
    shift = 1 + noise.integers(n_values - 1, len(everyone))  # uniform over the other values
    answers = np.where(truth, everyone, (everyone + shift) % n_values)
    return RandomisedValues(answers[: len(values)], answers[len(values) :])
