"""Model extraction: what queries it takes to answer as a scoring service does (Tramèr et al., USENIX Security 2016).

The adversary opens accounts that hold a single item each, and asks each of them for some items: a table of item by item
with holes. Its rows are completed to a low rank (soft-impute; Mazumder, Hastie, Tibshirani, JMLR 2010), and an account
with several items is answered by the mean of their rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from attacks.metrics import Estimate, bounded_estimate
from attacks.retraining.pipelines import Trained
from fedmm_secure.data.market import FloatArray, IntArray

RANK, STEPS = 16, 20
ASKED = 200  # accounts that a copy is compared on
ITEMS = 400  # of the pool: a copy of more is made in the same way


@dataclass(frozen=True)
class Extraction:
    """How well a copy answers.

    Attributes:
        accounts: that the adversary opened.
        budget: items that each of them was shown.
        queries: both multiplied.
        users: accounts of others that the copy and the service are compared on.
        fidelity: mean rank correlation of the two over the pool, by account.
        prior: that of a copy which knows how popular each item is, and asked nothing.
    """

    accounts: int
    budget: int
    queries: int
    users: int
    fidelity: Estimate
    prior: Estimate


def extract(
    trained: Trained, histories: sparse.csr_array, pool: IntArray, popularity: FloatArray, rng: np.random.Generator
) -> Iterator[Extraction]:
    """Copy a service with ever more queries: fewer items an account, fewer accounts, and all of both.

    Args:
        trained: the service.
        histories: accounts that the copy is to answer as the service does, ``(n, n_items)``.
        pool: items that are asked about.
        popularity: of all items ``(n_items,)``.
        rng: chooses accounts and items.
    """
    pool = pool[:: -(-len(pool) // ITEMS)]
    known = np.asarray(histories[:, pool].sum(axis=1)).ravel() > 0
    asked = histories[np.flatnonzero(known)[:ASKED]]
    truth, held = trained.scores(asked, pool), asked[:, pool]
    ones = np.ones(len(pool))
    single = sparse.csr_array((ones, (np.arange(len(pool)), pool)), shape=(len(pool), histories.shape[1]))
    table = trained.scores(single, pool)
    prior = _fidelity(np.broadcast_to(popularity[pool], truth.shape), truth)
    n = len(pool)
    for accounts, budget in ((n, n // 50), (n, n // 10), (n // 10, n), (n, n)):
        accounts, budget = max(accounts, 1), max(budget, 1)
        seen = _chosen(n, accounts, budget, rng)
        found = _fidelity(nearest_answer(complete(np.where(seen, table, np.nan)), held), truth)
        fidelity, guessed = bounded_estimate(found, -1.0), bounded_estimate(prior, -1.0)
        yield Extraction(accounts, budget, accounts * budget, len(truth), fidelity, guessed)


def _chosen(n: int, accounts: int, budget: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells of the table are asked for, ``(n, n)``."""
    order = rng.random((n, n)).argsort(axis=1)
    seen: NDArray[np.bool_] = order < budget
    seen[rng.permutation(n)[accounts:]] = False
    return seen


def complete(table: FloatArray) -> FloatArray:
    """A table ``(n, n)`` whose unknown cells are NaN, filled by what columns have in common and a low rank."""
    known = ~np.isnan(table)
    everything = float(table[known].mean())
    count = known.sum(0)
    column = (np.where(known, table, 0.0).sum(0) + everything) / (
        count + 1.0
    )  # drawn to the mean where little is known
    rest = np.where(known, table - column, 0.0)
    filled = rest.copy()
    for _ in range(0 if known.all() else STEPS):
        left, values, right = np.linalg.svd(filled, full_matrices=False)
        shrunk = np.maximum(values[:RANK] - values[min(RANK, len(values) - 1)], 0.0)
        filled = np.where(known, rest, (left[:, :RANK] * shrunk) @ right[:RANK])
    return np.asarray(filled + column)


def nearest_answer(table: FloatArray, held: sparse.csr_array) -> FloatArray:
    """Scores of all items for accounts ``(n, n_pool)``: the mean of their items' rows."""
    size = np.maximum(np.asarray(held.sum(axis=1)).reshape(-1, 1), 1.0)
    return np.asarray(held @ table / size)


def _fidelity(copy: NDArray[np.float64], truth: FloatArray) -> FloatArray:
    """Spearman's correlation of each row; 0 where one of the two is constant."""
    return np.array(
        [
            0.0 if np.ptp(own) == 0 or np.ptp(other) == 0 else float(stats.spearmanr(own, other).statistic)
            for own, other in zip(copy, truth, strict=True)
        ]
    )
