"""Features that may go into a released CTR model: one user's own rows, combined with private releases."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.data.market import FloatArray, IntArray, rank_from_latest
from fedmm_secure.quantization.codes import Codes

LEADING = 4  # factors whose partial score is a feature of its own
LATEST = 12  # of a user's items, how many are compared with an item one by one
FADING = 0.7  # weight of an item over that of the user's next later one
SHRINKAGE = 10.0  # of co-occurrence, in units of its noise: items that were hardly met are like no other


def latest_items(user: IntArray, item: IntArray, n_users: int) -> IntArray:
    """Each user's items, the latest first, ``(n_users, LATEST)``; -1 where there are fewer.

    Rows ``(n,)`` are grouped by user, in time order.
    """
    found, place = np.full((n_users, LATEST), -1), rank_from_latest(user, n_users)
    kept = place < LATEST
    found[user[kept], place[kept]] = item[kept]
    return found


def in_any_order(matrix: sparse.csr_array) -> IntArray:
    """The same of histories ``(n_users, n_items)`` that say nothing of order: as they stand in the catalogue."""
    pairs = sparse.coo_array(sparse.csr_array(matrix).sorted_indices())
    return latest_items(pairs.coords[0].astype(np.int64), pairs.coords[1].astype(np.int64), matrix.shape[0])


class PrivateHistory:
    """A feature of a (user, item) pair depends on that user's history, noisy counts and private factors alone.

    Args:
        embedding: private factors and noisy counts.
        matrix: binary histories ``(n_users, n_items)``; features of a row read that row only.
        latest: each user's items, the latest first, ``(n_users, n)``, -1 where there are fewer; any order by default.
        active: when each user was active, last and on average, ``(n_users, 2)``, from -1 to 1; by default when the
            user's items were met.
    """

    def __init__(
        self,
        embedding: DPSVDEmbedding,
        matrix: sparse.csr_array,
        latest: IntArray | None = None,
        active: FloatArray | None = None,
    ) -> None:
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
        squares = np.asarray(matrix @ self._count**2).ravel() / per_row
        self._user_count_spread = np.sqrt(np.maximum(squares - self._user_count_mean**2, 0.0))
        self._latest = in_any_order(matrix) if latest is None else latest
        last = self._latest[:, 0]
        self._last_count = np.where(last >= 0, self._count[last], 0.0)
        clear = self._factors * self._reliability
        self._directions = clear / np.maximum(np.linalg.norm(clear, axis=1, keepdims=True), 1e-9)
        self._user_known = np.asarray(matrix @ chosen).ravel() / per_row
        self._gram, self._column = embedding.gram_, np.full(self.n_items, -1)
        self._column[embedding.items_] = np.arange(len(embedding.items_))
        self._gram_noise = max(embedding.gram_noise_, 1e-9)
        self._when = embedding.counts.when
        self._elsewhere: tuple[FloatArray, FloatArray] | None = None
        if isinstance(embedding, SharedDPSVDEmbedding):
            self._elsewhere = embedding.shared_count_, embedding.shared_when_
            count, when = (np.asarray(matrix @ values).ravel() / per_row for values in self._elsewhere)
            self._user_shared_count = count
            self._active = np.stack([when, when], axis=1) if active is None else active
        elif self._when is not None:
            when = np.asarray(matrix @ self._when).ravel() / per_row
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
            "user_item_count_spread": self._user_count_spread[user],
            "last_item_count": self._last_count[user],
            "count_since_last": count - self._last_count[user],
        }

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Scores by the private factors: of the user as a whole, and of the user's items one by one.

        Plain, weighted by how far each factor stands above the noise, and cosine; the likeness of the latest item, of
        the nearest, and the mean over items, later ones weighing more.
        """
        products = self._users[user] * self._factors[item]
        length = np.linalg.norm(self._factors[item], axis=1)
        score = products.sum(axis=1)
        return {
            "svd": score,
            "svd_reliable": (products * self._reliability).sum(axis=1),
            "svd_leading": products[:, :LEADING].sum(axis=1),
            "svd_cosine": score / np.maximum(length * np.linalg.norm(self._users[user], axis=1), 1e-9),
            "item_factor_norm": length,
            **self._likeness(user, item),
            **self._co_occurrence(user, item),
        }

    def _co_occurrence(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """How often the item was met beside the user's items, by the noisy Gram matrix; 0 where there is none."""
        names = ("together_most", "together_sum", "together_cosine_most", "together_cosine_sum")
        found = np.zeros((len(names), len(user)))
        if self._gram is None:
            return dict(zip(names, found, strict=True))
        scale = np.sqrt(np.maximum(np.diag(self._gram), 0.0) + SHRINKAGE * self._gram_noise)
        own = self._column[item]
        for met in self._latest.T:
            other = np.where(met[user] >= 0, self._column[met[user]], -1)
            known = (own >= 0) & (other >= 0) & (own != other)
            together = np.where(known, self._gram[own, other], 0.0)
            cosine = together / (scale[own] * scale[other])
            found[0], found[1] = np.maximum(found[0], together), found[1] + together
            found[2], found[3] = np.maximum(found[2], cosine), found[3] + cosine
        found[:2] = np.arcsinh(found[:2] / self._gram_noise)
        return dict(zip(names, found, strict=True))

    def _likeness(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        nearest, last, recent, weight = (np.zeros(len(user)) for _ in range(4))
        for place, met in enumerate(self._latest.T):
            other, fading = met[user], FADING**place
            known = other >= 0
            likeness = np.where(known, (self._directions[other] * self._directions[item]).sum(axis=1), 0.0)
            nearest = np.maximum(nearest, likeness)
            last = likeness if place == 0 else last
            recent, weight = recent + fading * likeness, weight + fading * known
        return {"svd_nearest": nearest, "svd_last": last, "svd_recent": recent / np.maximum(weight, 1e-9)}

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """When the item was met in this market, and how far that is from when the user was active.

        Raises:
            ValueError: the market released no times.
        """
        if self._when is None:
            raise ValueError("recency needs noisy item times, which were not released")
        return {f"own_{name}": values for name, values in self._since(self._when[item], user).items()}

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """How popular the item is in all markets and when, and how far that is from what the user met and when."""
        if self._elsewhere is None:
            return {}
        count, when = (values[item] for values in self._elsewhere)
        return {
            "shared_count": count,
            "shared_count_gap": count - self._user_shared_count[user],
            **{f"shared_{name}": values for name, values in self._since(when, user).items()},
        }

    def _since(self, when: FloatArray, user: IntArray) -> dict[str, FloatArray]:
        """When items were met, ``(n,)``, when their users were active, and how far apart the two."""
        last, mean = self._active[user].T
        return {
            "when": when,
            "user_last": last,
            "user_mean": mean,
            "when_since_last": when - last,
            "when_since_mean": when - mean,
            "when_since_last_squared": (when - last) ** 2,
        }

    def code_lift(self, codes: Codes, seen: sparse.csr_array) -> FloatArray | None:
        """None: it would add up rows of all users."""
        return None
