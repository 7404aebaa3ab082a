"""Synthetic markets with planted structure: a part that all markets share and a part of each market's own.

Items belong to one of a few shared prototypes (the same in every market) and one of a few local ones. Users
have tastes over both. Who meets what follows taste, item popularity (Zipf) and user activity (log-normal).
The planted prototypes are returned, so that a test can ask whether they are recovered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import DAY, FloatArray, IntArray, Market, build_market, restrict
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
    return [_one_market(spec, index) for index in range(spec.markets)]


def _one_market(spec: SyntheticSpec, index: int) -> PlantedMarket:
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
    logits = popularity + spec.shared_strength * likes_shared[:, shared] + spec.local_strength * likes_local[:, local]
    activity = rng.lognormal(0.0, spec.activity_spread, spec.users)
    counts = np.clip(activity / activity.mean() * spec.mean_interactions, 3, spec.items // 2).astype(np.int64)
    ids = spec.item_ids(index)
    users: list[str] = []
    items: list[str] = []
    ratings: list[float] = []
    times: list[int] = []
    for user in range(spec.users):
        # Gumbel top-k: a sample without replacement in proportion to exp(logits), in random order
        keys = logits[user] + rng.gumbel(size=spec.items)
        chosen = rng.permutation(np.argsort(-keys)[: counts[user]])
        days = np.sort(rng.integers(0, 700, len(chosen)))
        users += [f"m{index}-u{user:05d}"] * len(chosen)
        items += [ids[item] for item in chosen]
        fit = logits[user, chosen] - popularity[chosen]
        ratings += np.clip(np.rint(3.5 + 0.4 * fit + rng.normal(0, 0.7, len(chosen))), 1, 5).tolist()
        times += (EPOCH + days * DAY).tolist()
    ratings_array, times_array = np.asarray(ratings), np.asarray(times, dtype=np.int64)
    rows = build_market(f"m{index}", users, items, ratings_array, times_array, calendar=True)
    # the generator's items are public, those that nobody met too
    market = restrict(rows, Catalogue.of("synthetic", ids))
    number = np.array([int(str(name).rsplit("i", 1)[1]) for name in market.item_ids])
    return PlantedMarket(market, shared[number], local[number])


def _tastes(rng: np.random.Generator, n_users: int, n_prototypes: int) -> FloatArray:
    """One or two liked prototypes per user, ``(n_users, n_prototypes)`` with entries in [0, 1]."""
    tastes: NDArray[np.float64] = rng.dirichlet(np.full(n_prototypes, 0.25), n_users)
    return np.asarray(tastes / tastes.max(1, keepdims=True))
