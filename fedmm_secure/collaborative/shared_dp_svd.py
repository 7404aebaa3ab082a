"""Collaborative embeddings on noisy sums over all markets: one noise for the users of all, one space for all markets.

Each user takes part in two sums, with a contribution of norm at most 1 in each whatever the user's rows: item counts
beside the same counts times when they were, and the Gram matrix of the items that the summed counts call worth it.
Everything else is post-processing, or a function of one user's own row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import COUNT_FLOOR, DAY, DPSVDEmbedding, ItemCounts, contributions
from fedmm_secure.collaborative.shared import COLUMNS, chosen_items
from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.data.market import FloatArray, IntArray, Market
from fedmm_secure.storage.files import Arrays
from privacy.mechanisms.dp_svd import PrivateFactors, fix_signs
from privacy.mechanisms.shared_parts import DIAGONAL, OFF_DIAGONAL


def timed_contributions(
    market: Market, rows: IntArray, position: IntArray, size: int, choices: ContributionConfig, noise_multiplier: float
) -> sparse.csr_array:
    """What each user adds to the summed counts: ``(n_users, COLUMNS · size)``, rows of L2 norm at most 1 once clipped.

    Beside each weight stands the weight times when it was, from -1 (long ago) to 1 (at the reference date): the sum of
    the second over that of the first is when an item was met.
    """
    weighted = contributions(market, rows, choices, noise_multiplier).tocoo()
    user, item = (part.astype(np.int64) for part in weighted.coords)
    at = position[item]
    kept = at >= 0
    when = when_met(market, rows, choices)
    last = sparse.csr_array((when, (market.user[rows], market.item[rows])), shape=weighted.shape)
    values = weighted.data
    moment = values * np.asarray(last[user, item]).ravel()
    place = np.concatenate([at[kept], size + at[kept]])
    users = np.concatenate([user[kept], user[kept]])
    data = np.concatenate([values[kept], moment[kept]])
    return sparse.csr_array((data, (users, place)), shape=(market.n_users, COLUMNS * size))


def when_met(market: Market, rows: IntArray, choices: ContributionConfig) -> FloatArray:
    """When each row was, ``(n,)``: from -1, long ago, to 1 at the public reference date; 0 everywhere without one."""
    if choices.reference_date is None:
        return np.zeros(len(rows))
    day = choices.reference_date
    reference = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e9
    age = np.maximum(reference - market.time[rows].astype(np.float64), 0.0) / DAY
    return np.asarray(np.maximum(1.0 - age / choices.time_constant_days, -1.0))


@dataclass(frozen=True)
class NoisySums:
    """Noisy sums over the shared catalogue, as every market has them.

    Attributes:
        count: weighted counts of the catalogue's items, ``(size,)``.
        moment: the same times when they were, ``(size,)``.
        noise: standard deviation of both.
    """

    count: FloatArray
    moment: FloatArray
    noise: float

    @property
    def scaled(self) -> FloatArray:
        """``arsinh`` of the counts over twice their spread: linear where noise rules, logarithmic above."""
        return ItemCounts(self.count, self.noise).scaled

    @property
    def when(self) -> FloatArray:
        """When each item was met, from -1 to 1, drawn to 0 where the count does not stand clear of its noise."""
        return np.asarray(np.clip(self.moment / np.maximum(self.count, 3.0 * self.noise), -1.0, 1.0))

    def chosen(self, n: int) -> IntArray:
        """The ``n`` items of largest count, ascending."""
        return chosen_items(self.count, n)

    def weights(self, items: IntArray, choices: PrivateEmbeddingConfig) -> FloatArray:
        """Weights ``(n,)`` of some items in users' rows."""
        floor = max(COUNT_FLOOR, 2.0 * self.noise)
        return np.asarray(np.maximum(self.count[items], floor) ** -choices.popularity_exponent)


