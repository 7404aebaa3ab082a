"""The discrete Gaussian law at one fixed scale, to within 2^-109 of statistical distance a draw.

``P(k) ∝ exp(-k² / 2S²)`` on the integers (Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy",
NeurIPS 2020). The scale is the same for every mechanism: a mechanism chooses its *grid*, so that noise of this scale in
grid units is the noise that it needs. One table then serves all, and is built once.

**A base draw** has scale ``BASE = 1024`` and comes from an alias table (Walker, 1977; Vose, 1991) over -16·BASE …
16·BASE-1, whose weights are integers that add up to 2^128. Distance from the exact law: the tail that is cut off has
less than 2·exp(-16²/2) < 2^-183, rounding weights to multiples of 2^-128 costs at most 2^15 · 2^-129 = 2^-114.

**Levels.** ``X = K·Y + Z`` with ``Y`` of scale S and ``Z`` a base draw has the scale ``S' = sqrt(K²S² + BASE²)``:
``P(X = x) ∝ Σ_y exp(-y²/2S² - (x - Ky)²/2BASE²) = exp(-x²/2S'²) · Σ_y exp(-(y - c_x)²/2t²)`` with
``t = S·BASE/S' >= BASE / sqrt(K² + 1) > 3.99``. By Poisson summation the last sum is ``t·sqrt(2π)·(1 + r)`` with
``|r| <= 2 Σ_{m>=1} exp(-2π²t²m²) < 2^-450`` whatever ``c_x`` is. So the law is that of scale S' pointwise to 2^-449
(Micciancio, Walter, "Gaussian sampling over the integers", CRYPTO 2017, use the same step). A draw of three levels is
within 3·2^-113.9 < 2^-112 of exact; ``DISTANCE`` claims less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from privacy.arrays import IntArray, Words

BASE = 1024
FACTOR = 256
DISTANCE = 2.0**-109  # statistical distance of one draw from the exact law, at most, up to three levels
MOST_LEVELS = 3
_HALF = 16 * BASE
_SLOTS = 2 * _HALF
_SLOT_BITS = _SLOTS.bit_length() - 1
_FRACTION_BITS = 64 - _SLOT_BITS  # of the first word, compared with the first part of a threshold
_PRECISION = 320  # bits of the fixed-point arithmetic that makes the table


def scale(levels: int) -> float:
    """Standard deviation of a draw, in grid units: ``BASE · sqrt(1 + K² + … )``, one term a level."""
    return float(BASE * math.sqrt(sum(FACTOR ** (2 * level) for level in range(levels))))


def most_drawn(levels: int) -> int:
    """Largest magnitude that a draw can have."""
    return int(_HALF * sum(FACTOR**level for level in range(levels)))


def combine(levels: Sequence[IntArray]) -> IntArray:
    """One draw from a base draw a level ``(count,)``, coarsest first."""
    if not 1 <= len(levels) <= MOST_LEVELS:
        raise ValueError(f"{len(levels)} levels where 1 to {MOST_LEVELS} are proven")
    total = levels[0]
    for finer in levels[1:]:
        total = FACTOR * total + finer
    return total


@dataclass(frozen=True)
class AliasTable:
    """A law on ``_SLOTS`` integers, drawn from by one table look-up and one comparison.

    Attributes:
        first: ``(slots,)``, upper bits of the threshold below which a slot keeps its own value.
        second: ``(slots,)``, its lower 64 bits; read only where the upper ones are equal, once in 2^49 draws.
        alias: ``(slots,)``, the value otherwise.
    """

    first: Words
    second: Words
    alias: IntArray

    def draw(self, words: Callable[[int], Words], count: int) -> IntArray:
        """Values ``(count,)`` from uniform words."""
        drawn = words(count)
        slot = (drawn >> np.uint64(_FRACTION_BITS)).astype(np.intp)
        fraction = drawn & np.uint64(2**_FRACTION_BITS - 1)
        threshold = self.first[slot]
        own = fraction < threshold
        tie = np.flatnonzero(fraction == threshold)
        if tie.size:
            own[tie] = words(tie.size) < self.second[slot[tie]]
        return np.where(own, slot - _HALF, self.alias[slot]).astype(np.int64, copy=False)


@cache
def alias_table() -> AliasTable:
    """The table of a base draw."""
    full = 2 ** (_FRACTION_BITS + 64)  # weight of a slot, of 2^128 in all
    weight = _weights(_SLOTS * full)
    threshold, alias = [full] * _SLOTS, list(range(_SLOTS))
    small = [slot for slot in range(_SLOTS) if weight[slot] < full]
    large = [slot for slot in range(_SLOTS) if weight[slot] > full]
    while small:
        poor, rich = small.pop(), large[-1]
        threshold[poor], alias[poor] = weight[poor], rich
        weight[rich] -= full - weight[poor]
        if weight[rich] <= full:
            large.pop()
            if weight[rich] < full:
                small.append(rich)
    low = 2**64 - 1
    return AliasTable(
        np.array([value >> 64 for value in threshold], np.uint64),
        np.array([value & low for value in threshold], np.uint64),
        np.array(alias, np.int64) - _HALF,
    )


def _weights(total: int) -> list[int]:
    """``total · P(k)`` for k = -_HALF … _HALF-1, rounded to integers that add up to ``total``.

    In fixed point, ``exp(-(k+1)²/2S²) = exp(-k²/2S²) · q_k`` with ``q_{k+1} = q_k · exp(-1/S²)``: each product is
    truncated by less than 2^-320, so every value is within 2^-300 of exact.
    """
    one = 1 << _PRECISION
    ratio, shrink = _exponential(2 * BASE * BASE), _exponential(BASE * BASE)
    values = [one]
    for _ in range(_HALF):
        values.append(values[-1] * ratio >> _PRECISION)
        ratio = ratio * shrink >> _PRECISION
    both = [values[abs(k)] for k in range(-_HALF, _HALF)]
    mass = sum(both)
    rounded = [(2 * value * total + mass) // (2 * mass) for value in both]
    rounded[_HALF] += total - sum(rounded)  # at zero, where it is least in proportion: at most 2^14 of 2^118
    return rounded


def _exponential(divisor: int) -> int:
    """``exp(-1/divisor)`` in fixed point, by its series."""
    total = term = 1 << _PRECISION
    n = 1
    while term:
        term //= n * divisor
        total += -term if n % 2 else term
        n += 1
    return total
