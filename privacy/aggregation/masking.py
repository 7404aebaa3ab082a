"""Pairwise masks that vanish in the sum (Bonawitz et al., CCS 2017), around an aggregator.

Each pair of markets agrees on a secret (X25519); for every vector both expand it to the same masks, uniform modulo
``2**bits``, which one adds and the other subtracts. Whoever opens one vector finds a value that is uniform as
long as one other market of the cohort is honest; the sum of the whole cohort is the sum of the values. There are no
shares to recover a missing market's masks from: without one of its cohort, a round starts again with the others and
fresh masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.aggregation.base import AggregationError, Binding, IntVector, MarketAggregator, framed
from privacy.aggregation.exchange import is_usable
from privacy.aggregation.mersenne import MersennePrime
from privacy.aggregation.parameters import CKKSParameters
from privacy.aggregation.streams import derive_key, stream
from privacy.arrays import Words

_WORD = np.dtype("<u8")
Attempt = tuple[str, str, int, int]  # run, stage, round, attempt


class MaskReuseError(AggregationError):
    """A second vector for a round and attempt whose mask or tag was used: their difference would show through."""


@dataclass
class PairwiseMasks:
    """What one market shares with each other market in one run: masks of vectors, and of tags.

    Attributes:
        market: its name.
        secret: its X25519 key for this run.
        peers: the other markets' public keys, whose senders were authenticated; set before the first round.
        sent: attempts that an earlier process of this market sent a vector for.
    """

    market: str
    secret: X25519PrivateKey = field(repr=False)
    peers: Mapping[str, X25519PublicKey] = field(default_factory=dict)
    sent: frozenset[Attempt] = frozenset()
    _claimed: dict[tuple[str, Attempt], bytes] = field(default_factory=dict, repr=False)
    _agreed: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def public(self) -> bytes:
        """The public key of this run, 32 bytes."""
        return self.secret.public_key().public_bytes_raw()

    def meet(self, peers: Mapping[str, bytes]) -> None:
        """Take the public keys of the other markets, whose senders the caller has authenticated.

        Raises:
            AggregationError: a key that leads to no secret.
        """
        for name, key in peers.items():
            if not is_usable(key):  # now, and not when something is to be masked
                raise AggregationError(f"market {name}: its mask key is not usable")
        self.peers = {name: X25519PublicKey.from_public_bytes(key) for name, key in peers.items()}
        self._agreed.clear()

    def others(self, cohort: tuple[str, ...]) -> list[str]:
        """The other markets of a cohort.

        Raises:
            AggregationError: the cohort lacks this market, or has one whose key is not known.
        """
        others = [name for name in cohort if name != self.market]
        if self.market not in cohort or not self.peers.keys() >= set(others):
            raise AggregationError(f"cohort {', '.join(cohort)}: cannot be masked by market {self.market}")
        return others

    def partners(self, cohort: tuple[str, ...]) -> list[str]:
        """The same, where there must be one to hide behind."""
        others = self.others(cohort)
        if not others:
            raise AggregationError(f"cohort {', '.join(cohort)}: cannot be masked by market {self.market}")
        return others

    def claim(self, what: Literal["mask", "tag"], binding: Binding, vector: bytes) -> None:
        """Use up the mask or tag of one attempt of one round.

        ``vector`` is a digest of what is protected: the same vector for the same cohort may use it again, as after a
        failure between protecting and sending; it gives the same bytes. An empty digest is the same as no other.

        Raises:
            MaskReuseError: it was used for another vector or cohort.
        """
        attempt = (binding.run, binding.stage, binding.round, binding.attempt)
        used_for = sha256(binding.context + vector).digest() if vector else b""
        known = self._claimed.get((what, attempt))
        if attempt in self.sent or (known is not None and (not vector or known != used_for)):
            raise MaskReuseError(
                f"market {self.market}, {binding.stage}, round {binding.round}, attempt {binding.attempt}: this {what} "
                "has been used; nothing was sent"
            )
        self._claimed[what, attempt] = used_for

    def draw(self, binding: Binding, length: int, bits: int, vector: bytes = b"") -> Words:
        """The sum of this market's masks ``(length,)`` for a vector, modulo ``2**bits``; once for each attempt.

        ``vector`` is a digest of what is masked, as in ``claim``.

        Raises:
            MaskReuseError: masks of this round and attempt were drawn before, for another vector or cohort.
            AggregationError: the cohort lacks this market, has no other, or has one whose key is not known.
        """
        self.claim("mask", binding, vector)
        others = self.partners(binding.cohort)
        total = np.zeros(length, np.uint64)
        for other in others:
            mask = self._expand(other, binding, length)
            total = total + mask if self.market < other else total - mask  # modulo 2^64, so modulo 2^bits too
        return total & np.uint64(2**bits - 1)

    def zero_share(self, binding: Binding, prime: MersennePrime) -> int:
        """This market's summand of 0 modulo ``prime``: uniform as long as another market of the cohort is honest."""
        total = 0
        for other in self.others(binding.cohort):
            part = int.from_bytes(self._derive(other, b"fedmm-secure zero share\0", binding), "big")
            total += part if self.market < other else -part
        return total % prime.value

    def digest(self, cohort: tuple[str, ...]) -> bytes:
        """Of the public keys that a cohort has in this run; unknown ones count as empty."""
        known = {name: key.public_bytes_raw().hex() for name, key in self.peers.items()} | {
            self.market: self.public.hex()
        }
        return sha256(framed(*(text for name in cohort for text in (name, known.get(name, ""))))).digest()

    def _expand(self, other: str, binding: Binding, length: int) -> Words:
        """The stream that both markets of a pair derive for one attempt of one round."""
        key = self._derive(other, b"fedmm-secure mask\0", binding)
        return np.frombuffer(stream(key, length * _WORD.itemsize), _WORD).astype(np.uint64)

    def _derive(self, other: str, purpose: bytes, binding: Binding) -> bytes:
        """A key of 32 bytes that both markets of a pair derive for one attempt of one round."""
        if other not in self._agreed:
            self._agreed[other] = self.secret.exchange(self.peers[other])
        pair = framed(*sorted((self.market, other)))
        return derive_key(self._agreed[other], purpose + pair + binding.context)


