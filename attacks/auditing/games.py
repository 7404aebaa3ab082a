"""Games of membership against the mechanisms that release something, on data that a worst-case adversary chose.

Each game plays a mechanism of the product, called as the pipeline calls it, many times with one canary in the data and
as often without; the score is the log-likelihood ratio that the adversary computes from what was released. The data are
chosen so that the canary moves the release as far as the sensitivity allows: a mechanism that adds less noise than its
ledger line says, or lets one user contribute more, is then seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts, contributions, release_counts, timed
from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.data.market import Market
from privacy.aggregation import PairwiseMasks
from privacy.aggregation.base import Binding
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import (
    DIAGONAL,
    OFF_DIAGONAL,
    gram_of_sum,
    gram_part,
    noise_of_sum,
    rows_of_sum,
    rows_part,
)

Scores = NDArray[np.float64]
MakeNoise = Callable[[], NoiseSource]


@dataclass(frozen=True)
class Played:
    """Scores of canaries in the data and of canaries outside, ``(n,)`` each, the larger the surer of "in"."""

    inside: Scores
    outside: Scores

    def __add__(self, other: Played) -> Played:
        """Both releases of the same canaries: log-likelihood ratios add up."""
        n_in, n_out = min(len(self.inside), len(other.inside)), min(len(self.outside), len(other.outside))
        return Played(self.inside[:n_in] + other.inside[:n_in], self.outside[:n_out] + other.outside[:n_out])


def with_and_without(score: Callable[[bool], float], games: int) -> Played:
    """``games`` scores with the canary in the data, then as many without."""
    inside, outside = (np.array([score(present) for _ in range(games)]) for present in (True, False))
    return Played(inside, outside)


def play_counts(
    choices: ContributionConfig, times: bool, noise_multiplier: float, games: int, noise: MakeNoise
) -> Played:
    """Noisy counts, with and without a canary who touched every item, at the date that weighs most.

    With ``times`` the canary is in the counts and in what they are beside, when they were, at once.
    """
    with_canary, without = _counts_market(choices)
    everyone = np.arange(with_canary.n_rows)
    parts = timed(contributions(with_canary, everyone, choices, noise_multiplier), with_canary, everyone, choices)
    counts, moments = (np.asarray(part.todense())[-1] for part in parts)
    moved = np.concatenate([counts, choices.time_weight * moments]) if times else counts
    moved = moved / max(1.0, float(np.linalg.norm(moved)))  # what the canary may move at most

    def score(present: bool) -> float:
        market = with_canary if present else without
        rows = np.arange(market.n_rows)
        found = release_counts(market, rows, choices, noise_multiplier, noise(), times=times)
        released = found.values if found.moments is None else np.concatenate([found.values, found.moments])
        return float(released @ moved) / noise_multiplier**2

    return with_and_without(score, games)


def play_embedding(choices: PrivateEmbeddingConfig, noise_multiplier: float, games: int, noise: MakeNoise) -> Played:
    """Private item factors, with and without a canary whose row is that of a crowd.

    The crowd fixes the leading eigenvector; the canary then moves its eigenvalue by the whole sensitivity. Only the
    eigenvectors and eigenvalues are read, as released. Subspace iteration releases the last of several steps: it gives
    away less than it is charged for.
    """
    n_items = max(2 * choices.dim, 16)
    # far above the noise's edge, so that noise does not turn the leading eigenvector
    crowd = int(np.ceil(40.0 * (noise_multiplier + 1.0) * np.sqrt(n_items)))
    counts = ItemCounts(np.full(n_items, 1e6), 1.0)
    favourite = np.zeros(n_items)
    favourite[:4] = 1.0

    def score(with_canary: bool) -> float:
        users, own = crowd + int(with_canary), np.flatnonzero(favourite)
        entries = np.repeat(np.arange(users), len(own)), np.tile(own, users)
        rows = sparse.csr_array((np.ones(users * len(own)), entries), shape=(crowd + 1, n_items))
        embedding = DPSVDEmbedding(counts, choices)
        found = embedding.release(rows, noise_multiplier, noise())
        unit = favourite / np.linalg.norm(favourite)
        strength = (found.factors.T @ unit) ** 2 @ found.eigenvalues
        return float(strength - crowd) / noise_multiplier**2

    return with_and_without(score, games)


def play_shared_counts(norm: float, honest: int, games: int, noise: MakeNoise) -> Played:
    """Summed counts of ``honest`` markets, with and without a canary who is in one of them; colluders took theirs off.

    The canary moves one coordinate by the whole of a user's contribution.
    """
    nobody, canary = sparse.csr_array((1, 8)), sparse.csr_array(([1.0], ([0], [3])), shape=(1, 8))

    def score(present: bool) -> float:
        parts = [rows_part(canary if present and not market else nobody, norm, noise()) for market in range(honest)]
        total = rows_of_sum(np.sum([part.values for part in parts], axis=0), norm)
        return float(total[3]) / noise_of_sum(norm, honest) ** 2

    return with_and_without(score, games)


def play_shared_gram(norm: float, honest: int, games: int, noise: MakeNoise) -> Played:
    """The summed Gram matrix of ``honest`` markets, likewise; the canary's row is spread over several items."""
    row = np.zeros((1, 8))
    row[0, 2:6] = 0.5
    nobody, canary = sparse.csr_array((1, 8)), sparse.csr_array(row)
    spread = np.full((8, 8), DIAGONAL / OFF_DIAGONAL)
    np.fill_diagonal(spread, 1.0)
    once = np.triu(np.outer(row[0], row[0]) / spread**2)  # the log-likelihood ratio's direction, each pair once

    def score(present: bool) -> float:
        parts = [gram_part(canary if present and not market else nobody, norm, noise()) for market in range(honest)]
        total = gram_of_sum(np.sum([part.values for part in parts], axis=0), norm, 8)
        return float((total * once).sum()) / noise_of_sum(norm, honest) ** 2

    return with_and_without(score, games)


