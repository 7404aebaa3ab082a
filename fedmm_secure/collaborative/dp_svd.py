"""Collaborative embeddings with user-level differential privacy: noisy item counts, then private item factors.

Each user takes part in two releases of one market, each of sensitivity 1 whatever the user's rows: item counts
weighted towards the user's latest rows, and a Gram matrix over the items that those counts call worth factorising
(or subspace iterations, where the matrix would not fit in memory). Everything else here is post-processing, or a
function of one user's own row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from scipy import sparse

from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.data.market import DAY, FloatArray, IntArray, Market, rank_from_latest
from fedmm_secure.errors import DataError
from fedmm_secure.storage.files import Arrays
from privacy.mechanisms.counts import merged, noisy_counts, row_norms, scaled
from privacy.mechanisms.dp_svd import PrivateFactors, factors_by_gram, factors_by_subspace_iteration
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare

CLEAR = 3.0  # times its noise: a count below it says little of when
COUNT_FLOOR = 1.0  # counts below it, or below twice their noise, do not make an item's weight any larger


def contributions(
    market: Market, rows: IntArray, choices: ContributionConfig, noise_multiplier: float = 1.0
) -> sparse.csr_array:
    """What each user contributes to the item counts: ``(n_users, n_items)``, rows of L2 norm at most 1.

    A user's latest rows count most, by rank and, with a public reference date, by age; what is left of a user with
    old rows alone is scaled up, at most by ``largest_scale``, and further where noise is large: old rows then say
    more than none. Every weight depends on the user's own rows and on public choices alone.

    Raises:
        DataError: a reference date, but the market's times are not dates.
    """
    user, item, time = market.user[rows], market.item[rows], market.time[rows]
    rank = rank_from_latest(user, market.n_users)
    weight = choices.rank_decay ** rank.astype(np.float64)
    if choices.rows_per_user is not None:
        weight[rank >= choices.rows_per_user] = 0.0
    if choices.reference_date is not None:
        if not market.calendar:
            raise DataError(
                f"market {market.name}: privacy.contribution.reference_date needs ISO 8601 times; set it to null"
            )
        day = choices.reference_date
        reference = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e9
        age = np.maximum(reference - time.astype(np.float64), 0.0) / DAY
        weight *= np.exp(-age / choices.time_constant_days)
    norm = np.sqrt(np.bincount(user, weight * weight, minlength=market.n_users))
    scale = np.minimum(1.0 / np.maximum(norm, 1e-300), choices.largest_scale * max(1.0, noise_multiplier))
    return sparse.csr_array((weight * scale[user], (user, item)), shape=(market.n_users, market.n_items))


def when_met(market: Market, rows: IntArray, choices: ContributionConfig) -> FloatArray:
    """When each row was, ``(n,)``: from -1, long ago, to 1 at the public reference date; 0 everywhere without one."""
    if choices.reference_date is None:
        return np.zeros(len(rows))
    day = choices.reference_date
    reference = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e9
    age = np.maximum(reference - market.time[rows].astype(np.float64), 0.0) / DAY
    return np.asarray(np.maximum(1.0 - age / choices.time_constant_days, -1.0))


def timed(
    weighted: sparse.csr_array, market: Market, rows: IntArray, choices: ContributionConfig
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Users' contributions ``(n_users, n_items)``, and the same times when they were: from -1 to 1.

    The sum of the second over that of the first is when an item was met.
    """
    when = sparse.csr_array((when_met(market, rows, choices), (market.user[rows], market.item[rows])), weighted.shape)
    return weighted, sparse.csr_array(weighted.multiply(when))


