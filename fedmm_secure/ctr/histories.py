"""What some of a market's rows say of users and items: counts, scores, times; and the same for accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.neighbours import COSINE_SHRINKAGE, EASE_REGULARISATION, cosine_weights, ease_weights
from fedmm_secure.collaborative.shared import SharedStatistics, days
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.ctr.pairs import sums_of_pairs
from fedmm_secure.ctr.shared_features import SVD_RANKS, SharedScoreModels, SharedScores, met_elsewhere
from fedmm_secure.data.candidates import Pool
from fedmm_secure.data.market import FloatArray, IntArray, Market, history_matrix
from fedmm_secure.quantization.codes import Codes, one_hot

AFFINITY_PRIOR = 2.0
RECENT_SHARE = 0.1  # time constant of the recent count, as a share of the market's time span


@dataclass(frozen=True)
class Clock:
    """A market's times from 0 to 1; 0 always where file order stands in for time.

    Attributes:
        start: the first of its times.
        span: from the first to after the last; infinite without times.
        end: where its rows end on this clock.
        last_day: day since 1970 of its last row.
    """

    start: float
    span: float
    end: float
    last_day: float

    @classmethod
    def of(cls, market: Market) -> Clock:
        """First and last time of a market; a clock that stands still where there are none."""
        if not market.has_time or not market.n_rows:
            return cls(0.0, np.inf, 0.0, 0.0)
        start, last = float(market.time.min()), float(market.time.max())
        return cls(start, last - start + 1.0, 1.0, float(days(market).max()))

    def relative(self, time: IntArray) -> FloatArray:
        """Times ``(n,)`` in [0, 1), those of the market's rows."""
        return np.asarray((time.astype(np.float64) - self.start) / self.span)


