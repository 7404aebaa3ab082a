"""CTR features from what other markets know of an item: how often and when it was met there, and beside which items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.neighbours import COSINE_SHRINKAGE, EASE_REGULARISATION, cosine_of, ease_of
from fedmm_secure.collaborative.shared import SharedStatistics
from fedmm_secure.collaborative.shared_svd import shared_factors
from fedmm_secure.collaborative.svd import normalised
from fedmm_secure.ctr.pairs import sums_of_pairs
from fedmm_secure.data.market import FloatArray, IntArray

SVD_RANKS = (8, 16, 32, 64)
YEAR = 365.25  # days


@dataclass(frozen=True)
class SharedScoreModels:
    """Item-item weights and factors of the co-occurrence in all markets, one's own rows of a history included."""

    shared: SharedStatistics
    ease: FloatArray
    cosine: FloatArray
    factors: FloatArray
    weight: FloatArray

    @classmethod
    def fit(cls, shared: SharedStatistics, histories: sparse.csr_array) -> SharedScoreModels:
        """From what others know and a market's own binary histories ``(n_users, n)`` over the items of the matrix."""
        gram = shared.gram + np.asarray((histories.T @ histories).todense())
        factors, weight = shared_factors(gram, max(SVD_RANKS))
        return cls(shared, ease_of(gram, EASE_REGULARISATION), cosine_of(gram, COSINE_SHRINKAGE), factors, weight)

    def on(self, histories: sparse.csr_array) -> SharedScores:
        """Scores of users with histories ``(n_users, n)``."""
        return SharedScores(self, histories, np.asarray(normalised(histories, self.weight) @ self.factors))


@dataclass(frozen=True)
class SharedScores:
    """Scores between users of a market and items of the matrix, of the pairs that are asked for; 0 for an item outside.

    Attributes:
        models: what scores.
        histories: of the users, over the items of the matrix, ``(n_users, n)``.
        users: their factors, ``(n_users, dim)``.
    """

    models: SharedScoreModels
    histories: sparse.csr_array
    users: FloatArray

    def __call__(self, user: IntArray, item: IntArray, user_count: FloatArray) -> dict[str, FloatArray]:
        """By name, scores ``(n,)`` of pairs of users and items; ``user_count`` is of all users."""
        models, factors = self.models, self.models.factors
        column = models.shared.column[item]
        known = (column >= 0).astype(np.float64)
        products = self.users[user] * factors[column] * known[:, None]
        found: dict[str, FloatArray] = {"shared_known": known}
        found |= {f"shared_svd{rank}": products[:, :rank].sum(axis=1) for rank in SVD_RANKS}
        norms = np.linalg.norm(self.users[user, :32], axis=1) * np.linalg.norm(factors[column, :32], axis=1)
        found["shared_svd32_cosine"] = found["shared_svd32"] / np.maximum(norms, 1e-12)
        found["shared_ease"] = sums_of_pairs(self.histories, models.ease, user, column) * known
        found["shared_knn"] = sums_of_pairs(self.histories, models.cosine, user, column) * known
        found["shared_knn_mean"] = found["shared_knn"] / np.maximum(user_count[user], 1.0)
        return found


def met_elsewhere(
    shared: SharedStatistics, user_last: FloatArray, user_mean: FloatArray, item: IntArray
) -> dict[str, FloatArray]:
    """How often, and when, other markets met an item, against when this market's user was active.

    Args:
        shared: what other markets know.
        user_last: day of the user's last row, for each pair ``(n,)``.
        user_mean: mean day of the user's rows, likewise.
        item: items of the pairs, ``(n,)``.
    """
    at = shared.position[item]
    count = np.where(at >= 0, shared.count[at], 0.0)
    total = max(float(shared.count.sum()), 1.0)
    everything = float((shared.count * shared.day).sum()) / total  # of an item that nobody else has met
    day = np.where(count > 0, shared.day[at], everything)
    return {
        "shared_count": np.log1p(count),
        "shared_mean_time": day / YEAR,
        "shared_mean_since_user_last": (day - user_last) / YEAR,
        "shared_mean_since_user_mean": (day - user_mean) / YEAR,
    }