@dataclass(frozen=True)
class ItemCounts:
    """Noisy item counts, and when they were.

    Attributes:
        values: ``(n_items,)``.
        noise: their standard deviation.
        moments: counts times when they were, times ``time_weight``, ``(n_items,)``; with the same noise. None where
            times were not counted.
        time_weight: what moments were multiplied with.
        spare: ``(spare,)``, noise alone, in grid units; empty where counts were read back.
    """

    values: FloatArray
    noise: float
    moments: FloatArray | None = None
    time_weight: float = 1.0
    spare: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def scaled(self) -> FloatArray:
        """``arsinh`` of the counts over twice their spread: linear where noise rules, logarithmic above."""
        return np.asarray(np.arcsinh(self.values / (2.0 * np.hypot(self.noise, 0.3))))

    @property
    def when(self) -> FloatArray | None:
        """When each item was met, from -1 to 1, drawn to 0 where the count does not stand clear of its noise."""
        if self.moments is None:
            return None
        noise = self.noise / self.time_weight  # of moments, once the weight is taken off
        counts = np.maximum(self.values, CLEAR * noise)
        return np.asarray(np.clip(self.moments / self.time_weight / counts, -1.0, 1.0))

    def to_arrays(self) -> Arrays:
        """As they are published."""
        found = {"values": self.values, "noise": np.array(self.noise)}
        if self.moments is None:
            return found
        return found | {"moments": self.moments, "time_weight": np.array(self.time_weight)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ItemCounts:
        """And back."""
        found = cls(arrays["values"], float(arrays["noise"]))
        if "moments" not in arrays:
            return found
        return replace(found, moments=arrays["moments"], time_weight=float(arrays["time_weight"]))


def release_counts(
    market: Market,
    rows: IntArray,
    choices: ContributionConfig,
    noise_multiplier: float,
    noise: NoiseSource,
    *,
    times: bool = False,
    spare: int | Spare = 0,
) -> ItemCounts:
    """Noisy counts of a market's rows: one Gaussian mechanism, ``spare`` values of its noise included.

    With ``times`` a user's contribution is counts and weighted times side by side, one vector of norm 1 with one noise.
    """
    weighted = contributions(market, rows, choices, noise_multiplier)
    if not times:
        found = noisy_counts(weighted, noise_multiplier, noise.derive("noise"), spare=spare)
        return ItemCounts(found.values, noise_multiplier, spare=found.spare)
    counts, moments = timed(weighted, market, rows, choices)
    both = sparse.csr_array(sparse.hstack([counts, choices.time_weight * moments]))
    found = noisy_counts(both, noise_multiplier, noise.derive("noise"), spare=spare)
    values, moment = found.values.reshape(2, -1)
    return ItemCounts(values, noise_multiplier, moment, choices.time_weight, found.spare)


class DPSVDEmbedding:
    """Collaborative embeddings on private item factors.

    A user's row, weighted by item and scaled to norm 1, is projected on the factors: a function of that row and of
    private releases. Items outside the factorised subset have zero factors.

    Args:
        counts: noisy counts, for weights and for choosing items.
        choices: size of the subset, rank, method.

    Attributes:
        items_: the factorised items, ascending, ``(n_chosen,)``.
        item_factors_: ``(n_items, dim)``, orthonormal columns; zero columns for factors lost in noise.
        user_factors_: ``(n_users, dim)``; stays in the market.
        eigenvalues_: ``(dim,)``, descending.
        noise_edge_: spectral norm that noise alone would have.
        gram_: noisy co-occurrence of the factorised items, ``(n_chosen, n_chosen)``; None where it was never formed.
        gram_noise_: standard deviation of its noise.
    """

    def __init__(self, counts: ItemCounts, choices: PrivateEmbeddingConfig) -> None:
        self.counts, self.choices = counts, choices
        n_items = len(counts.values)
        # the noise of a Gram matrix grows with the items in it: those whose count is noise only add to it
        clear = int((counts.values >= choices.count_threshold * counts.noise).sum())
        n_chosen = min(max(clear, 2 * choices.dim), choices.max_items, n_items)
        self.items_ = np.sort(np.argsort(-counts.values, kind="stable")[:n_chosen])
        floor = max(COUNT_FLOOR, 2.0 * counts.noise)
        weight = np.maximum(counts.values[self.items_], floor) ** -choices.popularity_exponent
        self._weight = np.zeros(n_items)
        self._weight[self.items_] = weight

    def release(
        self, train: sparse.csr_array, noise_multiplier: float, noise: NoiseSource, *, spare: int | Spare = 0
    ) -> PrivateFactors:
        """The private step: factors of the chosen items, ``iterations`` Gaussian mechanisms (one by Gram matrix).

        ``spare`` values of the noise come with each mechanism.
        """
        noise = noise.derive("noise")
        rows = self.weighted(train)[:, self.items_]
        rank = min(self.choices.dim, len(self.items_))
        if self.uses_gram:
            return factors_by_gram(rows, rank, noise_multiplier, noise, spare=spare)
        return factors_by_subspace_iteration(rows, rank, noise_multiplier, self.choices.iterations, noise, spare=spare)

    @property
    def uses_gram(self) -> bool:
        """Whether one noisy Gram matrix is released, and no subspace iteration."""
        return self.choices.uses_gram(len(self.counts.values))

    def set_factors(self, found: PrivateFactors, train: sparse.csr_array) -> DPSVDEmbedding:
        """Take the private factors that stand clear of the noise, the first in any case, and embed users by them."""
        dim = self.choices.dim
        clear = found.eigenvalues >= self.choices.factor_threshold * found.noise_edge
        clear[:1] = True
        self.item_factors_ = np.zeros((len(self.counts.values), dim))
        self.item_factors_[self.items_, : found.factors.shape[1]] = found.factors * clear
        self.eigenvalues_ = np.pad(found.eigenvalues * clear, (0, dim - len(found.eigenvalues)))
        self.noise_edge_ = found.noise_edge
        self.gram_, self.gram_noise_ = found.gram, found.gram_noise
        self.user_factors_ = self.transform(train)
        return self

    @property
    def reliability_(self) -> FloatArray:
        """Share ``(dim,)`` of each eigenvalue that is not noise, ``sqrt(1 - (edge / λ)²)``, 0 below the edge."""
        ratio = self.noise_edge_ / np.maximum(self.eigenvalues_, 1e-12)
        return np.asarray(np.sqrt(np.maximum(1.0 - ratio**2, 0.0)))

    def transform(self, history: sparse.csr_array) -> FloatArray:
        """Embed users by their histories ``(n, n_items)``; returns ``(n, dim)``."""
        return np.asarray(self.weighted(history) @ self.item_factors_)

    def weighted(self, history: sparse.csr_array) -> sparse.csr_array:
        """Users' rows ``(n, n_items)`` as they enter the release: weighted by item, of norm 1."""
        return weighted_rows(history, self._weight)


def weighted_rows(history: sparse.csr_array, weight: FloatArray) -> sparse.csr_array:
    """Histories ``(n, n_items)`` times the items' weights, each row scaled to norm 1; empty ones stay."""
    own = merged(history)
    weighted = sparse.csr_array((own.data * weight[own.indices], own.indices, own.indptr), shape=own.shape)
    return scaled(weighted, 1.0 / np.maximum(row_norms(weighted), 1e-12))
