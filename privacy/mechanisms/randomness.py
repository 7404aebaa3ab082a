"""Private randomness: one stream cipher under a 256-bit key of the operating system, and exact draws from it.

Noise, Poisson coins, randomised response and private negatives all come from here. Python's, NumPy's and PyTorch's
generators are made for simulation: ``torch.Generator.manual_seed`` on the CPU keeps 32 bits of its seed, so whatever
such a generator drew is found by trying all seeds.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from privacy.arrays import IntArray, Words
from privacy.mechanisms.discrete_gaussian import alias_table, combine

KEY_BYTES = 32
LEVELS = 2  # of a discrete Gaussian, unless a mechanism asks for a finer grid
_AT_A_TIME = 2**16  # draws whose words stay in the processor's cache
_MOST_BYTES = 2**37  # of one key's stream: ChaCha20's counter has 32 bits and counts blocks of 64 bytes


class NoiseSource:
    """A stream of uniform bits under one key, and draws from it.

    Every purpose has a key of its own (``derive``), so that one stream never serves two. A source that was made from a
    seed is for tests: ``seeded`` goes into the ledger and makes a run unfit for a compliance report.

    Args:
        key: 32 bytes.
        seeded: whether the key follows from a seed that is known, or stored beside what it generates.
    """

    def __init__(self, key: bytes, *, seeded: bool) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._key, self.seeded = key, seeded
        # a key is used for one stream, so the nonce may be constant
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._drawn = 0

    @classmethod
    def from_entropy(cls) -> NoiseSource:
        """Under a fresh key of the operating system, which is kept nowhere."""
        return cls(secrets.token_bytes(KEY_BYTES), seeded=False)

    @classmethod
    def from_seed(cls, seed: int) -> NoiseSource:
        """Reproducible, for tests."""
        return cls(hashlib.sha256(f"fedmm-secure seeded noise\0{seed}".encode()).digest(), seeded=True)

    def derive(self, *purpose: str | int) -> NoiseSource:
        """The source of one purpose: HKDF-Expand (RFC 5869) of this key; equal purposes give equal streams."""
        parts = [str(part).encode() for part in purpose]
        info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        key = HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=b"fedmm-secure purpose\0" + info).derive(self._key)
        return NoiseSource(key, seeded=self.seeded)

    def words(self, count: int) -> Words:
        """Uniform words of 64 bits ``(count,)``."""
        self._drawn += 8 * count
        if self._drawn > _MOST_BYTES:
            raise RuntimeError(f"a key has served {_MOST_BYTES} bytes; derive another")
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8").astype(np.uint64, copy=False)

    def coins(self, probability: float, count: int) -> NDArray[np.bool_]:
        """Independent coins ``(count,)``, true with ``floor(probability · 2^64) / 2^64``: never more than was asked.

        Raises:
            ValueError: not a probability.
        """
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"{probability} is not a probability")
        threshold = int(probability * 2.0**64)  # exact: a double times a power of two
        drawn = self.words(count)
        return np.ones(count, dtype=bool) if threshold >= 2**64 else np.asarray(drawn < np.uint64(threshold))

    def integers(self, bound: int, count: int) -> IntArray:
        """Uniform integers ``(count,)`` in ``0 … bound-1``, exactly; words past a multiple of it are redrawn.

        Raises:
            ValueError: ``bound`` is not in 1 … 2^62.
        """
        if not 1 <= bound <= 2**62:
            raise ValueError(f"a bound of {bound} is not in 1 … 2^62")
        limit = np.uint64((2**64 // bound) * bound - 1)
        found = self.words(count)
        while (late := np.flatnonzero(found > limit)).size:
            found = found.copy()
            found[late] = self.words(late.size)
        return np.asarray(found % np.uint64(bound)).astype(np.int64)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1), ``(count,)``: for choices whose weights are public, never for noise."""
        return np.asarray((self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def discrete_gaussian(self, count: int, *, levels: int = LEVELS) -> IntArray:
        """Integers ``(count,)`` of the discrete Gaussian law of standard deviation ``scale(levels)``."""
        table = alias_table()
        sizes = [min(_AT_A_TIME, count - start) for start in range(0, count, _AT_A_TIME)] or [0]
        return np.concatenate([combine([table.draw(self.words, size) for _ in range(levels)]) for size in sizes])

    def gaussian_with_spare(self, count: int, spare: int, *, levels: int = LEVELS) -> tuple[IntArray, IntArray]:
        """Noise ``(count,)`` of a mechanism and spare values ``(spare,)`` that it shows as they are, in one draw.

        The spare ones are the sums of coordinates that nobody contributes to: whoever reads them measures the noise.
        """
        drawn = self.discrete_gaussian(count + spare, levels=levels)
        return drawn[:count], drawn[count:]

    def __repr__(self) -> str:
        return f"NoiseSource(seeded={self.seeded})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a noise source is neither copied nor sent: two would draw the same; derive one by purpose")
