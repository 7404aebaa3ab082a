"""The ring behind CKKS: TenSEAL's SEAL does the cryptography, this module the way in and out of it.

Values sit in coefficients, not in slots: the transform to slots that SEAL's encoder expects is undone beforehand.
Errors then stay as small as they were drawn (in slots they add up over the ring), and only the coefficients that are
used need to travel. Encryption is symmetric, so the second polynomial of a fresh ciphertext is a seed; a sum carries
the seeds of its summands, and whoever decrypts it expands and adds them.

SEAL reads and writes files of a structured format. Nothing that comes from outside is ever given to that parser:
the bytes that travel are words of fixed size (``privacy.aggregation.packing``), and the files that SEAL reads are
written here, in memory, around words that were checked to be below the modulus.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tenseal.sealapi as seal
from numpy.typing import NDArray

from privacy.aggregation.base import AggregationError, IntVector
from privacy.aggregation.parameters import SEED_BYTES, CKKSParameters
from privacy.arrays import Words

_FILE_HEADER = 16
_COMPRESSED = 2  # SEAL's number for zstd
_BLAKE2XB = 1
_SEED_RECORD = struct.Struct("<B64s")
_FIELDS = struct.Struct("<4QBQQQdQ")  # parameters' hash, whether NTT, polynomials, degree, primes, scale, correction
_COUNT = struct.Struct("<Q")
_WANTED = b"\x5e\xa1\x10\x04\x03"  # magic number, size of the header, version 4.3: what every file of SEAL begins with


class UnsupportedSealError(ImportError):
    """A TenSEAL whose SEAL is not the one that this module reads and writes files of."""


@dataclass(frozen=True)
class FreshCiphertext:
    """What a market sends of one ciphertext: the seed of one polynomial, the used coefficients of the other."""

    seed: bytes
    coefficients: Words


def modulus(parameters: CKKSParameters) -> int:
    """The prime ``q``."""
    return int(_primes(parameters)[0].value())


def _primes(parameters: CKKSParameters) -> Any:
    return seal.CoeffModulus.Create(parameters.degree, [parameters.prime_bits])


class Ring:
    """Encrypt and decrypt polynomials under one set of parameters.

    Raises:
        AggregationError: SEAL refuses the parameters, or writes another format than this module knows.
    """

    def __init__(self, parameters: CKKSParameters) -> None:
        self.degree, self.scale = parameters.degree, 2.0**parameters.scale_bits
        settings = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        settings.set_poly_modulus_degree(self.degree)
        settings.set_coeff_modulus(_primes(parameters))
        self._context = seal.SEALContext(settings, True, seal.SEC_LEVEL_TYPE.TC128)
        self.modulus = modulus(parameters)
        needed = parameters.packed_bound * 2**parameters.scale_bits + 22 * parameters.cohort
        if not self._context.parameters_set() or self.modulus <= 4 * needed:
            raise AggregationError(f"SEAL refuses the parameters: {self._context.parameters_error_message()}")
        self._encoder, self._evaluator = seal.CKKSEncoder(self._context), seal.Evaluator(self._context)
        powers = np.array([pow(3, slot, 2 * self.degree) for slot in range(self.degree // 2)])
        self._root_of_slot = (powers - 1) // 2
        self._twist = np.exp(1j * np.pi * np.arange(self.degree) / self.degree)

    def generate_key(self) -> bytes:
        """A ternary secret key, in SEAL's format."""
        return _save(seal.KeyGenerator(self._context).secret_key())

    def load_key(self, key: bytes) -> Any:
        """SEAL's key object; raises ``AggregationError`` on anything but a key of these parameters."""
        found = seal.SecretKey()
        with _as_file(key) as path:
            try:
                found.load(self._context, path)
            except (ValueError, RuntimeError) as error:
                raise AggregationError(f"not a CKKS secret key of these parameters: {error}") from error
        return found

    def encrypt(self, key: Any, coefficients: IntVector) -> FreshCiphertext:
        """Encrypt the polynomial with these lowest coefficients ``(used,)``."""
        plain = seal.Plaintext()
        self._encoder.encode(self._to_slots(coefficients).tolist(), self.scale, plain)
        written = _save(seal.Encryptor(self._context, key).encrypt_symmetric(plain))
        body = _decompress(written)
        first = _FIELDS.size + _FILE_HEADER + _COUNT.size
        second = first + 8 * self.degree + _FILE_HEADER
        if len(body) != second + _SEED_RECORD.size or body[second] != _BLAKE2XB:
            raise AggregationError("this version of TenSEAL writes ciphertexts in a format that is not known here")
        seed = body[second + 1 :]
        words = np.frombuffer(body[first : first + 8 * self.degree], "<u8")
        # only the first polynomial is wanted back; the other need not be expanded from its seed for that
        ciphertext = self._ciphertext(self._whole(words, np.ones(self.degree, np.uint64), ntt=True))
        self._evaluator.transform_from_ntt_inplace(ciphertext)
        return FreshCiphertext(seed, self._polynomials(ciphertext)[0][: len(coefficients)].copy())

    def decrypt(self, key: Any, first: Words, seeds: Sequence[bytes]) -> NDArray[np.float64]:
        """Coefficients ``(used,)`` of a sum, with their error.

        Args:
            key: what ``load_key`` returned.
            first: sum ``(used,)`` of the ciphertexts' first polynomials.
            seeds: of their second ones.
        """
        zero = np.zeros(self.degree, np.uint64)
        padded, one = zero.copy(), zero.copy()
        padded[: len(first)], one[0] = first, 1
        try:
            # SEAL refuses ciphertexts whose second polynomial is zero: it is 1 here, and -1 is added at the end
            total = self._ciphertext(self._whole(padded, one, ntt=False))
            self._evaluator.transform_to_ntt_inplace(total)
            minus_one = self._whole(zero, zero + np.uint64(self.modulus - 1), ntt=True)
            for written in (*(self._seeded(zero, seed) for seed in seeds), minus_one):
                total = self._sum(total, self._ciphertext(written))
            plain = seal.Plaintext()
            seal.Decryptor(self._context, key).decrypt(total, plain)
        except (ValueError, RuntimeError) as error:
            raise AggregationError(f"the aggregate does not decrypt: {error}") from error
        return self._from_slots(np.array(self._encoder.decode_complex(plain)))[: len(first)]

    def _sum(self, left: Any, right: Any) -> Any:
        found = seal.Ciphertext()
        self._evaluator.add(left, right, found)
        return found

    def _to_slots(self, coefficients: IntVector) -> NDArray[np.complex128]:
        """Values of the polynomial at the roots that the slots stand for."""
        padded = np.zeros(self.degree)
        padded[: len(coefficients)] = coefficients
        return np.asarray((np.fft.ifft(padded * self._twist) * self.degree)[self._root_of_slot])

    def _from_slots(self, slots: NDArray[np.complex128]) -> NDArray[np.float64]:
        values = np.empty(self.degree, np.complex128)
        values[self._root_of_slot] = slots
        values[self.degree - 1 - self._root_of_slot] = slots.conj()
        return np.asarray((np.fft.fft(values) / self.degree * self._twist.conj()).real)

    def _file(self, body: bytes) -> bytes:
        """SEAL's file around an uncompressed body."""
        size = (_FILE_HEADER + len(body)).to_bytes(8, "little")
        return _WANTED + bytes(3) + size + body

    def _fields(self, *, ntt: bool) -> bytes:
        return _FIELDS.pack(*self._context.first_parms_id(), ntt, 2, self.degree, 1, self.scale, 1)

    def _whole(self, first: Words, second: Words, *, ntt: bool) -> bytes:
        """A ciphertext in SEAL's format, both polynomials written out."""
        words = np.concatenate([first, second]).astype("<u8").tobytes()
        return self._file(self._fields(ntt=ntt) + self._file(_COUNT.pack(2 * self.degree) + words))

    def _seeded(self, words: Words, seed: bytes) -> bytes:
        """A fresh ciphertext in SEAL's format: one polynomial, and the seed of the other."""
        if len(seed) != SEED_BYTES:
            raise AggregationError(f"a seed of {len(seed)} bytes where {SEED_BYTES} were expected")
        polynomial = self._file(_COUNT.pack(self.degree) + words.astype("<u8").tobytes())
        generator = self._file(_SEED_RECORD.pack(_BLAKE2XB, seed))
        return self._file(self._fields(ntt=True) + polynomial + generator)

    def _ciphertext(self, written: bytes) -> Any:
        found = seal.Ciphertext()
        with _as_file(written) as path:
            found.load(self._context, path)
        return found

    def _polynomials(self, ciphertext: Any) -> tuple[Words, Words]:
        body = _decompress(_save(ciphertext))
        words = np.frombuffer(body[-16 * self.degree :], "<u8").astype(np.uint64)
        return words[: self.degree], words[self.degree :]