def private_factors(
    sums: NoisySums, items: IntArray, gram: FloatArray, noise: float, choices: PrivateEmbeddingConfig
) -> PrivateFactors:
    """Leading directions ``(n, rank)`` of a noisy Gram matrix over ``items``; zero for items whose count is noise.

    ``noise`` is its standard deviation on the diagonal. Leaving items out after the sum is post-processing: they would
    add noise and nothing else.
    """
    clear = np.flatnonzero(sums.count[items] >= choices.count_threshold * sums.noise)
    if len(clear) < 2 * choices.dim:
        clear = np.sort(np.argsort(-sums.count[items], kind="stable")[: 2 * choices.dim])
    values, vectors = np.linalg.eigh(gram[np.ix_(clear, clear)])
    order = np.argsort(-values)[: choices.dim]
    factors = np.zeros((len(items), len(order)))
    factors[clear] = fix_signs(vectors[:, order])
    edge = 2.0 * noise * OFF_SHARE * float(np.sqrt(len(clear)))
    return PrivateFactors(factors, values[order], edge, np.zeros((0, 0), np.int64))


OFF_SHARE = DIAGONAL / OFF_DIAGONAL  # of the noise on the diagonal, off it


class SharedDPSVDEmbedding(DPSVDEmbedding):
    """A market's embeddings on noisy sums over all markets; ``counts`` are the market's own, for what is bought *here*.

    Args:
        counts: noisy counts of the market's items.
        choices: rank and thresholds.
        sums: noisy sums over the catalogue.
        items: catalogue positions of the items in the Gram matrix, ascending.
        position: of the market's items in the catalogue, ``(n_items,)``; -1 outside.

    Attributes:
        items_: the market's items that are in the Gram matrix, ``(n_chosen,)``.
        shared_count_: scaled summed count of each of the market's items, ``(n_items,)``.
        shared_when_: when it was met in all markets, from -1 to 1, ``(n_items,)``.
    """

    def __init__(
        self,
        counts: ItemCounts,
        choices: PrivateEmbeddingConfig,
        sums: NoisySums,
        items: IntArray,
        position: IntArray,
    ) -> None:
        self.counts, self.choices = counts, choices
        place = np.full(len(sums.count) + 1, -1)  # the last: what is outside the catalogue is outside here
        place[items] = np.arange(len(items))
        column = place[position]
        self.items_ = np.flatnonzero(column >= 0)
        self.position = position
        self._column = column[self.items_]
        self._weight = np.zeros(len(position))
        self._weight[self.items_] = sums.weights(items, choices)[self._column]
        known = position >= 0
        self.shared_count_ = np.where(known, sums.scaled[position], 0.0)
        self.shared_when_ = np.where(known, sums.when[position], 0.0)

    def to_arrays(self) -> Arrays:
        """All that follows from the sums for the market's items: who has the model needs it to score an account."""
        return {
            "position": self.position,
            "factors": self.item_factors_,
            "eigenvalues": self.eigenvalues_,
            "noise_edge": np.array(self.noise_edge_),
            "weights": self._weight,
            "shared_count": self.shared_count_,
            "shared_when": self.shared_when_,
        }

    @classmethod
    def from_arrays(cls, counts: ItemCounts, choices: PrivateEmbeddingConfig, arrays: Arrays) -> Self:
        """What ``to_arrays`` gave, which embeds accounts; it has no users of its own."""
        found = cls.__new__(cls)
        found.counts, found.choices = counts, choices
        found.position, found._weight = arrays["position"], arrays["weights"]
        found.items_ = np.flatnonzero(found._weight > 0)  # an item of the Gram matrix has a weight, and no other
        found.item_factors_, found.eigenvalues_ = arrays["factors"], arrays["eigenvalues"]
        found.noise_edge_ = float(arrays["noise_edge"])
        found.shared_count_, found.shared_when_ = arrays["shared_count"], arrays["shared_when"]
        found.user_factors_ = np.zeros((0, found.item_factors_.shape[1]))
        return found

    def set_factors(self, found: PrivateFactors, train: sparse.csr_array) -> DPSVDEmbedding:
        """Take factors of the Gram matrix's items; the market's own are among them."""
        own = PrivateFactors(found.factors[self._column], found.eigenvalues, found.noise_edge, found.spare)
        return super().set_factors(own, train)
