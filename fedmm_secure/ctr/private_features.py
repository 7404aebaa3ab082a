"""Features that may go into a released CTR model: one user's own rows, combined with private releases."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.codes import Codes

LEADING = 4  # factors whose partial score is a feature of its own


class PrivateHistory:
    """A feature of a (user, item) pair depends on that user's history, noisy counts and private factors alone.

    Args:
        embedding: private factors and noisy counts.
        matrix: binary histories ``(n_users, n_items)``; features of a row read that row only.
        active: when each user was active, last and on average, ``(n_users, 2)``, from -1 to 1; by default when the
            user's items were met.
    """

    def __init__(self, embedding: DPSVDEmbedding, matrix: sparse.csr_array, active: FloatArray | None = None) -> None:
        self.matrix = matrix
        self.n_users, self.n_items = matrix.shape
        self.user_count: FloatArray = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
        self._count = embedding.counts.scaled
        self._factors = embedding.item_factors_
        self._users = embedding.transform(matrix)
        self._reliability = embedding.reliability_
        chosen = np.zeros(self.n_items)
        chosen[embedding.items_] = 1.0
        per_row = np.maximum(self.user_count, 1.0)
        self._user_count_mean = np.asarray(matrix @ self._count).ravel() / per_row
        self._user_known = np.asarray(matrix @ chosen).ravel() / per_row
        self._elsewhere: tuple[FloatArray, FloatArray] | None = None
        if isinstance(embedding, SharedDPSVDEmbedding):
            self._elsewhere = embedding.shared_count_, embedding.shared_when_
            count, when = (np.asarray(matrix @ values).ravel() / per_row for values in self._elsewhere)
            self._user_shared_count = count
            self._active = np.stack([when, when], axis=1) if active is None else active

    def counts(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """How popular the item is, how popular the user's items are, and how far apart the two."""
        count, own = self._count[item], self._user_count_mean[user]
        return {
            "item_count": count,
            "user_count": np.log1p(self.user_count[user]),
            "user_item_count_mean": own,
            "count_gap": count - own,
            "count_gap_squared": (count - own) ** 2,
            "user_known_share": self._user_known[user],
        }

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Scores by the private factors: plain, weighted by how far each factor stands above the noise, and cosine."""
        products = self._users[user] * self._factors[item]
        length = np.linalg.norm(self._factors[item], axis=1)
        score = products.sum(axis=1)
        return {
            "svd": score,
            "svd_reliable": (products * self._reliability).sum(axis=1),
            "svd_leading": products[:, :LEADING].sum(axis=1),
            "svd_cosine": score / np.maximum(length * np.linalg.norm(self._users[user], axis=1), 1e-9),
            "item_factor_norm": length,
        }

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """None: recency of items is in the weights of the noisy counts."""
        return {}

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """How popular the item is in all markets and when, and how far that is from what the user met and when."""
        if self._elsewhere is None:
            return {}
        count, when = (values[item] for values in self._elsewhere)
        last, mean = self._active[user].T
        return {
            "shared_count": count,
            "shared_count_gap": count - self._user_shared_count[user],
            "shared_when": when,
            "user_last": last,
            "user_mean": mean,
            "when_since_last": when - last,
            "when_since_mean": when - mean,
            "when_since_last_squared": (when - last) ** 2,
        }

    def code_lift(self, codes: Codes, seen: FloatArray) -> FloatArray | None:
        """None: it would add up rows of all users."""
        return None
