"""CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017) through TenSEAL: the server adds what it cannot read.

Values are integers before encryption and rounded to integers after decryption, so the sum is exact, and the
decryption error, which depends on the secret key (Li, Micciancio, EUROCRYPT 2021), is never seen by anyone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tenseal as ts

from privacy.aggregation.base import AggregationError, IntVector

# Homomorphic Encryption Standard (Albrecht et al., 2018), table 1: largest modulus, in bits, at 128-bit
# security with ternary secrets, by ring degree.
MAX_MODULUS_BITS = {4096: 109, 8192: 218, 16384: 438}
_CHAINS = {4096: (54, 54), 8192: (60, 60)}
_MIN_SCALE_BITS = 26
_FRAME_BYTES = 4
_PADDED_BYTES = 1024


@dataclass(frozen=True)
class CKKSParameters:
    """Encryption parameters for sums of ``cohort`` vectors of ``length`` integers within ``±2**value_bits``.

    One level only: additions need neither rescaling nor relinearisation nor Galois keys. The first prime
    carries the data; the sum times the scale must stay below half of it, so
    ``value_bits + ceil(log2 cohort) + 1 + scale_bits < first prime's bits``.
    """

    length: int
    cohort: int
    value_bits: int
    degree: int
    modulus_bits: tuple[int, int]
    scale_bits: int

    @classmethod
    def derive(cls, *, length: int, cohort: int, value_bits: int) -> CKKSParameters:
        """The smallest parameters that sum exactly at 128-bit security.

        Raises:
            AggregationError: no admissible parameters leave enough room for the noise.
        """
        sum_bits = value_bits + max(1, math.ceil(math.log2(cohort)))
        for degree, chain in _CHAINS.items():
            scale_bits = chain[0] - 2 - sum_bits
            if scale_bits >= _MIN_SCALE_BITS and sum(chain) <= MAX_MODULUS_BITS[degree]:
                return cls(length, cohort, value_bits, degree, chain, scale_bits)
        raise AggregationError(
            f"no 128-bit secure CKKS parameters sum {cohort} values of {value_bits} bits exactly: "
            "lower aggregation.bits or the number of markets"
        )

    @property
    def n_chunks(self) -> int:
        """Ciphertexts a vector needs; each holds ``degree / 2`` values."""
        return math.ceil(self.length / (self.degree // 2))

    def chunk_lengths(self) -> list[int]:
        slots = self.degree // 2
        return [min(slots, self.length - start) for start in range(0, self.length, slots)]


@dataclass(frozen=True)
class CKKSKeys:
    """Serialised contexts of one federation: ``secret`` for markets only, ``public`` for the server."""

    secret: bytes
    public: bytes

    @classmethod
    def generate(cls, parameters: CKKSParameters) -> CKKSKeys:
        context = ts.context(ts.SCHEME_TYPE.CKKS, parameters.degree, -1, list(parameters.modulus_bits))
        slim = {"save_galois_keys": False, "save_relin_keys": False}
        return cls(
            secret=context.serialize(save_public_key=True, save_secret_key=True, **slim),
            public=context.serialize(save_public_key=True, save_secret_key=False, **slim),
        )


class CKKSMarket:
    """A market's side: encrypts with the public key, decrypts sums with the shared secret key."""

    def __init__(self, parameters: CKKSParameters, secret: bytes) -> None:
        self.parameters = parameters
        self._context = _context(secret)
        if not self._context.is_private():
            raise AggregationError("a market needs the secret context")

    def protect(self, values: IntVector) -> bytes:
        limit = 2**self.parameters.value_bits
        if values.shape != (self.parameters.length,):
            raise AggregationError(f"shape {values.shape} where ({self.parameters.length},) was expected")
        if np.abs(values).max(initial=0) > limit:
            raise AggregationError(f"a value exceeds ±2^{self.parameters.value_bits}: the sum could wrap")
        scale = float(2**self.parameters.scale_bits)
        chunks, start = [], 0
        for length in self.parameters.chunk_lengths():
            part = values[start : start + length].astype(np.float64).tolist()
            chunks.append(ts.ckks_vector(self._context, part, scale).serialize())
            start += length
        return _frame(chunks)

    def reveal(self, aggregate: bytes) -> IntVector:
        vectors = _parse(self._context, self.parameters, aggregate)
        opened = np.concatenate([np.asarray(vector.decrypt(), dtype=np.float64) for vector in vectors])
        rounded = np.rint(opened)
        if np.abs(opened - rounded).max(initial=0.0) > 0.25:
            raise AggregationError("decryption error above a quarter: wrong key or damaged aggregate")
        return np.asarray(rounded, dtype=np.int64)


class CKKSServer:
    """The server's side: refuses any context that holds a secret key."""

    def __init__(self, parameters: CKKSParameters, public: bytes) -> None:
        self.parameters = parameters
        self._context = _context(public)
        if self._context.is_private():
            raise AggregationError("the server was given a context that holds a secret key; it refuses to run")

    def check(self, payload: bytes) -> None:
        _parse(self._context, self.parameters, payload)

    def aggregate(self, payloads: Sequence[bytes]) -> bytes:
        if not 0 < len(payloads) <= self.parameters.cohort:
            raise AggregationError(f"{len(payloads)} payloads where 1 to {self.parameters.cohort} add exactly")
        total = _parse(self._context, self.parameters, payloads[0])
        for payload in payloads[1:]:
            parts = _parse(self._context, self.parameters, payload)
            total = [left + right for left, right in zip(total, parts, strict=True)]
        return _frame([vector.serialize() for vector in total])


def _context(serialised: bytes) -> ts.Context:
    try:
        return ts.context_from(serialised)
    except (ValueError, RuntimeError) as error:
        raise AggregationError(f"not a CKKS context: {error}") from error


def _frame(chunks: Sequence[bytes]) -> bytes:
    """Length-prefixed ciphertexts, padded to whole KiB: their compressed size varies by a few random bytes."""
    framed = []
    for chunk in chunks:
        whole = len(chunk).to_bytes(_FRAME_BYTES, "big") + chunk
        framed.append(whole + bytes(-len(whole) % _PADDED_BYTES))
    return b"".join(framed)


def _parse(context: ts.Context, parameters: CKKSParameters, payload: bytes) -> list[ts.CKKSVector]:
    """Ciphertexts of a payload; everything that TenSEAL itself lets through is checked here."""
    vectors, start = [], 0
    ciphertext_limit = 4 * parameters.degree * 8 + 4096
    for expected in parameters.chunk_lengths():
        length = int.from_bytes(payload[start : start + _FRAME_BYTES], "big")
        end = start + _FRAME_BYTES + length
        chunk, padding = payload[start + _FRAME_BYTES : end], -(_FRAME_BYTES + length) % _PADDED_BYTES
        if not 0 < length <= ciphertext_limit or payload[end : end + padding] != bytes(padding):
            raise AggregationError("truncated, oversized or badly padded ciphertext")
        try:
            vector = ts.ckks_vector_from(context, chunk)
            ciphertexts = vector.ciphertext()
            length_found = vector.size()
        except (ValueError, RuntimeError, IndexError) as error:
            raise AggregationError(f"not a ciphertext of this federation: {error}") from error
        found = [(part.poly_modulus_degree(), part.scale, part.size()) for part in ciphertexts]
        if length_found != expected or found != [(parameters.degree, float(2**parameters.scale_bits), 2)]:
            raise AggregationError("ciphertext of the wrong length, degree, scale or size")
        vectors.append(vector)
        start = end + padding
    if start != len(payload):
        raise AggregationError(f"{len(payload) - start} bytes after the last ciphertext")
    return vectors
