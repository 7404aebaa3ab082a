"""Differencing: what two releases tell of the one user who is in the first and left before the second.

Whoever knows who left compares what was published of items: their factors and, under ``protect: release``, noisy counts
and co-occurrence. A user's row adds to the weight of each of its items; the item whose weight falls most is named.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from attacks.disclosure.risk import Outcome, Risk, Tally
from attacks.retraining.pipelines import Retraining, without_users
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix

LEAVING = 60  # users, each of whom leaves alone
SOURCE, ATTACK = "items of two releases", "first item of who left"


def difference(retraining: Retraining, rng: np.random.Generator) -> Risk:
    """Let users leave one by one. The control: is an item named of a user of about the same size, who stays?"""
    prepared = retraining.prepared
    histories = history_matrix(prepared.market, prepared.split.train)
    size = np.diff(histories.indptr)
    users = rng.permutation(np.flatnonzero(size > 0))
    first, shown = retraining.embed(prepared), []
    for user in users[:LEAVING]:
        kept = np.arange(prepared.market.n_users) != user
        shown.append(int(_fallen(first, retraining.embed(without_users(prepared, kept))).argmax()))
    left, named = users[: len(shown)], np.array(shown)
    popular = np.full(len(left), int(np.asarray(histories.sum(axis=0)).argmax()))
    stayed = _alike(left, users, size)
    outcome = Outcome(_has(histories, left, named), _has(histories, stayed, named), _has(histories, left, popular))
    return Risk.of(SOURCE, ATTACK, [outcome])


def _alike(left: IntArray, users: IntArray, size: IntArray) -> IntArray:
    """For each user who left, another whose number of rows is the nearest, the first of equals."""
    apart = np.abs(size[left][:, None] - size[users][None]).astype(np.float64)
    apart[left[:, None] == users[None]] = np.inf
    return np.asarray(users[apart.argmin(1)])


def _has(histories: sparse.csr_array, users: IntArray, items: IntArray) -> Tally:
    return Tally.of(np.asarray(histories[users, items]).ravel() > 0)


def _fallen(before: Embedding, after: Embedding) -> FloatArray:
    """How much less each item weighs, ``(n_items,)``; of noisy releases in units of their noise, added up."""
    if isinstance(before, DPSVDEmbedding) and isinstance(after, DPSVDEmbedding):
        fallen = (before.counts.values - after.counts.values) / before.counts.noise
        return np.asarray(fallen + (_diagonal(before) - _diagonal(after)) / max(before.gram_noise_, 1e-12))
    return _weight(before) - _weight(after)


def _weight(embedding: Embedding) -> FloatArray:
    """Squared length of each item's factors, singular values included where there are any."""
    scale = embedding.singular_values_**2 if isinstance(embedding, SVDEmbedding) else 1.0
    return np.asarray((embedding.item_factors_**2 * scale).sum(1))


def _diagonal(embedding: DPSVDEmbedding) -> FloatArray:
    """How often each item goes with itself, ``(n_items,)``; 0 where it is not factorised, or the matrix not formed."""
    found = np.zeros(len(embedding.counts.values))
    if embedding.gram_ is not None:
        found[embedding.items_] = np.diagonal(embedding.gram_)
    return found
