"""CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017) through TenSEAL: the server adds what it cannot read.

Values are integers before encryption and rounded to integers after decryption, so the sum is exact
(``privacy.aggregation.parameters`` has the proof), and the decryption error, which depends on the secret key (Li,
Micciancio, EUROCRYPT 2021), is never seen by anyone. The markets share the secret key and encrypt with it; there is no
public key, and the server needs the parameters alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privacy.aggregation.base import AggregationError, Binding, IntVector
from privacy.aggregation.packing import pack_values, pack_words, unpack_values, unpack_words
from privacy.aggregation.parameters import SEED_BYTES, CKKSParameters, packed_size
from privacy.aggregation.seal import FreshCiphertext, Ring, modulus
from privacy.aggregation.shared_key import CKKSKey
from privacy.arrays import Words

_LARGEST_ERROR = 0.25  # of a decrypted value from the next integer; the admitted worst case never gets near


class CKKSMarket:
    """A market's side: encrypts, and decrypts sums, whosever they are."""

    def __init__(self, parameters: CKKSParameters, key: CKKSKey) -> None:
        self.parameters = parameters
        self._ring = Ring(parameters)
        self._key = self._ring.load_key(key.secret)

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Ciphertexts of the packed values, each with a key of its own order."""
        parameters = self.parameters
        if values.shape != (parameters.length,):
            raise AggregationError(f"shape {values.shape} where ({parameters.length},) was expected")
        if np.abs(values).max(initial=0) > parameters.value_bound:
            raise AggregationError(f"a value exceeds ±{parameters.value_bound}: the sum could wrap")
        packed, framed, start = pack_values(values, parameters), [], 0
        for used in parameters.chunk_lengths():
            fresh = self._ring.encrypt(self._key, packed[start : start + used])
            framed.append(fresh.seed + pack_words(fresh.coefficients, parameters.prime_bits))
            start += used
        return b"".join(framed)

    def reveal(self, aggregate: bytes) -> IntVector:
        """The decrypted and unpacked sum."""
        opened = np.concatenate(
            [
                self._ring.decrypt(self._key, first, seeds)
                for first, seeds in _read_sum(aggregate, self.parameters, self._ring.modulus)
            ]
        )
        rounded = np.rint(opened)
        values, exact = unpack_values(rounded.astype(np.int64), self.parameters)
        # both are judged after the same work: how long it took says nothing of the key
        if not exact or np.abs(opened - rounded).max(initial=0.0) > _LARGEST_ERROR:
            raise AggregationError("a sum outside its range, or with a large error: wrong key or damaged aggregate")
        return values


class CKKSServer:
    """The server's side: parameters alone, no key of any kind; it adds words modulo a prime."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self.parameters = parameters
        self.update_bytes, self.aggregate_bytes = parameters.update_bytes, parameters.aggregate_bytes
        self._modulus = modulus(parameters)

    def check(self, payload: bytes) -> None:
        """Raises ``AggregationError`` unless the payload is ciphertexts of these parameters."""
        self._read(payload)

    def check_sum(self, aggregate: bytes, summands: int) -> None:
        """Raises ``AggregationError`` unless the bytes are ciphertexts of these parameters, with so many seeds each."""
        if any(len(seeds) != summands for _, seeds in _read_sum(aggregate, self.parameters, self._modulus)):
            raise AggregationError(f"not a sum of {summands} vectors")

    def aggregate(self, payloads: Sequence[bytes]) -> bytes:
        """Ciphertexts added up, at most a cohort's; raises ``AggregationError`` on any bad one."""
        if not 0 < len(payloads) <= self.parameters.cohort:
            raise AggregationError(f"{len(payloads)} payloads where 1 to {self.parameters.cohort} add exactly")
        vectors = [self._read(payload) for payload in payloads]
        framed = []
        for chunks in zip(*vectors, strict=True):
            total = chunks[0].coefficients
            for chunk in chunks[1:]:
                total = (total + chunk.coefficients) % np.uint64(self._modulus)  # below 2^61: no overflow
            framed += [chunk.seed for chunk in chunks]
            framed.append(pack_words(total, self.parameters.prime_bits))
        return b"".join(framed)

    def _read(self, payload: bytes) -> list[FreshCiphertext]:
        """Ciphertexts of a payload. Any bytes of the right length whose words are below the modulus are ciphertexts."""
        bits = self.parameters.prime_bits
        if len(payload) != self.update_bytes:
            raise AggregationError(f"{len(payload)} bytes where {self.update_bytes} were expected")
        found, start = [], 0
        for used in self.parameters.chunk_lengths():
            words = start + SEED_BYTES
            end = words + packed_size(used, bits)
            coefficients = _below(self._modulus, unpack_words(payload[words:end], used, bits))
            found.append(FreshCiphertext(payload[start:words], coefficients))
            start = end
        return found


def _read_sum(aggregate: bytes, parameters: CKKSParameters, modulus: int) -> list[tuple[Words, list[bytes]]]:
    """Sums of first polynomials, and the seeds of the second ones."""
    used_bytes = [packed_size(used, parameters.prime_bits) for used in parameters.chunk_lengths()]
    summands, rest = divmod(len(aggregate) - sum(used_bytes), SEED_BYTES * len(used_bytes))
    if rest or not 0 < summands <= parameters.cohort:
        raise AggregationError(f"{len(aggregate)} bytes are no sum of 1 to {parameters.cohort} vectors")
    found, start = [], 0
    for used, size in zip(parameters.chunk_lengths(), used_bytes, strict=True):
        words = start + summands * SEED_BYTES
        seeds = [aggregate[at : at + SEED_BYTES] for at in range(start, words, SEED_BYTES)]
        first = unpack_words(aggregate[words : words + size], used, parameters.prime_bits)
        found.append((_below(modulus, first), seeds))
        start = words + size
    return found


def _below(modulus: int, words: Words) -> Words:
    if words.max(initial=0) >= modulus:
        raise AggregationError("a coefficient is not below the modulus")
    return words
