"""Whose rows are in the sums that published models hold: a linear problem, which needs no shadow model.

A model without a budget cannot score an account without exact counts and weights between items, and these give back how
many users have each item and each pair of items. A released model has the same with noise. Everybody's rows are prior
knowledge, and who is in is a coin: what a sum says of coins is linear, and the best linear estimate of them takes
account of what all others add, which the likelihood ratio of one user alone takes for noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsmr

from attacks.membership.queries import Queries
from attacks.membership.units import Unit
from attacks.retraining.pipelines import Trained
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, contributions, timed
from fedmm_secure.collaborative.neighbours import COSINE_SHRINKAGE
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.config import ContributionConfig
from fedmm_secure.config.choices import FeatureGroup
from fedmm_secure.ctr.histories import History
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from privacy.mechanisms.counts import clip_rows

COIN = 0.5  # standard deviation of a fair one
ROUNDED = 0.01  # standard deviation that sums without noise are taken to have
STEPS = 2000  # at most, of the iterative solution


@dataclass(frozen=True)
class Sums:
    """Sums over units, each of which is in or not.

    Attributes:
        values: less what is expected where each unit is in with probability a half, ``(n_sums,)``.
        design: what each unit adds, ``(n_sums, n_units)``.
        noise: standard deviation of what the units do not explain, ``(n_sums,)``.
    """

    values: FloatArray
    design: sparse.csr_array
    noise: FloatArray

    def members(self) -> FloatArray:
        """Who is in, from 0 to 1 but for noise ``(n_units,)``: the linear estimate of least mean squared error.

        The Gauss-Markov theorem with a prior: ridge regression of whitened sums on fair coins, by LSMR (Fong, Saunders,
        SIAM J. Sci. Comput. 2011). Without noise it solves the system as far as it can be solved.
        """
        whitened = sparse.csr_array(self.design.multiply(COIN / self.noise[:, None]))
        coins = lsmr(whitened, self.values / self.noise, damp=1.0, atol=1e-8, btol=1e-8, maxiter=STEPS)[0]
        return np.asarray(0.5 + COIN * coins)

    @classmethod
    def joined(cls, parts: list[Sums]) -> Sums:
        """All sums of several kinds."""
        return cls(
            np.concatenate([part.values for part in parts]),
            sparse.csr_array(sparse.vstack([part.design for part in parts])),
            np.concatenate([part.noise for part in parts]),
        )


def published_sums(
    trained: Trained, whole: PreparedMarket, queries: Queries, unit: Unit, choices: ContributionConfig
) -> Sums | None:
    """What the published models of a pipeline hold; None where that is nothing linear in the units.

    Args:
        trained: one of its models.
        whole: the market with all rows, of which the pipeline had some.
        queries: the rows that may be in.
        unit: what is in or not: rows themselves, or users.
        choices: what users add to noised counts.
    """
    if trained.history is not None:
        return exact_sums(trained.history, trained.groups, whole, queries, queries.units(unit))
    embedding = trained.coded.embedding
    # a sum over all markets has others' rows in it; what a row adds to a noised sum depends on the user's other rows
    if not isinstance(embedding, DPSVDEmbedding) or isinstance(embedding, SharedDPSVDEmbedding):
        return None
    if unit == "interaction":
        return None
    return noised_sums(embedding, whole, np.unique(queries.user), choices)


def exact_sums(
    history: History, groups: tuple[FeatureGroup, ...], whole: PreparedMarket, queries: Queries, unit_of_row: IntArray
) -> Sums | None:
    """Counts, times and pairs of the items of the pool, from what the model needs to score accounts.

    A pair of rows of one user is there if both are. Where rows are units that is half of either and a product of two
    centred coins, which has variance 1/16 and is uncorrelated with all coins (Hoeffding's decomposition).
    """
    pool, n_units = whole.pool.items, int(unit_of_row.max()) + 1
    column = np.searchsorted(pool, queries.item)
    weighted = np.ones(len(column))
    count = history.item_count[pool]
    parts: list[Sums] = []
    if {"counts", "scores"} & set(groups):
        parts.append(_of_rows(count, column, weighted, unit_of_row, n_units))
    if "recency" in groups:
        zero = np.zeros(len(pool))
        mean = history.recency_at(zero, zero, pool)["item_mean_time"]
        time = history.clock.relative(whole.market.time[queries.rows])
        parts.append(_of_rows(count * mean, column, time, unit_of_row, n_units))
    if "scores" in groups:
        cosine = history.score_models().cosine
        together = cosine * (np.sqrt(np.outer(count, count)) + COSINE_SHRINKAGE)
        parts.append(_of_pairs(together, queries.user, column, unit_of_row, n_units))
    return Sums.joined(parts) if parts else None


def noised_sums(embedding: DPSVDEmbedding, whole: PreparedMarket, users: IntArray, choices: ContributionConfig) -> Sums:
    """Noised counts, times and Gram matrix, with what each of the users ``(n_units,)`` adds to them."""
    market, rows, counts = whole.market, whole.split.train, embedding.counts
    added = contributions(market, rows, choices, counts.noise)
    values = counts.values
    if counts.moments is not None:
        weighted, moments = timed(added, market, rows, choices)
        added = sparse.csr_array(sparse.hstack([weighted, counts.time_weight * moments]))
        values = np.concatenate([values, counts.moments])
    found = [_of_users(values, clip_rows(added)[users], np.full(len(values), max(counts.noise, ROUNDED)))]
    if embedding.gram_ is not None:
        own = sparse.csr_array(embedding.weighted(history_matrix(market, rows))[users][:, embedding.items_])
        user, first, second = _pairs_of(own, diagonal=True)
        items, n = own.indices.astype(np.int64), len(embedding.items_)
        low, high = (pick(items[first], items[second]) for pick in (np.minimum, np.maximum))
        keys, which = np.unique(low * n + high, return_inverse=True)
        design = sparse.csr_array((own.data[first] * own.data[second], (user, which)), shape=(len(users), len(keys)))
        row, col = np.divmod(keys, n)
        # released symmetric: the mean of two noises off the diagonal
        noise = np.where(row == col, 1.0, np.sqrt(0.5)) * max(embedding.gram_noise_, ROUNDED)
        found.append(_of_users(embedding.gram_[row, col], design, noise))
    return Sums.joined(found)


def _of_users(values: FloatArray, added: sparse.csr_array, noise: FloatArray) -> Sums:
    """Sums of what users add, ``(n_users, n_sums)``; those to which nobody may add are noise alone, and left out."""
    design = sparse.csr_array(added.T)
    there = np.flatnonzero(np.diff(design.indptr))
    design = sparse.csr_array(design[there])
    expected = 0.5 * np.asarray(design.sum(axis=1)).ravel()
    return Sums(values[there] - expected, design, noise[there])


def _of_rows(total: FloatArray, column: IntArray, weight: FloatArray, unit: IntArray, n_units: int) -> Sums:
    design = sparse.csr_array((weight, (column, unit)), shape=(len(total), n_units))
    expected = 0.5 * np.bincount(column, weight, minlength=len(total))
    return Sums(total - expected, design, np.full(len(total), ROUNDED))


def _of_pairs(together: FloatArray, user: IntArray, column: IntArray, unit: IntArray, n_units: int) -> Sums:
    """How often two items went together ``(n_pool, n_pool)``, of pairs of rows that one user has."""
    order = np.argsort(user, kind="stable")
    size = np.bincount(user)
    rows = sparse.csr_array((np.ones(len(order)), order, np.concatenate([[0], np.cumsum(size)])))
    _, earlier, later = _pairs_of(rows, diagonal=False)
    first, second = order[earlier], order[later]
    low, high = (pick(column[first], column[second]) for pick in (np.minimum, np.maximum))
    keys, which = np.unique(low * len(together) + high, return_inverse=True)
    half = np.full(2 * len(which), 0.5)
    place = np.concatenate([which, which]), np.concatenate([unit[first], unit[second]])
    design = sparse.csr_array((half, place), shape=(len(keys), n_units))
    n_pairs = np.bincount(which, minlength=len(keys)).astype(np.float64)
    apart = np.bincount(which, unit[first] != unit[second], minlength=len(keys))  # all of them, or none
    expected = 0.5 * n_pairs - 0.25 * apart
    found = together[np.divmod(keys, len(together))]
    return Sums(found - expected, design, np.sqrt(apart / 16.0 + ROUNDED**2))


def _pairs_of(rows: sparse.csr_array, *, diagonal: bool) -> tuple[IntArray, IntArray, IntArray]:
    """All pairs of entries of one row: the row, and the places of both among all entries, the first not the later."""
    place = np.arange(rows.nnz)
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    after = rows.indptr[row + 1].astype(np.int64) - place - (0 if diagonal else 1)
    first = np.repeat(place, after)
    start = np.repeat(np.cumsum(after) - after, after)
    second = first + np.arange(len(first)) - start + (0 if diagonal else 1)
    return row[first], first, second
