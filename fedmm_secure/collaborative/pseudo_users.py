"""Pseudo-users: item sets drawn from private releases. Training on them is post-processing and costs no budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.data.market import IntArray

LENGTHS = (3, 12)  # items of a pseudo-user, uniform; a public choice
FOLLOWING = 0.5  # share of items that follow another item's neighbours instead of the counts


@dataclass(frozen=True)
class PseudoUsers:
    """Invented histories ``(n, n_items)``, binary, with one more item each, ``(n,)``, that comes next.

    ``latest (n, LENGTHS[1])`` has the items in order, the latest first; -1 where there are fewer.
    """

    history: sparse.csr_array
    latest: IntArray
    next_item: IntArray


def draw_pseudo_users(embedding: DPSVDEmbedding, n: int, rng: np.random.Generator) -> PseudoUsers:
    """Draw ``n`` pseudo-users from noisy counts and, for half of the items, from private item-item affinities."""
    counts = np.maximum(embedding.counts.values, 0.0)
    if not counts.any():  # noise alone: any item is as likely
        counts = np.ones_like(counts)
    popularity = np.cumsum(counts)
    followers, total = _followers(embedding)
    column_of = np.full(len(counts), -1)
    column_of[embedding.items_] = np.arange(len(embedding.items_))
    length = rng.integers(LENGTHS[0], LENGTHS[1] + 1, n)
    chosen = np.full((n, LENGTHS[1]), -1)
    for step in range(LENGTHS[1]):
        active = np.flatnonzero(length > step)
        drawn = _pick(popularity, rng.random(len(active)))
        if step:
            anchor = column_of[chosen[active, rng.integers(0, step, len(active))]]
            follows = (anchor >= 0) & (total[anchor] > 0) & (rng.random(len(active)) < FOLLOWING)
            spot = rng.random(len(active))
            for index in np.flatnonzero(follows):
                drawn[index] = embedding.items_[_pick(followers[anchor[index]], spot[index : index + 1])[0]]
        chosen[active, step] = drawn
    last = chosen[np.arange(n), length - 1]
    chosen[np.arange(n), length - 1] = -1
    place = length[:, None] - 2 - np.arange(LENGTHS[1])
    latest = np.where(place >= 0, np.take_along_axis(chosen, np.maximum(place, 0), axis=1), -1)
    user, column = np.nonzero(chosen >= 0)
    history = sparse.csr_array((np.ones(len(user)), (user, chosen[user, column])), shape=(n, len(counts)))
    history.data[:] = 1.0
    return PseudoUsers(history, latest, last.astype(np.int64))


def _followers(embedding: DPSVDEmbedding) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative affinities ``(n_chosen, n_chosen)`` from the denoised low-rank Gram matrix, and their sums."""
    factors = embedding.item_factors_[embedding.items_]
    strength = np.maximum(embedding.eigenvalues_, 0.0) * embedding.reliability_
    affinity = np.maximum((factors * strength) @ factors.T, 0.0)
    np.fill_diagonal(affinity, 0.0)
    return np.cumsum(affinity, axis=1), affinity.sum(axis=1)


def _pick(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    found = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return np.asarray(np.minimum(found, len(cumulative) - 1))
