"""Synthetic markets with planted structure: a part that all markets share and a part of each market's own.

Items belong to one of a few shared prototypes (the same in every market) and one of a few local ones. Users
have tastes over both. Who meets what follows taste, item popularity (Zipf) and user activity (log-normal).
The planted prototypes are returned, so that a test can ask whether they are recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import DAY, FloatArray, IntArray, Market, Rows, index_market, restrict
from fedmm_secure.randomness import numpy_generator

EPOCH = 1_577_836_800 * 10**9  # 2020-01-01


@dataclass(frozen=True)
class PlantedMarket:
    """A generated market and its ground truth; item arrays follow ``market.item_ids``."""

    market: Market
    shared_prototype: IntArray
    local_prototype: IntArray


def synthesize(spec: SyntheticSpec) -> list[PlantedMarket]:
    """Generate the markets ``m0, m1, …``; ids are disjoint between markets, but for ``shared_items``."""
    return [synthesize_one(spec, index) for index in range(spec.markets)]


def synthesize_one(spec: SyntheticSpec, index: int) -> PlantedMarket:
    """The market ``m<index>`` alone."""
    rng = numpy_generator("synthetic", spec.seed, index)
    shared = rng.integers(0, spec.shared_prototypes, spec.items)
    local = rng.integers(0, spec.local_prototypes, spec.items)
    likes_shared = _tastes(rng, spec.users, spec.shared_prototypes)
    likes_local = _tastes(rng, spec.users, spec.local_prototypes)
    rank = rng.permutation(spec.items)
    if spec.shared_items:  # what a shared item is, and about how popular, is the same everywhere
        common = numpy_generator("synthetic-shared", spec.seed)
        shared[: spec.shared_items] = common.integers(0, spec.shared_prototypes, spec.shared_items)
        rank[: spec.shared_items] = common.permutation(spec.items)[: spec.shared_items]
    popularity = -spec.popularity_exponent * np.log(1.0 + rank)
    activity = rng.lognormal(0.0, spec.activity_spread, spec.users)
    counts = np.clip(activity / activity.mean() * spec.mean_interactions, 3, spec.items // 2).astype(np.int64)
    # one user's logits at a time: those of all would be users times items
    items, ratings, times = (np.zeros(counts.sum(), kind) for kind in (np.int64, np.float64, np.int64))
    ends = np.cumsum(counts).tolist()
    for user, (count, end) in enumerate(zip(counts.tolist(), ends, strict=True)):
        logits = popularity + spec.shared_strength * likes_shared[user, shared]
        logits = logits + spec.local_strength * likes_local[user, local]
        # Gumbel top-k: a sample without replacement in proportion to exp(logits), in random order
        chosen = rng.permutation(_largest(logits + rng.gumbel(size=spec.items), count))
        days = np.sort(rng.integers(0, 700, count))
        fit = logits[chosen] - popularity[chosen]
        own = slice(end - count, end)
        items[own] = chosen
        ratings[own] = np.clip(np.rint(3.5 + 0.4 * fit + rng.normal(0, 0.7, count)), 1, 5)
        times[own] = EPOCH + days * DAY
    ids = spec.item_ids(index)
    user_ids, user_index = _by_id([f"m{index}-u{number:05d}" for number in range(spec.users)], counts)
    item_ids, item_index = _by_id(ids, np.bincount(items, minlength=spec.items))
    rows = Rows(user_ids, item_ids, np.repeat(user_index, counts), item_index[items], ratings, times, calendar=True)
    # the generator's items are public, those that nobody met too
    market = restrict(index_market(f"m{index}", rows), Catalogue.of("synthetic", ids))
    number = np.array([int(str(name).rsplit("i", 1)[1]) for name in market.item_ids])
    return PlantedMarket(market, shared[number], local[number])


def _largest(keys: FloatArray, count: int) -> IntArray:
    """Places of the ``count`` largest keys ``(n,)``, the largest first."""
    found = np.argpartition(-keys, count - 1)[:count]
    return np.asarray(found[np.argsort(-keys[found])])


def _by_id(ids: Sequence[str], rows: IntArray) -> tuple[NDArray[np.object_], IntArray]:
    """Ids that have ``rows (n,)``, in the order of their code points, and the index of each id among them ``(n,)``."""
    there = np.flatnonzero(rows)
    names = np.array(ids, dtype=object)[there]
    order = np.argsort(names)
    index = np.full(len(rows), -1)
    index[there[order]] = np.arange(len(there))
    return names[order], index


def _tastes(rng: np.random.Generator, n_users: int, n_prototypes: int) -> FloatArray:
    """One or two liked prototypes per user, ``(n_users, n_prototypes)`` with entries in [0, 1]."""
    tastes: NDArray[np.float64] = rng.dirichlet(np.full(n_prototypes, 0.25), n_users)
    return np.asarray(tastes / tastes.max(1, keepdims=True))
