"""Public integer grids: what is summed is cut to integers before, so that sums and their sensitivity are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.randomness import LEVELS, IntArray

# A vector of norm N in double precision, computed and cut, has a norm of at most N (1 + 1e-13); shrunk by this it is
# below N strictly, so its integers meet the bound.
SHRINK = 1.0 - 1e-12


@dataclass(frozen=True)
class Grid:
    """Multiples of ``step``: noise of the sampler's one scale, in grid units, is the noise that a mechanism needs.

    Attributes:
        step: size of a grid unit, in the units of what is summed; public.
        squared_bound: largest squared Euclidean norm of one privacy unit's integers: an integer, so it is checked
            exactly.
        levels: of the sampler.
    """

    step: float
    squared_bound: int
    levels: int = LEVELS

    @classmethod
    def of(cls, noise_multiplier: float, sensitivity: float = 1.0, *, levels: int = LEVELS) -> Grid:
        """The grid on which noise of standard deviation ``noise_multiplier · sensitivity`` has the sampler's scale.

        Raises:
            ValueError: noise or sensitivity is not positive, or so small that integers would leave 62 bits.
        """
        if not (noise_multiplier > 0 and sensitivity > 0):
            raise ValueError(f"a grid needs noise and sensitivity, not {noise_multiplier} and {sensitivity}")
        bound = (scale(levels) / noise_multiplier) ** 2
        if bound >= 2.0**62:
            raise ValueError(f"a noise multiplier of {noise_multiplier} is too small for a grid of {levels} levels")
        return cls(noise_multiplier * sensitivity / scale(levels), math.floor(bound), levels)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the largest norm, both in grid units: at least what was asked for."""
        return scale(self.levels) / math.sqrt(self.squared_bound) if self.squared_bound else math.inf

    def cut(self, values: NDArray[np.floating]) -> IntArray:
        """Integers of the same shape, each towards zero: a cut vector is never longer than the vector."""
        return np.trunc(np.asarray(values, np.float64) * (SHRINK / self.step)).astype(np.int64)

    def real(self, integers: IntArray) -> NDArray[np.float64]:
        """Real values of sums; post-processing."""
        return np.asarray(integers * self.step, dtype=np.float64)
