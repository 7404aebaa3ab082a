"""Fixed-point integers: sums of them are exact, whichever aggregator carries them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.aggregation.base import AggregationError, IntVector


@dataclass(frozen=True)
class FixedPointCodec:
    """Clip to ``[-clip, clip]``, scale so that ``clip`` becomes ``2**bits``, round to nearest.

    The rounding error of one value is at most ``clip / 2**(bits + 1)``. Applied after the noise, so it is
    post-processing and changes no guarantee.
    """

    clip: float = 4.0
    bits: int = 20

    @property
    def scale(self) -> float:
        """Units of one."""
        return float(2**self.bits) / self.clip

    def encode(self, values: NDArray[np.floating]) -> IntVector:
        """Integers of the same shape.

        Raises:
            AggregationError: a value is NaN or infinite.
        """
        wide = np.asarray(values, dtype=np.float64)
        if not np.isfinite(wide).all():
            raise AggregationError(f"{int((~np.isfinite(wide)).sum())} of {wide.size} values are not finite")
        return np.rint(np.clip(wide, -self.clip, self.clip) * self.scale).astype(np.int64)

    def decode(self, values: IntVector) -> NDArray[np.float64]:
        """Real values of integers, or of a sum of encoded integers."""
        return np.asarray(values / self.scale, dtype=np.float64)
