"""How well an attack does, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(successes: int, trials: int) -> Estimate:
    """Clopper-Pearson interval of a proportion."""
    result = stats.binomtest(successes, trials)
    interval = result.proportion_ci(CONFIDENCE, method="exact")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def mean_estimate(values: NDArray[np.float64]) -> Estimate:
    """Student t interval of a mean."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def true_positives_at(score: NDArray[np.float64], member: NDArray[np.bool_], fpr: float) -> int:
    """Members that score strictly above the threshold that at most ``fpr`` of the non-members exceed."""
    outside = np.sort(score[~member])[::-1]
    allowed = int(np.floor(fpr * len(outside)))
    return int((score[member] > outside[allowed]).sum())


@dataclass(frozen=True)
class MembershipMetrics:
    """AUC: mean over target models, t interval. TPR: pooled over them, Clopper-Pearson interval."""

    auc: Estimate
    tpr_at_1_percent_fpr: Estimate
    targets: int
    queries: int


def membership_metrics(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> MembershipMetrics:
    """Metrics of attack scores ``(n_targets, n_queries)`` against membership of the same shape."""
    aucs = np.array([roc_auc_score(member, score) for score, member in zip(scores, members, strict=True)])
    hits = sum(true_positives_at(score, member, 0.01) for score, member in zip(scores, members, strict=True))
    return MembershipMetrics(
        auc=mean_estimate(aucs),
        tpr_at_1_percent_fpr=proportion(hits, int(members.sum())),
        targets=len(scores),
        queries=scores.shape[1],
    )
