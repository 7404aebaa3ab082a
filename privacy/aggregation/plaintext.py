"""No protection: the baseline of research runs. The server reads every market's update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy.aggregation.base import AggregationError, Binding, IntVector

WIRE_TYPE = np.dtype("<i8")


def read_plaintext(payload: bytes, length: int) -> IntVector:
    """Integers ``(length,)`` of a plaintext payload."""
    if len(payload) != length * WIRE_TYPE.itemsize:
        raise AggregationError(f"{len(payload)} bytes where {length * WIRE_TYPE.itemsize} were expected")
    return np.frombuffer(payload, dtype=WIRE_TYPE).astype(np.int64)


@dataclass(frozen=True)
class PlaintextMarket:
    """Sends little-endian 64-bit integers."""

    length: int

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """The values as they are, 8 bytes each."""
        if values.shape != (self.length,):
            raise AggregationError(f"shape {values.shape} where ({self.length},) was expected")
        return values.astype(WIRE_TYPE).tobytes()

    def reveal(self, aggregate: bytes) -> IntVector:
        """The sum as it is."""
        return read_plaintext(aggregate, self.length)


@dataclass(frozen=True)
class PlaintextServer:
    """Adds what it reads, and can see what encryption hides: values and norms out of range.

    Attributes:
        length: values of a vector.
        value_bound: largest absolute value that an honest market sends.
        norm_bound: largest Euclidean norm that it sends, before rounding to integers.
        tag_values: the last of the values, which hold a tag and count in no norm.
    """

    length: int
    value_bound: int
    norm_bound: float | None = None
    tag_values: int = 0

    @property
    def update_bytes(self) -> int:
        """8 bytes a value."""
        return self.length * WIRE_TYPE.itemsize

    @property
    def aggregate_bytes(self) -> int:
        """As many as an update has."""
        return self.update_bytes

    def check(self, payload: bytes) -> None:
        """Raises ``AggregationError`` for a value, or a norm, beyond its bound."""
        values = read_plaintext(payload, self.length)
        if values.min(initial=0) < -self.value_bound or values.max(initial=0) > self.value_bound:
            raise AggregationError(f"a value is outside ±{self.value_bound}")
        if self.norm_bound is not None:
            own = values[: self.length - self.tag_values]
            norm, rounding = float(np.linalg.norm(own)), 0.5 * len(own) ** 0.5
            if norm > self.norm_bound + rounding:
                raise AggregationError(f"a norm of {norm:.6g} is above {self.norm_bound:.6g}")

    def check_sum(self, aggregate: bytes, summands: int) -> None:
        """Raises ``AggregationError`` for a value beyond what so many markets may send."""
        bound = summands * self.value_bound
        if np.abs(read_plaintext(aggregate, self.length)).max(initial=0) > bound:
            raise AggregationError(f"a value is outside ±{bound}")

    def aggregate(self, payloads: Sequence[bytes]) -> bytes:
        """The sum in the clear; raises ``AggregationError`` where there is nothing to add, or a bad payload."""
        if not payloads:
            raise AggregationError("nothing to aggregate")
        total = np.sum([read_plaintext(payload, self.length) for payload in payloads], axis=0)
        return bytes(total.astype(WIRE_TYPE).tobytes())
