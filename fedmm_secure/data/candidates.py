"""Candidate pool, evaluation candidates and training negatives.

The pool holds items with at least ``min_item_train`` training interactions. Without it, data that was
filtered to 5-core before the split leaks: an item with fewer training rows must have its other rows in
validation or test, so a model that sees counts can tell positives apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.config.choices import Negatives
from fedmm_secure.data.market import FloatArray, IntArray, Market
from fedmm_secure.data.splits import Split

MAX_REDRAWS = 200


@dataclass(frozen=True)
class Pool:
    """Items that may be recommended.

    Attributes:
        items: item indices, ``(n_pool,)``, ascending.
        weights: probability of each as a negative, ``(n_pool,)``, sums to 1.
        test_share: share of test positives that the pool keeps.
    """

    items: IntArray
    weights: FloatArray
    test_share: float

    def contains(self, item: IntArray) -> NDArray[np.bool_]:
        """Which items ``(n,)`` are in the pool."""
        return np.isin(item, self.items)


@dataclass(frozen=True)
class Candidates:
    """Labelled (user, item) pairs to be ranked, ``(n,)`` each; ``label`` is 0 or 1."""

    user: IntArray
    item: IntArray
    label: FloatArray

    def __len__(self) -> int:
        return len(self.user)

    def columns(self) -> list[bytes]:
        """Its bytes, column by column."""
        return [np.ascontiguousarray(array).tobytes() for array in (self.user, self.item, self.label)]

    def sha256(self) -> str:
        """Hash of the candidates, for caches: of private rows, so it leaves the market nowhere."""
        return hashlib.sha256(b"".join(self.columns())).hexdigest()


def candidate_pool(market: Market, split: Split, *, min_item_train: int, negatives: Negatives) -> Pool:
    """The pool of a market, with negatives uniform or in proportion to training counts."""
    counts = np.bincount(market.item[split.train], minlength=market.n_items)
    items = np.flatnonzero(counts >= min_item_train)
    weights = np.ones(len(items)) if negatives == "uniform" else counts[items].astype(np.float64)
    test_items = market.item[split.test]
    share = float(np.isin(test_items, items).mean()) if len(test_items) else 0.0
    return Pool(items, weights / max(weights.sum(), 1e-300), share)


def click_candidates(
    market: Market, rows: IntArray, pool: Pool, *, per_positive: int, rng: np.random.Generator
) -> Candidates:
    """Each row whose item is in the pool, with negatives that its user never touched in any split."""
    rows = rows[pool.contains(market.item[rows])]
    touched = pair_keys(market.user, market.item, market.n_items)
    user, item = market.user[rows], market.item[rows]
    return with_negatives(user, item, pool, touched, market.n_items, per_positive, Simulated(rng))


def like_candidates(market: Market, rows: IntArray, pool: Pool, *, threshold: float) -> Candidates:
    """Each row whose item is in the pool, labelled by ``rating >= threshold``."""
    rows = rows[pool.contains(market.item[rows])]
    label = (market.rating[rows] >= threshold).astype(np.float64)
    return Candidates(market.user[rows], market.item[rows], label)


def pair_keys(user: IntArray, item: IntArray, n_items: int) -> IntArray:
    """Sorted unique integer keys of (user, item) pairs."""
    return np.unique(user * n_items + item)


class Draws(Protocol):
    """Where negatives come from: ``NoiseSource`` where positives are private, ``Simulated`` in the evaluation."""

    def uniforms(self, count: int, /) -> FloatArray:
        """``(count,)`` in [0, 1)."""
        ...

    def integers(self, bound: int, count: int, /) -> IntArray:
        """``(count,)`` in ``0 … bound-1``."""
        ...


@dataclass(frozen=True)
class Simulated:
    """Draws of a generator whose seed is public."""

    rng: np.random.Generator

    def uniforms(self, count: int) -> FloatArray:
        """``count`` numbers in [0, 1)."""
        return np.asarray(self.rng.random(count))

    def integers(self, bound: int, count: int) -> IntArray:
        """``count`` integers from 0 to ``bound``, exclusive."""
        return np.asarray(self.rng.integers(bound, size=count))


def with_negatives(
    user: IntArray,
    item: IntArray,
    pool: Pool,
    touched: IntArray,
    n_items: int,
    per_positive: int,
    draws: Draws,
) -> Candidates:
    """Positives followed by ``per_positive`` negatives each, drawn from the pool outside ``touched``.

    The negatives of one positive are distinct where the user has enough untouched items. A positive whose
    user has touched the whole pool is dropped, for it can have no negative.
    """
    in_pool = touched[np.isin(touched % n_items, pool.items)] // n_items
    n_touched = np.bincount(in_pool, minlength=int(user.max()) + 1 if len(user) else 1)
    room = len(pool.items) - n_touched[user] if len(user) else np.zeros(0, dtype=np.int64)
    user, item, room = user[room > 0], item[room > 0], room[room > 0]
    if not len(user):  # of an empty pool nothing can be drawn
        return Candidates(user, item, np.zeros(0))
    drawn = np.full((len(user), per_positive), -1, dtype=np.int64)
    cumulative = np.cumsum(pool.weights)
    for column in range(per_positive):
        todo = np.arange(len(user))
        for attempt in range(MAX_REDRAWS):
            picks = np.searchsorted(cumulative, draws.uniforms(len(todo)) * cumulative[-1], side="right")
            draw = pool.items[np.minimum(picks, len(pool.items) - 1)]
            clash = _is_member(touched, user[todo] * n_items + draw)
            if attempt < MAX_REDRAWS // 2:
                distinct = room[todo] >= per_positive
                clash |= distinct & (drawn[todo, :column] == draw[:, None]).any(axis=1)
            drawn[todo[~clash], column] = draw[~clash]
            todo = todo[clash]
            if not len(todo):
                break
        for row in todo:  # nearly everything touched, or weights concentrated on it: choose directly
            free = int(draws.integers(int(room[row]), 1)[0])
            drawn[row, column] = _untouched(pool.items, _items_of(touched, int(user[row]), n_items), free)
    users = np.concatenate([user, np.repeat(user, per_positive)])
    items = np.concatenate([item, drawn.ravel()])
    labels = np.concatenate([np.ones(len(user)), np.zeros(drawn.size)])
    return Candidates(users, items, labels)


def _items_of(sorted_keys: IntArray, user: int, n_items: int) -> IntArray:
    """Items ``(n,)`` of one user's keys, ascending."""
    start, end = np.searchsorted(sorted_keys, [user * n_items, (user + 1) * n_items])
    return np.asarray(sorted_keys[start:end] - user * n_items)


def _untouched(items: IntArray, touched: IntArray, place: int) -> int:
    """Of ascending items those that are not among others, ``touched``; of these the one at a place from 0.

    Nothing of the size of a catalogue is made: where weights are concentrated, this is done for every negative.
    """
    held = np.searchsorted(items, touched[_is_member(items, touched)])
    skipped = int(np.searchsorted(held - np.arange(len(held)), place, side="right"))
    return int(items[place + skipped])


def _is_member(sorted_keys: IntArray, keys: IntArray) -> NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[position] == keys)
