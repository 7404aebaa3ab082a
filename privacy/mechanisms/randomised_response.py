"""k-ary randomised response: the one way to publish a value that is computed from its owner's row alone.

Warner, JASA 1965; Kairouz, Oh, Viswanath, "Extremal mechanisms for local differential privacy", JMLR 2016.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.mechanisms.noise import NoiseSource


def truth_probability(epsilon: float, n_values: int) -> float:
    """Probability ``e^ε / (e^ε + k - 1)`` that the true value is reported; each other has ``1 / (e^ε + k - 1)``."""
    return 1.0 / (1.0 + (n_values - 1) * math.exp(-epsilon))


def randomise(values: NDArray[np.int64], n_values: int, epsilon: float, noise: NoiseSource) -> NDArray[np.int64]:
    """Randomised values ``(n,)`` in ``0 … n_values-1``; each is ε-locally differentially private.

    Raises:
        ValueError: a value is out of range, or there are fewer than two.
    """
    if n_values < 2 or (len(values) and not (values.min() >= 0 and values.max() < n_values)):
        raise ValueError(f"values must lie in 0 … {n_values - 1}, two at least")
    keep = torch.rand(len(values), generator=noise.generator, dtype=torch.float64).numpy()
    shift = torch.randint(1, n_values, (len(values),), generator=noise.generator).numpy()
    other = (values + shift) % n_values  # uniform over the other values
    return np.where(keep < truth_probability(epsilon, n_values), values, other).astype(np.int64)