def play_masks(bits: int, games: int, noise: MakeNoise) -> Played:
    """Masked vectors of two rounds, opened by a server that colludes with a key holder.

    The canary moves the second vector by one unit in every coordinate; the first is known. Masks that are fresh leave
    nothing to see. ``noise`` is not used: masks come from keys.
    """
    length, modulus = 64, 2**bits
    rng = np.random.default_rng()

    def score(with_canary: bool) -> float:
        honest = PairwiseMasks("a", X25519PrivateKey.generate())
        honest.meet({"b": X25519PrivateKey.generate().public_key().public_bytes_raw()})
        values = rng.integers(0, 1000, length).astype(np.uint64)
        opened = [
            (values + move + honest.draw(Binding("run", "quantizer/0", round, 0, ("a", "b")), length, bits)) % modulus
            for round, move in ((0, np.uint64(0)), (1, np.uint64(with_canary)))
        ]
        difference = ((opened[1] - opened[0]) % modulus).astype(np.int64)
        return float((difference == 1).mean()) + 1e-9 * rng.random()  # ties are broken by chance

    return with_and_without(score, games)


def _counts_market(choices: ContributionConfig) -> tuple[Market, Market]:
    """A market whose last user is the canary, and the same without the canary's rows."""
    n_items, crowd = 40, 10
    user = np.concatenate([np.arange(crowd), np.full(n_items, crowd)])
    item = np.concatenate([np.arange(crowd), np.arange(n_items)])
    day = choices.reference_date
    moment = 0 if day is None else int(np.datetime64(day, "ns").astype(np.int64))

    def market(rows: NDArray[np.bool_]) -> Market:
        return Market(
            name="audit",
            user_ids=np.arange(crowd + 1).astype(object),
            item_ids=np.arange(n_items).astype(object),
            user=user[rows],
            item=item[rows],
            rating=np.full(int(rows.sum()), np.nan),
            time=np.full(int(rows.sum()), moment),
            calendar=True,
        )

    return market(np.ones(len(user), dtype=bool)), market(user < crowd)