class History:
    """Interactions that features may be computed from, with score models fitted to them on demand.

    Args:
        market: the market.
        rows: row numbers of the market that belong to the history.
        pool: the candidate pool; item-item scores are computed between its items.
        shared: what other markets know of the items, None where ids have nothing to do with each other.
    """

    def __init__(self, market: Market, rows: IntArray, pool: Pool, shared: SharedStatistics | None = None) -> None:
        self.pool, self.n_users, self.n_items = pool, market.n_users, market.n_items
        self.user, self.item = market.user[rows], market.item[rows]
        self.clock = Clock.of(market)
        self._time = self.clock.relative(market.time[rows])
        self.matrix = history_matrix(market, rows)
        self.item_count = np.bincount(self.item, minlength=market.n_items).astype(np.float64)
        self.user_count = np.bincount(self.user, minlength=market.n_users).astype(np.float64)
        self._models: ScoreModels | None = None
        self._scores: Scores | None = None
        self._recency: dict[str, FloatArray] | None = None
        self._elsewhere = None if shared is None else _Elsewhere(shared, market, rows)

    def counts(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Exact ones, of the rows that it was made of."""
        return {
            "item_count": np.log1p(self.item_count[item]),
            "user_count": np.log1p(self.user_count[user]),
        }

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """SVD at several ranks, EASE and item-kNN; items must be in the pool."""
        if self._scores is None:
            self._scores = self.score_models().on(self.matrix)
        return self._scores(user, item, self.user_count)

    def pool_scores(self, user: IntArray) -> dict[str, FloatArray]:
        """Scores ``(n, n_pool)`` of all items of the pool for users ``(n,)``, by EASE, item-kNN and SVD."""
        if self._scores is None:
            self._scores = self.score_models().on(self.matrix)
        return self._scores.of_pool(user)

    def score_models(self) -> ScoreModels:
        """Score models fitted to the history's rows, once."""
        if self._models is None:
            pooled = sparse.csr_array(self.matrix[:, self.pool.items])
            weights = ease_weights(pooled, EASE_REGULARISATION), cosine_weights(pooled, COSINE_SHRINKAGE)
            self._models = ScoreModels(self.pool, *weights, SVDEmbedding(max(SVD_RANKS)).fit(self.matrix))
        return self._models

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """When the user and the item were active, from the history's times; zeros without times."""
        found = self._recency = self._recency or self._fit_recency()
        return self.recency_at(found["user_last"][user], found["user_mean"][user], item)

    def recency_at(self, user_last: FloatArray, user_mean: FloatArray, item: IntArray) -> dict[str, FloatArray]:
        """The same for users whose last and mean times ``(n,)`` are given."""
        found = self._recency = self._recency or self._fit_recency()
        item_mean, item_first = found["item_mean"][item], found["item_first"][item]
        return {
            "item_mean_time": item_mean,
            "item_first_time": item_first,
            "item_last_time": found["item_last"][item],
            "item_recent_count": np.log(found["item_recent"][item] + 1e-3),
            "user_last_time": user_last,
            "user_mean_time": user_mean,
            "item_mean_since_user_last": item_mean - user_last,
            "item_mean_since_user_mean": item_mean - user_mean,
            "item_first_since_user_last": item_first - user_last,
        }

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """What other markets know of the items, with the user's own rows of the history."""
        found = self.elsewhere
        times = met_elsewhere(found.statistics, found.user_last[user], found.user_mean[user], item)
        return times | found.scores(user, item, self.user_count)

    @property
    def elsewhere(self) -> _Elsewhere:
        """Raises ``ValueError`` where nothing was summed over markets."""
        if self._elsewhere is None:
            raise ValueError("shared features need data.shared_items: nothing was summed over markets")
        return self._elsewhere

    def activity(self, accounts: Market) -> Activity:
        """When accounts were active, by their own rows; one without rows, or without times, as ``active_now`` says."""
        found = self.active_now(accounts.n_users)
        if not accounts.has_time:
            return found
        user, count = accounts.user, np.bincount(accounts.user, minlength=accounts.n_users)

        def aggregated(values: FloatArray, last: FloatArray, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
            latest = np.where(count > 0, -np.inf, last)
            np.maximum.at(latest, user, values)
            sums = np.bincount(user, values, minlength=accounts.n_users)
            return latest, np.where(count > 0, sums / np.maximum(count, 1), mean)

        relative = np.clip(self.clock.relative(accounts.time), 0.0, 1.0)  # what came later happened at the end
        last, mean = aggregated(relative, found.last, found.mean)
        return Activity(last, mean, *aggregated(days(accounts).astype(np.float64), found.last_day, found.mean_day))

    def active_now(self, n: int) -> Activity:
        """Of ``n`` accounts whose rows are the last thing that happened."""
        now, today = np.full(n, self.clock.end), np.full(n, self.clock.last_day)
        return Activity(now, now, today, today)

    def account_lift(self, codes: Codes, n_codes: int) -> FloatArray | None:
        """``code_lift`` of the history's own rows, by the codes of its users and items."""
        return self.code_lift(codes, sparse.csr_array(self.matrix @ one_hot(codes.item[:, 0], n_codes)))

    def code_lift(self, codes: Codes, seen: sparse.csr_array) -> FloatArray | None:
        """From all users' rows; ``seen (n_users, n_codes)`` counts the item codes in each user's history."""
        users = one_hot(codes.user[:, 0], seen.shape[1])
        joint = np.asarray((users.T @ seen).todense())
        expected = np.outer(joint.sum(1), joint.sum(0)) / max(joint.sum(), 1.0)
        return np.asarray(np.log((joint + AFFINITY_PRIOR) / (expected + AFFINITY_PRIOR)))

    def _fit_recency(self) -> dict[str, FloatArray]:
        time, n_items, n_users = self._time, self.n_items, self.n_users
        item_first, item_last, user_last = np.ones(n_items), np.zeros(n_items), np.zeros(n_users)
        np.minimum.at(item_first, self.item, time)
        np.maximum.at(item_last, self.item, time)
        np.maximum.at(user_last, self.user, time)
        recent = np.exp((time - 1.0) / RECENT_SHARE)
        return {
            "item_mean": np.bincount(self.item, time, minlength=n_items) / np.maximum(self.item_count, 1.0),
            "item_first": item_first,
            "item_last": item_last,
            "item_recent": np.bincount(self.item, recent, minlength=n_items).astype(np.float64),
            "user_last": user_last,
            "user_mean": np.bincount(self.user, time, minlength=n_users) / np.maximum(self.user_count, 1.0),
        }


class _Elsewhere:
    """What other markets know, and a history's rows beside it."""

    def __init__(self, statistics: SharedStatistics, market: Market, rows: IntArray) -> None:
        self.statistics = statistics
        user, day = market.user[rows], days(market)[rows].astype(np.float64)
        self.user_last = np.full(market.n_users, float(day.min(initial=float(days(market).max(initial=0)))))
        np.maximum.at(self.user_last, user, day)
        count = np.bincount(user, minlength=market.n_users)
        sums = np.bincount(user, day, minlength=market.n_users)
        self.user_mean = np.where(count > 0, sums / np.maximum(count, 1), self.user_last)
        self._histories = statistics.histories(user, market.item[rows], market.n_users)
        self._models: SharedScoreModels | None = None
        self._scores: SharedScores | None = None

    def score_models(self) -> SharedScoreModels:
        """Score models fitted to all markets, once."""
        if self._models is None:
            self._models = SharedScoreModels.fit(self.statistics, self._histories)
        return self._models

    def scores(self, user: IntArray, item: IntArray, user_count: FloatArray) -> dict[str, FloatArray]:
        if self._scores is None:
            self._scores = self.score_models().on(self._histories)
        return self._scores(user, item, user_count)


@dataclass(frozen=True)
class ScoreModels:
    """EASE and item-kNN between the items of a pool, and SVD."""

    pool: Pool
    ease: FloatArray
    cosine: FloatArray
    svd: SVDEmbedding

    def on(self, history: sparse.csr_array) -> Scores:
        """Scores of users with histories ``(n_users, n_items)``."""
        pooled = sparse.csr_array(history[:, self.pool.items])
        return Scores(self, pooled, self.svd.transform(history))


@dataclass(frozen=True)
class Scores:
    """Scores of users by models, computed for the pairs that are asked for: those of all would be users times items.

    Attributes:
        models: what scores.
        pooled: the users' histories over the items of the pool, ``(n_users, n_pool)``.
        user_factors: of SVD, ``(n_users, dim)``.
    """

    models: ScoreModels
    pooled: sparse.csr_array
    user_factors: FloatArray

    def __call__(self, user: IntArray, item: IntArray, user_count: FloatArray) -> dict[str, FloatArray]:
        """By name, scores ``(n,)`` of pairs of users and items; ``user_count`` is of all users."""
        models = self.models
        column = np.searchsorted(models.pool.items, item)
        users, items = self.user_factors[user], models.svd.item_factors_[item]
        products = users * items
        found: dict[str, Any] = {f"svd{rank}": products[:, :rank].sum(1) for rank in SVD_RANKS}
        norms = np.linalg.norm(users[:, :32], axis=1) * np.linalg.norm(items[:, :32], axis=1)
        # of a vector that is rounding noise there is no direction
        found["svd32_cosine"] = np.where(norms > 1e-9, found["svd32"] / np.maximum(norms, 1e-9), 0.0)
        found["ease"] = sums_of_pairs(self.pooled, models.ease, user, column)
        found["knn"] = sums_of_pairs(self.pooled, models.cosine, user, column)
        found["knn_mean"] = found["knn"] / np.maximum(user_count[user], 1.0)
        return found

    def of_pool(self, user: IntArray) -> dict[str, FloatArray]:
        """Scores ``(n, n_pool)`` of all items of the pool."""
        models, pooled = self.models, sparse.csr_array(self.pooled[user])
        # rounded as the scores of single pairs are
        ease, knn = (np.asarray(pooled @ weights, np.float32) for weights in (models.ease, models.cosine))
        svd = self.user_factors[user, :32] @ models.svd.item_factors_[models.pool.items, :32].T
        return {"ease": ease.astype(np.float64), "knn": knn.astype(np.float64), "svd32": svd}


@dataclass(frozen=True)
class Activity:
    """When accounts were active, each ``(n,)``: on a history's clock, from 0 to 1, and in days since 1970."""

    last: FloatArray
    mean: FloatArray
    last_day: FloatArray
    mean_day: FloatArray


class AccountHistory:
    """Accounts that no row of the market need belong to, scored by models that were fitted to its rows.

    Args:
        fitted: the market's history.
        accounts: what the accounts interacted with, ``(n, n_items)``, binary.
        lift: how users of a code meet items of a code, from the market's rows; None where codes are no features.
        active: when the accounts were active; by default all at the end of the market's rows.
    """

    def __init__(
        self,
        fitted: History,
        accounts: sparse.csr_array,
        lift: FloatArray | None = None,
        active: Activity | None = None,
    ) -> None:
        self.matrix, self.pool = accounts, fitted.pool
        self.n_users, self.n_items = accounts.shape
        self.user_count: FloatArray = np.asarray(accounts.sum(axis=1), dtype=np.float64).ravel()
        self.item_count = fitted.item_count
        self._fitted, self._lift = fitted, lift
        self._active = active or fitted.active_now(self.n_users)
        self._scores: Scores | None = None
        self._shared: SharedScores | None = None

    def counts(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """The item's of the market, the user's of the account."""
        return {"item_count": np.log1p(self._fitted.item_count[item]), "user_count": np.log1p(self.user_count[user])}

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """By the market's models, of the accounts' rows."""
        if self._scores is None:
            self._scores = self._fitted.score_models().on(self.matrix)
        return self._scores(user, item, self.user_count)

    def pool_scores(self, user: IntArray) -> dict[str, FloatArray]:
        """Scores ``(n, n_pool)`` of all items of the pool for accounts ``(n,)``."""
        if self._scores is None:
            self._scores = self._fitted.score_models().on(self.matrix)
        return self._scores.of_pool(user)

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """The item's of the market, the user's of the account."""
        return self._fitted.recency_at(self._active.last[user], self._active.mean[user], item)

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """What the others know of the item, for the accounts' rows and times."""
        found = self._fitted.elsewhere
        times = met_elsewhere(found.statistics, self._active.last_day[user], self._active.mean_day[user], item)
        if self._shared is None:
            pairs = self.matrix.tocoo()
            rows, items = (part.astype(np.int64) for part in pairs.coords)
            histories = found.statistics.histories(rows, items, self.n_users)
            self._shared = found.score_models().on(histories)
        return times | self._shared(user, item, self.user_count)

    def code_lift(self, codes: Codes, seen: sparse.csr_array) -> FloatArray | None:
        """From the market's rows: accounts change nothing."""
        return self._lift
