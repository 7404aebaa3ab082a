"""Poisson samples: each member of a population by a coin of its own, tossed anew for every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy.arrays import IntArray
from privacy.mechanisms.randomness import NoiseSource


@dataclass(frozen=True)
class PoissonSampler:
    """One rate for all members, whosever coins are theirs.

    Attributes:
        rate: probability with which each enters a sample.
        coins: sources of coins, and how many members toss each; members are numbered in this order.
    """

    rate: float
    coins: Sequence[tuple[NoiseSource, int]]

    def draw(self) -> IntArray:
        """Positions ``(n,)`` of one sample, ascending."""
        tossed = [source.coins(self.rate, count) for source, count in self.coins]
        return np.flatnonzero(np.concatenate(tossed))
