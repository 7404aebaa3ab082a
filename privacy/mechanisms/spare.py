"""Spare coordinates of a mechanism, and canaries in them: crafted users whose coordinates are nobody else's.

A canary goes through the mechanism's own clipping, cut and sum, in a spare coordinate that is noised by the same draw
as all others. **No user's privacy changes by it, not by a bit:** the released coordinates of users are the same
function of their rows and of the same noise whether there are canaries or not, since a canary's integers are zero there
and a user's are zero in the spare ones; canaries are sampled by coins of their own, divisors count no canary, and the
noise of spare coordinates was drawn before, too. A test compares all that is released, bit by bit, with and without.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from privacy.arrays import IntArray
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource
from privacy.mechanisms.sampling import PoissonSampler

STEEP = 1e3  # of what a user may contribute: what a canary brings before it is clipped


@dataclass(frozen=True)
class Spare:
    """Spare coordinates of one noisy sum.

    Attributes:
        count: how many.
        member: whether canary ``i``, whose coordinate is the ``i``-th, is in the data: ``(n,)``, ``n <= count``.
        crowd: canaries that are all in, in the one coordinate that follows: their sum says what one of them weighs, to
            a part in ``crowd`` over the noise.
        sampling: key of the coins by which canaries are sampled, where users are; None without canaries.
    """

    count: int
    member: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    crowd: int = 0
    sampling: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.member) + bool(self.crowd) > self.count:
            raise ValueError(f"{self.count} spare coordinates for {len(self.member)} canaries and a crowd")

    @classmethod
    def of(cls, spare: int | Spare) -> Spare:
        """So many without a canary, or as given."""
        return spare if isinstance(spare, Spare) else cls(spare)

    @property
    def present(self) -> IntArray:
        """The coordinate of each canary that is in."""
        return np.concatenate([np.flatnonzero(self.member), np.full(self.crowd, len(self.member))])

    @property
    def coins(self) -> tuple[NoiseSource, int]:
        """Coins of canaries' own by which they are sampled, and how many toss one; nobody without a key."""
        if self.sampling is None:
            return NoiseSource(bytes(KEY_BYTES), seeded=True), 0
        return NoiseSource(self.sampling, seeded=False), len(self.present)

    def samples(self, rate: float, steps: int) -> list[IntArray]:
        """The coordinate of each canary that is in and sampled, for each step."""
        sampler, present = PoissonSampler(rate, [self.coins]), self.present
        return [present[sampler.draw()] for _ in range(steps)]

    def beside(self, rows: sparse.csr_array) -> sparse.csr_array:
        """Users' rows ``(n_users, n)`` and canaries' below them, over ``n`` coordinates and the spare ones."""
        n_users, n = rows.shape
        canaries = self.present
        return sparse.csr_array(
            (
                np.concatenate([rows.data.astype(np.float64), np.full(len(canaries), STEEP)]),
                np.concatenate([rows.indices, (n + canaries).astype(rows.indices.dtype)]),
                np.concatenate([rows.indptr, rows.indptr[-1] + 1 + np.arange(len(canaries), dtype=rows.indptr.dtype)]),
            ),
            shape=(n_users + len(canaries), n + self.count),
        )