def _decompress(written: bytes) -> bytes:
    if written[5] != _COMPRESSED:
        return written[_FILE_HEADER:]
    return bytes(pa.CompressedInputStream(pa.BufferReader(written[_FILE_HEADER:]), "zstd").read())


@contextmanager
def _as_file(data: bytes = b"") -> Iterator[str]:
    """A path that SEAL can open, in memory where the system has anonymous files: it only reads and writes files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("seal")
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as folder:  # readable by its owner alone
            path = Path(folder) / "seal"
            path.write_bytes(data)
            yield str(path)


def _save(value: Any) -> bytes:
    with _as_file() as path:
        value.save(path)
        return Path(path).read_bytes()


def refuse_other_versions(written: bytes) -> None:
    """Raises ``UnsupportedSealError`` unless a file that SEAL wrote is of the version that is known here."""
    found, compression = written[: len(_WANTED)], written[len(_WANTED)] if len(written) > len(_WANTED) else -1
    if found != _WANTED or compression not in (0, _COMPRESSED):
        raise UnsupportedSealError(
            f"TenSEAL writes files that begin with {written[:6].hex()}, {_WANTED.hex()} and 00 or 02 are expected "
            "(SEAL 4.3, plain or zstd); install the TenSEAL of this project's lock file"
        )


refuse_other_versions(_save(seal.Plaintext()))