def mask_bits(cohort: int, value_bound: int) -> int:
    """Smallest ``b`` such that sums of ``cohort`` values are told apart modulo ``2**b``."""
    return sum_bits(cohort * value_bound)


def sum_bits(bound: int) -> int:
    """Smallest ``b`` such that sums within ± ``bound`` are told apart modulo ``2**b``."""
    return (2 * bound).bit_length()


def masked_parameters(*, length: int, cohort: int, bits: int) -> CKKSParameters:
    """CKKS parameters that carry ``length`` masked values, which are summed as integers before they are reduced.

    Raises:
        AggregationError: none are exact and secure.
    """
    return CKKSParameters.derive(length=length, cohort=cohort, value_bound=2 ** (bits - 1))


class MaskedMarket:
    """A market's side of ``masked-ckks``: masks what another aggregator protects, and reduces what that reveals.

    Args:
        inner: carries residues; it authenticates them, so that a sum is what was sent, wraps included.
        masks: this market's.
        bits: values are residues modulo 2 to this.
        value_bound: largest absolute value before masking; None where values may wrap, which a sum of noised values
            does by post-processing: it is the same residue as that of the sum without wrapping.
    """

    def __init__(self, inner: MarketAggregator, masks: PairwiseMasks, *, bits: int, value_bound: int | None) -> None:
        self._inner, self.masks = inner, masks
        self._bound, self._bits = value_bound, bits

    def ready(self, cohort: tuple[str, ...]) -> None:
        """Raises ``AggregationError`` for a cohort in which the market, or a partner to hide behind, is missing."""
        self.masks.partners(cohort)
        self._inner.ready(cohort)

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Values under pairwise masks, which cancel in the sum over the whole cohort alone."""
        if self._bound is not None and np.abs(values).max(initial=0) > self._bound:
            raise AggregationError(f"a value exceeds ±{self._bound}: the sum could wrap")
        vector = sha256(values.astype("<i8").tobytes()).digest()
        mask = self.masks.draw(binding, len(values), self._bits, vector)
        return self._inner.protect(_centred(values.astype(np.uint64) + mask, self._bits), binding)

    def reveal(self, aggregate: bytes, binding: Binding) -> IntVector:
        """The sum, from residues to signed integers."""
        return _centred(self._inner.reveal(aggregate, binding).astype(np.uint64), self._bits)


def _centred(words: Words, bits: int) -> IntVector:
    """Residues modulo ``2**bits`` as integers from ``-2**(bits-1)`` on."""
    half = np.uint64(2 ** (bits - 1))
    reduced = (words + half) & np.uint64(2**bits - 1)
    return np.asarray(reduced.astype(np.int64) - np.int64(half), dtype=np.int64)
