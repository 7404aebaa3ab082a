"""Tasks beside the sampled candidates: rank a whole pool, and serve users of whom few rows are known.

Both ask the run's models as whoever recommends does, with accounts: a market's users with some of their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmm_secure.config import Config
from fedmm_secure.ctr.metrics import evaluate
from fedmm_secure.data.market import FloatArray, IntArray, rank_from_latest, with_rows
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.results.scorers import ReleasedScorer, Score, Scorer, TrainedScorer

TaskFigures = dict[str, Mapping[str, float | None] | None]  # by task, figures by name; a task without any is None
TASKS = ("ranking", "short_histories")
TOP = 10
PAIRS_AT_ONCE = 2**17  # whose features are in memory together


@dataclass(frozen=True)
class Ranking:
    """Test items ranked among a whole pool, without the items that their users have already.

    Attributes:
        users: test rows that were ranked, one a user under ``leave-last-out``.
        items: of the pool.
        ndcg10: mean of ``1 / log2(rank + 1)`` where the rank is 10 or better, 0 elsewhere.
        recall10: share of ranks of 10 or better.
        popularity_ndcg10: the same where items stand in the order of their training rows.
        popularity_recall10: likewise.
    """

    users: int
    items: int
    ndcg10: float
    recall10: float
    popularity_ndcg10: float
    popularity_recall10: float


def add_tasks(metrics: dict[str, Any], config: Config, markets: Mapping[str, PreparedMarket], directory: Path) -> None:
    """Put the figures of further tasks into a run's metrics, by market and over all."""
    further = {name: tasks_of(config, prepared, directory) for name, prepared in markets.items()}
    for name, found in further.items():
        metrics["markets"][name] |= found
    metrics["macro"] |= macro_of([further[name] for name in sorted(further)])


def tasks_of(config: Config, prepared: PreparedMarket, run: Path) -> TaskFigures:
    """What ``evaluation`` asks of a market's models, as metrics say it; nothing where it asks nothing."""
    choices, name = config.evaluation, prepared.market.name
    if prepared.lacking or not (choices.ranked_users or choices.short_histories):
        return {}
    private = config.private_ctr
    files = RunFiles(run, name)  # the run goes on
    scorer = ReleasedScorer(files, config) if private else TrainedScorer(files, config, prepared)
    found: TaskFigures = {}
    if choices.ranked_users:
        rng = numpy_generator("ranked-users", name, config.data.candidate_seed)
        ranked = rank_pool(scorer, prepared, choices.ranked_users, rng)
        found["ranking"] = None if ranked is None else asdict(ranked)
    if choices.short_histories:
        found["short_histories"] = {str(n): auc_of_short(scorer, prepared, n) for n in choices.short_histories}
    return found


def rank_pool(scorer: Scorer, prepared: PreparedMarket, most: int, rng: np.random.Generator) -> Ranking | None:
    """Rank test items of at most so many users, drawn by ``rng``; None where the pool has none of the test items."""
    market, split, pool = prepared.market, prepared.split, prepared.pool.items
    rows = split.test[np.isin(market.item[split.test], pool)]
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    if not len(rows):
        return None
    score = scorer.on(with_rows(market, split.train))
    counts = np.bincount(market.item[split.train], minlength=market.n_items).astype(np.float64)
    known = np.concatenate([split.train, split.valid])
    met = np.unique(market.user[known] * market.n_items + market.item[known])
    ours, theirs = np.zeros(len(rows)), np.zeros(len(rows))
    step = max(1, PAIRS_AT_ONCE // len(pool))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        user, item = np.repeat(market.user[part], len(pool)), np.tile(pool, len(part))
        wanted = np.repeat(market.item[part], len(pool))
        others = (item != wanted) & ~np.isin(user * market.n_items + item, met)
        for found, scores in ((ours, score(user, item)), (theirs, counts[item])):
            found[start : start + step] = _ranks(scores, item == wanted, others, len(pool))
    return Ranking(len(rows), len(pool), *_top(ours), *_top(theirs))


def _ranks(scores: FloatArray, wanted: FloatArray, others: FloatArray, n_items: int) -> FloatArray:
    """Rank of the wanted item of each user among the others, from 1; of equal scores the others' count first."""
    by_user = scores.reshape(-1, n_items)
    own = by_user[wanted.reshape(-1, n_items)][:, None]
    return np.asarray(1 + ((by_user >= own) & others.reshape(-1, n_items)).sum(axis=1), dtype=np.float64)


def _top(ranks: FloatArray) -> tuple[float, float]:
    """NDCG and recall among the first."""
    within = ranks <= TOP
    return float(np.where(within, 1.0 / np.log2(ranks + 1), 0.0).mean()), float(within.mean())


def auc_of_short(scorer: Scorer, prepared: PreparedMarket, n: int) -> float | None:
    """Test AUC where of each user the latest ``n`` training rows alone are known; None where a class is missing."""
    market, train, test = prepared.market, prepared.split.train, prepared.test
    kept = train[rank_from_latest(market.user[train], market.n_users) < n]
    found = evaluate(test, _in_blocks(scorer.on(with_rows(market, kept)), test.user, test.item)).auc
    return found if np.isfinite(found) else None


def _in_blocks(score: Score, user: IntArray, item: IntArray) -> FloatArray:
    parts = [
        score(user[start : start + PAIRS_AT_ONCE], item[start : start + PAIRS_AT_ONCE])
        for start in range(0, len(user), PAIRS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def macro_of(markets: Sequence[TaskFigures]) -> TaskFigures:
    """Means over markets of what ``tasks_of`` gave, where every market has a figure."""
    found: TaskFigures = {}
    for task in dict.fromkeys(task for market in markets for task in market):
        known = [figures for market in markets if (figures := market.get(task)) is not None]
        keys = [key for key in known[0] if key not in ("users", "items")] if len(known) == len(markets) else []
        found[task] = {key: _mean([figures[key] for figures in known]) for key in keys} or None
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
