"""Integers that are too large for one coefficient travel as several: limbs, each of which sums exactly.

A value is ``Σ_j 2^(bits j) limb_j`` with limbs from 0 below ``2^bits``, but for the last, which has the sign. Limbs add
up as values do, so the sum is read back from the sums of limbs. Those say more than the sum itself: carries between
limbs depend on single values. Under masks these are uniform among all residues of the same sum, so nothing is said of
what is masked; without masks whoever opens a sum learns such carries of exact values, which claim no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privacy.aggregation.base import AggregationError, Binding, Carrier, IntVector


@dataclass(frozen=True)
class LimbCarrier:
    """Carries each of ``length`` values as ``limbs`` integers of ``bits`` bits.

    Attributes:
        inner: carries ``limbs · length`` integers.
        length: values of a vector.
        limbs: integers of a value.
        bits: of each.
    """

    inner: Carrier
    length: int
    limbs: int
    bits: int

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Values in base ``2^bits``, one vector for each digit, carried together."""
        if values.shape != (self.length,):
            raise AggregationError(f"shape {values.shape} where ({self.length},) was expected")
        parts, rest = [], values
        for _ in range(self.limbs - 1):
            parts.append(rest & (2**self.bits - 1))
            rest = rest >> self.bits  # towards minus infinity: what is left is exact
        return self.inner.protect(np.concatenate([*parts, rest]), binding)

    def reveal(self, aggregate: bytes) -> IntVector:
        """Sums of the digits, put together again."""
        sums = self.inner.reveal(aggregate).reshape(self.limbs, self.length)
        return np.asarray(sum(part << self.bits * place for place, part in enumerate(sums)), dtype=np.int64)
