"""Pairwise masks that vanish in the sum (Bonawitz et al., CCS 2017), around CKKS.

Each pair of markets agrees on a secret (X25519); for every vector both expand it to the same masks, uniform modulo
``2**bits``, which one adds and the other subtracts. Whoever opens one ciphertext finds a value that is uniform as
long as one other market of the cohort is honest; the sum of the whole cohort is the sum of the values. There are no
shares to recover a missing market's masks from: without one of its cohort, a round starts again with the others and
fresh masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.aggregation.base import AggregationError, Binding, IntVector
from privacy.aggregation.ckks import CKKSKey, CKKSMarket
from privacy.aggregation.packing import Words
from privacy.aggregation.parameters import CKKSParameters

_WORD = np.dtype("<u8")


class MaskReuseError(AggregationError):
    """A second vector for a round and attempt whose mask was used: their difference would show through."""


@dataclass
class PairwiseMasks:
    """One market's masks in one run.

    Attributes:
        market: its name.
        secret: its X25519 key for this run.
        peers: the other markets' public keys, whose senders were authenticated; set before the first round.
    """

    market: str
    secret: X25519PrivateKey = field(repr=False)
    peers: Mapping[str, X25519PublicKey] = field(default_factory=dict)
    _used: dict[tuple[str, str, int, int], bytes] = field(default_factory=dict, repr=False)

    @property
    def public(self) -> bytes:
        """The public key of this run, 32 bytes."""
        return self.secret.public_key().public_bytes_raw()

    def meet(self, peers: Mapping[str, bytes]) -> None:
        """Take the public keys of the other markets, whose senders the caller has authenticated."""
        self.peers = {name: X25519PublicKey.from_public_bytes(key) for name, key in peers.items()}

    def partners(self, cohort: tuple[str, ...]) -> list[str]:
        """The other markets of a cohort.

        Raises:
            AggregationError: the cohort lacks this market, has no other, or has one whose key is not known.
        """
        others = [name for name in cohort if name != self.market]
        if self.market not in cohort or not others or not self.peers.keys() >= set(others):
            raise AggregationError(f"cohort {', '.join(cohort)}: cannot be masked by market {self.market}")
        return others

    def draw(self, binding: Binding, length: int, bits: int, vector: bytes = b"") -> Words:
        """The sum of this market's masks ``(length,)`` for a vector, modulo ``2**bits``; once for each attempt.

        ``vector`` is a digest of what is masked: the same vector for the same cohort may be masked again, as after a
        failure between masking and sending; it gives the same bytes.

        Raises:
            MaskReuseError: masks of this round and attempt were drawn before, for another vector or cohort.
            AggregationError: the cohort lacks this market, has no other, or has one whose key is not known.
        """
        use = (binding.run, binding.stage, binding.round, binding.attempt)
        drawn_for = sha256("\0".join(binding.cohort).encode() + b"\0\0" + vector).digest() if vector else b""
        if use in self._used and (not vector or self._used[use] != drawn_for):
            raise MaskReuseError(
                f"market {self.market}, {binding.stage}, round {binding.round}, attempt {binding.attempt}: this mask "
                "has been used; nothing was sent"
            )
        others = self.partners(binding.cohort)
        self._used[use] = drawn_for
        total = np.zeros(length, np.uint64)
        for other in others:
            mask = self._expand(other, binding, length)
            total = total + mask if self.market < other else total - mask  # modulo 2^64, so modulo 2^bits too
        return total & np.uint64(2**bits - 1)

    def _expand(self, other: str, binding: Binding, length: int) -> Words:
        """The stream that both markets of a pair derive for one attempt of one round."""
        parts = (binding.run, binding.stage, str(binding.round), str(binding.attempt), *sorted((self.market, other)))
        info = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in (*parts, *binding.cohort))
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedmm-secure mask\0" + info)
        try:
            key = derive.derive(self.secret.exchange(self.peers[other]))
        except ValueError as error:  # a public key of low order
            raise AggregationError(f"market {other}: its mask key is not usable") from error
        # the key is used for one stream, so the nonce may be constant
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        return np.frombuffer(stream.update(bytes(length * _WORD.itemsize)), _WORD).astype(np.uint64)


def mask_bits(cohort: int, value_bound: int) -> int:
    """Smallest ``b`` such that sums of ``cohort`` values are told apart modulo ``2**b``."""
    return sum_bits(cohort * value_bound)


def sum_bits(bound: int) -> int:
    """Smallest ``b`` such that sums within ± ``bound`` are told apart modulo ``2**b``."""
    return (2 * bound).bit_length()


def masked_parameters(*, length: int, cohort: int, bits: int) -> CKKSParameters:
    """CKKS parameters that carry masked values, which are summed as integers before they are reduced.

    Raises:
        AggregationError: none are exact and secure.
    """
    return CKKSParameters.derive(length=length, cohort=cohort, value_bound=2 ** (bits - 1))


class MaskedMarket:
    """A market's side of ``masked-ckks``: masks, then encrypts; decrypts, then reduces.

    Args:
        bits: values are residues modulo 2 to this.
        value_bound: largest absolute value before masking; None where values may wrap, which a sum of noised values
            does by post-processing: it is the same residue as that of the sum without wrapping.
    """

    def __init__(
        self,
        parameters: CKKSParameters,
        key: CKKSKey,
        masks: PairwiseMasks,
        *,
        bits: int,
        value_bound: int | None,
    ) -> None:
        self._inner = CKKSMarket(parameters, key)
        self.masks = masks
        self._bound, self._bits = value_bound, bits

    def ready(self, cohort: tuple[str, ...]) -> None:
        self.masks.partners(cohort)

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        if self._bound is not None and np.abs(values).max(initial=0) > self._bound:
            raise AggregationError(f"a value exceeds ±{self._bound}: the sum could wrap")
        vector = sha256(values.astype("<i8").tobytes()).digest()
        mask = self.masks.draw(binding, len(values), self._bits, vector)
        return self._inner.protect(_centred(values.astype(np.uint64) + mask, self._bits), binding)

    def reveal(self, aggregate: bytes) -> IntVector:
        return _centred(self._inner.reveal(aggregate).astype(np.uint64), self._bits)


def _centred(words: Words, bits: int) -> IntVector:
    """Residues modulo ``2**bits`` as integers from ``-2**(bits-1)`` on."""
    half = np.uint64(2 ** (bits - 1))
    reduced = (words + half) & np.uint64(2**bits - 1)
    return np.asarray(reduced.astype(np.int64) - np.int64(half), dtype=np.int64)
