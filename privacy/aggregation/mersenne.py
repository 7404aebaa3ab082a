"""Arithmetic modulo a Mersenne prime, on whole vectors and without rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.aggregation.base import IntVector

_LOW = np.uint64(2**32 - 1)


@dataclass(frozen=True)
class MersennePrime:
    """The prime ``2**exponent - 1``.

    Attributes:
        exponent: 3, 5, 7, 13, 17, 19, 31 or 61.
    """

    exponent: int

    def __post_init__(self) -> None:
        if self.exponent not in (3, 5, 7, 13, 17, 19, 31, 61):
            raise ValueError(f"2^{self.exponent} - 1 is no odd Mersenne prime of at most 61 bits")

    @property
    def value(self) -> int:
        """The prime itself."""
        return int(2**self.exponent - 1)

    def of_words(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Residues of 64-bit words of the same shape."""
        return np.asarray(words % np.uint64(self.value), dtype=np.uint64)

    def of_integers(self, values: IntVector) -> NDArray[np.uint64]:
        """Residues of signed integers of the same shape."""
        return np.remainder(values, np.int64(self.value)).astype(np.uint64)

    def dot(self, left: NDArray[np.uint64], right: NDArray[np.uint64]) -> int:
        """The inner product of two vectors of residues ``(length,)``, exact for fewer than ``2**32`` of them.

        With ``h = (e + 1) / 2`` a factor is ``a 2^h + b``, and ``2^e = 1``, so a product is
        ``2 a a' + (a b' + b a') 2^h + b b'``; the middle one, ``m 2^(e-h) + n``, counts ``m + n 2^h``. For ``e = 61``
        the four summands are below ``2^61``, ``2^32``, ``2^61`` and ``2^62``: no word overflows.
        """
        half = np.uint64((self.exponent + 1) // 2)
        rest = np.uint64(self.exponent) - half
        low, middle_low = np.uint64(2 ** int(half) - 1), np.uint64(2 ** int(rest) - 1)
        a, b, c, d = left >> half, left & low, right >> half, right & low
        middle = a * d + b * c
        products = self.of_words(np.uint64(2) * (a * c) + (middle >> rest) + ((middle & middle_low) << half) + b * d)
        return (int((products >> np.uint64(32)).sum()) * 2**32 + int((products & _LOW).sum())) % self.value
