"""Collaborative embeddings on noisy sums over all markets: one noise for the users of all, one space for all markets.

Each user takes part in two sums, with a contribution of norm at most 1 in each whatever the user's rows: item counts
beside the same counts times when they were, and the Gram matrix of the items that the summed counts call worth it.
Everything else is post-processing, or a function of one user's own row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import CLEAR, COUNT_FLOOR, DPSVDEmbedding, ItemCounts, contributions, timed
from fedmm_secure.collaborative.shared import chosen_items, square
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
    known = np.flatnonzero(position >= 0)
    place = sparse.csr_array((np.ones(len(known)), (known, position[known])), shape=(market.n_items, size))
    both = timed(contributions(market, rows, choices, noise_multiplier), market, rows, choices)
    return sparse.csr_array(sparse.hstack([part @ place for part in both]))


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
        return np.asarray(np.clip(self.moment / np.maximum(self.count, CLEAR * self.noise), -1.0, 1.0))

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
    return PrivateFactors(factors, values[order], edge, np.zeros((0, 0), np.int64), gram, noise)


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
        gram = np.zeros((0, 0)) if self.gram_ is None else self.gram_
        return {
            "position": self.position,
            "factors": self.item_factors_,
            "eigenvalues": self.eigenvalues_,
            "noise_edge": np.array(self.noise_edge_),
            "weights": self._weight,
            "shared_count": self.shared_count_,
            "shared_when": self.shared_when_,
            "gram": gram[np.triu_indices(len(gram))],
            "gram_noise": np.array(self.gram_noise_),
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
        found.gram_ = square(arrays["gram"], len(found.items_))
        found.gram_noise_ = float(arrays["gram_noise"])
        found.user_factors_ = np.zeros((0, found.item_factors_.shape[1]))
        return found

    def set_factors(self, found: PrivateFactors, train: sparse.csr_array) -> DPSVDEmbedding:
        """Take factors of the Gram matrix's items; the market's own are among them."""
        gram = None if found.gram is None else found.gram[np.ix_(self._column, self._column)]
        return super().set_factors(replace(found, factors=found.factors[self._column], gram=gram), train)
