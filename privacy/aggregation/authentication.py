"""Sums that a server cannot forge: a linear tag travels with every vector, and adds up as the vectors do.

The markets share a key that the server lacks (``SharedKey.tag``). From it and from what a vector is for, all of them
expand a random vector ``r`` modulo ``P = 2^61 - 1`` and a pad ``p_i`` for each market ``i`` of the cohort; each pair of
markets derives a share from its own secret, which one adds and the other subtracts, ``z_i`` in total, so that
``sum_i z_i = 0``. The tag of the integers ``v_i`` is ``t_i = <r, v_i> + p_i + z_i mod P``. It travels behind them as
``ceil(61 / bits)`` *limbs*, integers from 0 to ``2^bits - 1``, which add up exactly wherever values of that size do.
From a sum ``V`` and sums of limbs ``S_j``, a market computes ``T = sum_j 2^(bits j) S_j mod P`` and believes ``V`` only
if ``T = <r, V> + sum_i p_i mod P``. Such tags go back to Wegman and Carter (JCSS, 1981); that they add up is what
Agrawal and Boneh use (Homomorphic MACs, ACNS, 2009).

**No forgery.** Take the expansions for random (HKDF and ChaCha20 are pseudorandom functions) and let the server know
everything but them: all ``v_i``, all ``t_i``, the encryption key. Whatever ``r`` is, exactly one set of pads explains
the tags, and pads are uniform: so the tags say nothing of ``r``, and fix ``sum_i p_i = sum_i t_i - <r, V>``. Let
``(V', T')`` be any function of what the server knows and of its coins: an offset, a sum of fewer, of more, a multiple,
another round's, a stranger's, a sum whose digits carried into each other. It passes if and only if
``<r, V' - V> = T' - sum_i t_i``. Where ``V'`` differs from ``V``, it does so modulo ``P`` (both are within
``±(P-1)/2``, which is checked), so the other coordinates of ``r`` fix one. It is a 64-bit word reduced modulo ``P``,
which takes no value with a probability above ``9 / 2^64``: a forgery passes with probability **below 2^-60**. (Pads
and shares are reduced from 256 bits and are within ``2^-190`` of uniform.) Tags of another run, round, attempt, cohort
or set of mask keys have an independent ``r`` and pads, so that the tag of a replay is right with probability ``1/P``.
A failed question ends the run and burns the key: a market answers one.

**What an answer says.** What passes is the sum itself, to the last integer, wraps and carries included. Whether a sum
passed is one bit, and is ``no`` once at most: over ``Q`` sums a market's answers are one of ``Q + 1`` strings, and say
at most ``log2(Q + 1)`` bits of anything, the encryption key included.

**No leak.** The server sees tags that are uniform whatever the vectors are, and under encryption not even those. A
market sees ``V`` and the limbs' sums ``S_j``. The ``z_i`` are uniform among those that add up to 0, so the tags are
uniform among those that add up to ``T``, and the ``S_j`` depend on ``T`` alone, which follows from ``V`` and the shared
key. (Without ``z_i`` they would not: a market knows ``r`` and the pads, and carries between limbs would tell it of
single vectors.) The same holds for colluding markets and the rest of the cohort, as long as two of it are honest.

**What it is not.** A market knows ``r`` and all pads: a server with one market inside forges what it likes. Against
those, masks and noise carry the claim (``privacy.aggregation.masking``). With masks the tag is over the *masked*
values, which whoever holds the encryption key could open anyway: it tells them nothing more. So it holds for the
residues that travel, and a sum that leaves its range wraps without harm to it.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from privacy.aggregation.base import AggregationError, Binding, Carrier, ForgedSumError, IntVector
from privacy.aggregation.masking import PairwiseMasks
from privacy.aggregation.mersenne import MersennePrime
from privacy.aggregation.streams import derive_key, stream
from privacy.arrays import Words

TAG_KEY_BYTES = 32
TAG_PRIME = MersennePrime(61)
_PAD_BYTES = 32


@dataclass(frozen=True)
class SumTags:
    """The tags of vectors of one length under one shared key.

    Attributes:
        key: what the markets share, 32 bytes.
        length: values of a vector, without the tag.
        limb_bits: bits of the integers that a tag travels as.
        prime: what tags are modulo; a smaller one than the default is for tests, which count forgeries.
    """

    key: bytes = field(repr=False)
    length: int
    limb_bits: int
    prime: MersennePrime = TAG_PRIME

    @property
    def limbs(self) -> int:
        """Vectors of small integers that one tag travels in."""
        return limb_count(self.limb_bits, self.prime)

    def tag(self, values: IntVector, binding: Binding, market: str, run_keys: bytes, share: int) -> int:
        """The tag of one market's values ``(length,)``.

        Args:
            values: integers within ``±(P-1)/2``.
            binding: what they are for.
            market: whose they are, one of the cohort.
            run_keys: digest of the cohort's mask keys: a run that is copied and goes on has tags of its own.
            share: the market's ``z_i``.
        """
        r, pads = self._expand(binding, run_keys)
        own = pads[binding.cohort.index(market)]
        return (self.prime.dot(r, self.prime.of_integers(values)) + own + share) % self.prime.value

    def of_sum(self, total: IntVector, binding: Binding, run_keys: bytes) -> int:
        """The tag that the sum ``(length,)`` of the whole cohort must have."""
        r, pads = self._expand(binding, run_keys)
        return (self.prime.dot(r, self.prime.of_integers(total)) + sum(pads)) % self.prime.value

    def split(self, tag: int) -> IntVector:
        """Limbs of a tag, lowest first, each from 0 below ``2**limb_bits``."""
        low = 2**self.limb_bits - 1
        return np.array([tag >> self.limb_bits * at & low for at in range(self.limbs)], dtype=np.int64)

    def join(self, limbs: IntVector) -> int:
        """The tag that limbs, or sums of limbs, stand for."""
        return sum(int(limb) << self.limb_bits * at for at, limb in enumerate(limbs)) % self.prime.value

    def in_range(self, values: IntVector) -> bool:
        """Whether two such vectors that differ also differ modulo ``P``."""
        half = self.prime.value // 2
        return bool(values.min(initial=0) >= -half and values.max(initial=0) <= half)

    def _expand(self, binding: Binding, run_keys: bytes) -> tuple[Words, list[int]]:
        """``r`` ``(length,)``, and the pads in the order of the cohort."""
        size = _PAD_BYTES * len(binding.cohort)
        drawn = stream(derive_key(self.key, b"fedmm-secure tag\0" + run_keys + binding.context), size + 8 * self.length)
        pads = [int.from_bytes(drawn[at : at + _PAD_BYTES], "big") for at in range(0, size, _PAD_BYTES)]
        words = np.frombuffer(drawn, "<u8", offset=size).astype(np.uint64)
        return self.prime.of_words(words), [pad % self.prime.value for pad in pads]


def limb_count(limb_bits: int, prime: MersennePrime = TAG_PRIME) -> int:
    """Values that a tag travels as."""
    return math.ceil(prime.exponent / limb_bits)


class AuthenticatedMarket:
    """A carrier whose sums can be believed.

    Args:
        carrier: how the values and, behind them, the limbs of the tag travel.
        tags: the federation's tags.
        masks: this market's, which hide single tags from the other markets.
    """

    def __init__(self, carrier: Carrier, tags: SumTags, masks: PairwiseMasks) -> None:
        self.carrier, self.tags, self.masks = carrier, tags, masks

    def ready(self, cohort: tuple[str, ...]) -> None:
        """Raises ``AggregationError`` for a cohort with a market whose mask key is not known here."""
        self.masks.others(cohort)

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Values and the limbs of their tag, carried as one vector."""
        tags, masks = self.tags, self.masks
        if values.shape != (tags.length,) or not tags.in_range(values):
            raise AggregationError(f"{tags.length} values within ±{tags.prime.value // 2} were expected")
        share = masks.zero_share(binding, tags.prime)
        tag = tags.tag(values, binding, masks.market, masks.digest(binding.cohort), share)
        protected = self.carrier.protect(np.concatenate([values, tags.split(tag)]), binding)
        # two vectors under one r would give away an equation that r solves
        masks.claim("tag", binding, sha256(values.astype("<i8").tobytes()).digest())
        return protected

    def reveal(self, aggregate: bytes, binding: Binding) -> IntVector:
        """The sum whose tag is the sum of the cohort's tags; every other one raises ``ForgedSumError``, after the same
        work.
        """
        tags, problem = self.tags, None
        try:
            opened = self.carrier.reveal(aggregate)
        except Exception as error:  # whatever it is, the answer is the same, after the same work
            problem, opened = error, np.zeros(tags.length + tags.limbs, dtype=np.int64)
        total, limbs = opened[: tags.length], opened[tags.length :]
        wanted = tags.of_sum(total, binding, self.masks.digest(binding.cohort))
        same = hmac.compare_digest(tags.join(limbs).to_bytes(8, "big"), wanted.to_bytes(8, "big"))
        within = tags.in_range(total)
        if problem is not None or not (same and within):
            raise ForgedSumError from problem
        return total
