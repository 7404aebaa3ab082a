"""Public integer grids: what is summed is cut to integers before, so that sums and their sensitivity are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from privacy.arrays import IntArray
from privacy.mechanisms.discrete_gaussian import most_drawn, scale
from privacy.mechanisms.randomness import LEVELS

# A vector of norm N in double precision, computed and cut, has a norm of at most N (1 + 1e-13); shrunk by this it is
# below N strictly, so its integers meet the bound.
SHRINK = 1.0 - 1e-12
Number = TypeVar("Number", np.float64, np.int64)


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

    def most(self, users: int) -> float:
        """The largest magnitude, in grid units, of an entry of a noised sum over so many users."""
        return users * math.sqrt(self.squared_bound) + most_drawn(self.levels)

    def of_products(self) -> Grid:
        """The grid of vectors whose products ``z zᵀ`` lie on this one: ``‖z zᵀ‖_F = ‖z‖²`` is then within its bound."""
        return Grid(math.sqrt(self.step), math.isqrt(self.squared_bound), self.levels)

    def cut(self, values: NDArray[np.floating]) -> IntArray:
        """Integers of the same shape, each towards zero: a cut vector is never longer than the vector.

        What is not a number, or beyond any bound, becomes 0.
        """
        units = np.trunc(np.asarray(values, np.float64) * (SHRINK / self.step))
        return np.where(np.abs(units) < 2.0**31, units, 0.0).astype(np.int64)

    def fits(self, integers: sparse.csr_array) -> NDArray[np.bool_]:
        """Which rows ``(n,)`` of integers below 2^31 have a squared norm within the bound: each by itself.

        In double precision first: a row that passes has a sum of squares below 2^63, so that of integers is exact.
        """
        if not integers.has_canonical_format:  # an item's parts are one coordinate
            integers = integers.copy()
            integers.sum_duplicates()
        squares = np.square(integers.data)
        rough = sums_of_rows(squares.astype(np.float64), integers.indptr)
        exact = sums_of_rows(squares, integers.indptr)
        return np.asarray((rough < 1.5 * self.squared_bound + 1.0) & (exact <= self.squared_bound))

    def real(self, integers: IntArray) -> NDArray[np.float64]:
        """Real values of sums; post-processing."""
        return np.asarray(integers * self.step, dtype=np.float64)


def sums_of_rows(values: NDArray[Number], indptr: NDArray[np.integer]) -> NDArray[Number]:
    """Sums ``(n,)`` of the values of each sparse row, whose ends are ``indptr`` ``(n + 1,)``; 0 for an empty row."""
    found = np.zeros(len(indptr) - 1, dtype=values.dtype)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        found[filled] = np.add.reduceat(values, indptr[filled])
    return found
