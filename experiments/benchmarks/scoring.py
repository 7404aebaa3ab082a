"""Scoring of candidates against what memory allows: the bytes that it cannot do without, copied."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.ctr.features import FeatureBuilder
from fedmm_secure.ctr.histories import History
from fedmm_secure.data.candidates import Pool
from fedmm_secure.data.synthetic import synthesize_one
from fedmm_secure.randomness import numpy_generator

COPIED = "copying as many bytes: the least that scoring takes"
USERS, ITEMS, PAIRS = 1000, 1000, 100_000
_MEAN = 20.0  # rows of a user
_RANK, _POOL_RANK = 64, 32  # factors that scores of pairs read, and those of a pool
_NUMBERS = 8  # scores of a pair
_MATRICES = 2  # item-item weights: EASE, item-kNN
_FLOAT, _INDEX = 8, 4  # bytes


@dataclass(frozen=True)
class ScoringCost:
    """What scoring costs on one core.

    Attributes:
        way: how.
        slower: seconds for each byte that must be read or written, over those of a copy, paired by repetition.
        gigabytes: that must be, of one repetition.
        rate: gigabytes a second.
    """

    way: str
    slower: Estimate
    gigabytes: float
    rate: Estimate


def measure_scoring(repetitions: int) -> list[ScoringCost]:
    """A copy, candidates pair by pair, and all items of a pool for each user, in each repetition; the first warms up.

    Counted is what no way to score by these models does without, once for each user and item that it is needed for:
    places of a user's history, weights between its items and the scored ones, factors, scores. What lies in a cache is
    read again for less than memory takes, so that a ratio below 1 is possible.
    """
    ways = _ways()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in track("repetitions", range(-1, repetitions)):
        for way, (run, _) in ways.items():
            start = time.process_time()
            run()
            if repetition >= 0:
                seconds[way].append(time.process_time() - start)
    each = {way: np.array(seconds[way]) / size for way, (_, size) in ways.items()}
    return [
        ScoringCost(way, mean_estimate(each[way] / each[COPIED]), size / 1e9, mean_estimate(1e-9 / each[way]))
        for way, (_, size) in ways.items()
    ]


def _ways() -> dict[str, tuple[Callable[[], object], int]]:
    """What is measured, and the bytes that it must read or write."""
    market = synthesize_one(SyntheticSpec(users=USERS, items=ITEMS, mean_interactions=_MEAN), 0).market
    rng, n_items = numpy_generator("bench-scoring"), market.n_items
    pool = Pool(np.arange(n_items), np.full(n_items, 1.0 / n_items), 1.0)
    history = History(market, np.arange(market.n_rows), pool)
    features = FeatureBuilder(("scores",), history)
    user, item = rng.integers(market.n_users, size=PAIRS), rng.integers(n_items, size=PAIRS)
    met = np.diff(history.matrix.indptr)
    of_pairs = int(met[user].sum()) * (_MATRICES * _FLOAT + _INDEX) + PAIRS * _FLOAT * (2 * _RANK + _NUMBERS)
    of_pool = int(met.sum()) * (n_items * _MATRICES * _FLOAT + _INDEX)
    of_pool += _FLOAT * ((market.n_users + n_items) * _POOL_RANK + (_MATRICES + 1) * market.n_users * n_items)
    everyone, source = np.arange(market.n_users), np.ones(max(of_pairs, of_pool) // (2 * _FLOAT))
    copy = np.empty_like(source)
    return {
        COPIED: (lambda: np.copyto(copy, source), 2 * source.nbytes),
        "candidates, pair by pair": (lambda: features(user, item), of_pairs),
        "all items of a pool for each user": (lambda: history.pool_scores(everyone), of_pool),
    }
