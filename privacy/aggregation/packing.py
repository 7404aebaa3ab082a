"""Words of a few bits in whole bytes, and small integers in one coefficient."""

from __future__ import annotations

import numpy as np

from privacy.aggregation.base import AggregationError, IntVector
from privacy.aggregation.parameters import CKKSParameters, packed_size
from privacy.arrays import Words


def pack_words(words: Words, bits: int) -> bytes:
    """Words ``(count,)`` below ``2**bits``, most significant bit first, without gaps."""
    as_bytes = words.astype(">u8").view(np.uint8).reshape(-1, 8)
    if bits % 8 == 0:  # ten times faster
        return as_bytes[:, 8 - bits // 8 :].tobytes()
    as_bits = np.unpackbits(as_bytes, axis=1)
    return np.packbits(as_bits[:, 64 - bits :].ravel()).tobytes()


def unpack_words(data: bytes, count: int, bits: int) -> Words:
    """The inverse; one byte string for each word vector.

    Raises:
        AggregationError: another size, or bits set behind the last word.
    """
    if len(data) != packed_size(count, bits):
        raise AggregationError(f"{len(data)} bytes where {packed_size(count, bits)} were expected")
    if bits % 8 == 0:
        as_bytes = np.zeros((count, 8), np.uint8)
        as_bytes[:, 8 - bits // 8 :] = np.frombuffer(data, np.uint8).reshape(count, bits // 8)
        return as_bytes.view(">u8").ravel().astype(np.uint64)
    as_bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if as_bits[count * bits :].any():
        raise AggregationError("bits set behind the last word")
    padded = np.zeros((count, 64), np.uint8)
    padded[:, 64 - bits :] = as_bits[: count * bits].reshape(count, bits)
    return np.packbits(padded, axis=1).view(">u8").ravel().astype(np.uint64)


def pack_values(values: IntVector, parameters: CKKSParameters) -> IntVector:
    """Values ``(length,)`` as coefficients: balanced digits, lowest first."""
    per = parameters.values_per_coefficient
    digits = np.zeros(parameters.coefficients * per, dtype=np.int64)
    digits[: len(values)] = values
    weights = np.array([parameters.base**power for power in range(per)], dtype=np.int64)
    return np.asarray(digits.reshape(-1, per) @ weights, dtype=np.int64)


def unpack_values(coefficients: IntVector, parameters: CKKSParameters) -> tuple[IntVector, bool]:
    """Digits ``(length,)`` of coefficients, each within ``±digit_bound``, and whether nothing is left over."""
    rest, digits = coefficients.copy(), []
    for _ in range(parameters.values_per_coefficient):
        digit = (rest + parameters.digit_bound) % parameters.base - parameters.digit_bound
        digits.append(digit)
        rest = (rest - digit) // parameters.base
    values = np.stack(digits, axis=1).ravel()
    exact = not (rest.any() or values[parameters.length :].any())
    return np.asarray(values[: parameters.length], dtype=np.int64), exact
