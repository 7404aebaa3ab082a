"""Ranking and calibration metrics over labelled candidates, and paired intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.metrics import log_loss, roc_auc_score

from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray, IntArray

CONFIDENCE = 0.95
MOST_RESAMPLED = 50_000  # users of whom a bootstrap is drawn
_LEAST_P = 1e-300  # what is below is 0
_MOST_CELLS = 2**20  # scores times users whose pairs are counted before
_DRAWN_AT_ONCE = 2**15  # users, of several resamples where they are few


@dataclass(frozen=True)
class Metrics:
    """AUC over all candidates, LogLoss in nats, mean per-user AUC, mean NDCG@10 of a user's candidates."""

    auc: float
    logloss: float
    gauc: float
    ndcg10: float


def evaluate(candidates: Candidates, probability: FloatArray) -> Metrics:
    """Metrics of predicted probabilities ``(n,)``; NaN where a class is missing."""
    label = candidates.label
    if len(np.unique(label)) < 2:
        return Metrics(float("nan"), float("nan"), float("nan"), float("nan"))
    return Metrics(
        auc=float(roc_auc_score(label, probability)),
        logloss=float(log_loss(label, np.clip(probability, 1e-7, 1 - 1e-7))),
        gauc=_per_user_auc(candidates.user, label, probability),
        ndcg10=_ndcg(candidates.user, label, probability, 10),
    )


def ranked_auc(label: FloatArray, score: FloatArray) -> float:
    """AUC, ties counted half: scikit-learn's value, several times as fast; NaN where one class is missing."""
    positive, negative = np.sort(score[label > 0]), np.sort(score[label <= 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below, up_to = (np.searchsorted(negative, positive, side=side).sum() for side in ("left", "right"))
    return float((below + up_to) / (2 * len(positive) * len(negative)))


def _per_user_auc(user: IntArray, label: FloatArray, score: FloatArray) -> float:
    """Mean over users with both classes of the Mann-Whitney AUC, ties counted half."""
    order = np.lexsort((score, user))
    user, positive, score = user[order], label[order] > 0, score[order]
    tied = _starts((user[1:] != user[:-1]) | (score[1:] != score[:-1]))
    length = np.diff(tied, append=len(user))
    first = _starts(user[1:] != user[:-1])
    own = np.repeat(np.arange(len(first)), np.diff(first, append=len(user)))
    rank = np.repeat(tied + (length - 1) / 2, length) - first[own] + 1
    total, n_pos = np.bincount(own), np.bincount(own, positive)
    both = (n_pos > 0) & (n_pos < total)
    ranks = np.bincount(own, np.where(positive, rank, 0.0))[both]
    total, n_pos = total[both], n_pos[both]
    auc = (ranks - n_pos * (n_pos + 1) / 2) / (n_pos * (total - n_pos))
    return float(auc.mean()) if len(auc) else float("nan")


def _starts(changes: NDArray[np.bool_]) -> IntArray:
    """Where each run of equal rows begins, by whether a row differs from the one before it."""
    return np.flatnonzero(np.concatenate([[True], changes]))


def _ndcg(user: IntArray, label: FloatArray, score: FloatArray, k: int) -> float:
    order = np.lexsort((label, -score, user))  # ties are broken against the model: positives last
    user, label = user[order], label[order]
    first = _starts(user[1:] != user[:-1])
    own = np.repeat(np.arange(len(first)), np.diff(first, append=len(user)))
    rank = np.arange(len(user)) - first[own]
    gain = np.bincount(own, np.where(rank < k, label / np.log2(rank + 2), 0.0))
    n_pos = np.bincount(own, label).astype(int)
    ideal_by_count = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2))])
    ideal = ideal_by_count[np.minimum(n_pos, k)]
    has = ideal > 0
    return float((gain[has] / ideal[has]).mean()) if has.any() else float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the bounds are None where one value gives none."""

    mean: float
    low: float | None
    high: float | None


def seed_interval(values: list[float]) -> Interval:
    """Student t interval of the mean over seeds."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(array) - 1) * stats.sem(array))
    return Interval(mean, mean - half, mean + half)


def paired_auc_difference(
    candidates: Candidates,
    ours: list[FloatArray],
    theirs: list[FloatArray],
    *,
    resamples: int = 400,
    rng: np.random.Generator,
) -> Interval:
    """Mean AUC over seeds of ours minus that of theirs, with a percentile bootstrap interval over users.

    Users are resampled with all their candidates, the same users for both models and every seed. Of more than
    ``MOST_RESAMPLED`` users the interval is ``auc_difference``'s: by then both are the same, and this takes minutes.
    """
    user, label = candidates.user, candidates.label
    if len(np.unique(user)) > MOST_RESAMPLED:
        return auc_difference(candidates, ours, theirs).interval
    _, group = np.unique(user, return_inverse=True)
    n_groups = int(group.max()) + 1
    times = np.concatenate([np.ones((1, n_groups)), _resampled(n_groups, resamples, rng)])
    one, other = (
        np.stack([_RankedScores(label, scores, group).auc(times) for scores in model], axis=-1).mean(axis=-1)
        for model in (ours, theirs)
    )
    whole, *draws = one - other
    low, high = np.nanquantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Interval(float(whole), float(low), float(high))


def _resampled(n: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """How often each of ``n`` is drawn in each resample, ``(resamples, n)``."""
    times, at_once = np.empty((resamples, n)), max(_DRAWN_AT_ONCE // n, 1)
    for start in range(0, resamples, at_once):
        rows = len(times[start : start + at_once])
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    return times


@dataclass(frozen=True)
class PairedDifference:
    """A difference of AUC between models that were compared on the same users.

    Attributes:
        mean: of ours minus that of theirs, over trainings.
        error: its standard error over users, of the models as they were trained.
        trained: its standard error over trainings, on these users; None of a single one, which says nothing of others.
        trainings: how many.
    """

    mean: float
    error: float
    trained: float | None = None
    trainings: int = 1

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference: the interval of which level ends at 0."""
        size = abs(self.mean)
        if size == 0.0 or size >= self._half(_LEAST_P):
            return float(size == 0.0)
        return math.exp(optimize.brentq(lambda log: self._half(math.exp(log)) - size, math.log(_LEAST_P), 0.0))

    @property
    def interval(self) -> Interval:
        """95 %: of other users, and of other trainings where ``trained`` is known."""
        half = self._half(1.0 - CONFIDENCE)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def over_trainings(self, by_training: Sequence[float]) -> PairedDifference:
        """With the error over trainings, of each of which the difference is given (``mean`` is theirs).

        Raises:
            ValueError: a single training.
        """
        n = len(by_training)
        if n < 2:
            raise ValueError(f"{n} training: at least two say how much trainings differ")
        return replace(self, trained=float(stats.sem(by_training)), trainings=n)

    def _half(self, level: float) -> float:
        """Half the width of an interval that misses with probability ``level`` at most.

        Squares of half widths add up, a normal law's over users and Student's over trainings (Howe, JASA 1974): with
        few trainings Satterthwaite's degrees of freedom cover less than they say.
        """
        users = float(stats.norm.isf(level / 2)) * self.error
        if self.trained is None:
            return users
        return math.hypot(users, float(stats.t.isf(level / 2, self.trainings - 1)) * self.trained)


def auc_difference(candidates: Candidates, ours: list[FloatArray], theirs: list[FloatArray]) -> PairedDifference:
    """Mean AUC over seeds of ours minus that of theirs, with what users who come together contribute to its error.

    Users are clusters of candidates: the variance of AUC for clustered data (Obuchowski, Biometrics 1997, section 2),
    of the difference by the difference of each user's parts. What ``paired_auc_difference`` resamples, in closed form.
    """
    auc, parts = zip(*(_user_parts(candidates, model) for model in (ours, theirs)), strict=True)
    difference = parts[0] - parts[1]
    n = len(difference)
    return PairedDifference(float(auc[0] - auc[1]), float(np.sqrt(n / max(n - 1, 1) * np.square(difference).sum())))


def _user_parts(candidates: Candidates, by_seed: list[FloatArray]) -> tuple[float, FloatArray]:
    """Mean AUC over seeds, and what each user moves it by, ``(n_users,)``."""
    positive = candidates.label > 0
    _, user = np.unique(candidates.user, return_inverse=True)
    auc, parts = 0.0, np.zeros(int(user.max()) + 1)
    for scores in by_seed:
        placed = np.empty(len(scores))
        for own in (positive, ~positive):
            others = np.sort(scores[~own])
            below, up_to = (np.searchsorted(others, scores[own], side=side) for side in ("left", "right"))
            placed[own] = (below + up_to) / 2 / len(others)  # share of the other class below, ties counted half
        placed[~positive] = 1.0 - placed[~positive]
        found = float(placed[positive].mean())
        for own in (positive, ~positive):
            parts += np.bincount(user[own], (placed[own] - found) / own.sum(), minlength=len(parts)) / len(by_seed)
        auc += found / len(by_seed)
    return auc, parts


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979)."""
    order, found, worst = np.argsort(p), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        found[index] = worst
    return found


class _RankedScores:
    """AUC under weights of users, the sorting done once."""

    def __init__(self, label: FloatArray, score: FloatArray, group: IntArray) -> None:
        """``group`` numbers each candidate's user from 0."""
        values, level = np.unique(score, return_inverse=True)
        self._classes = [(level[own], group[own]) for own in (label > 0, label <= 0)]
        self._shape = len(values), int(group.max()) + 1
        self._pairs = self._won() if len(values) * self._shape[1] <= _MOST_CELLS else None

    def auc(self, weights: FloatArray) -> FloatArray:
        """One AUC for each row of weights, ``(n_rows, n_groups)``; NaN where a class weighs nothing."""
        if self._pairs is None:
            return np.array([self._auc(weight) for weight in weights])
        pos, neg = (np.bincount(group, minlength=self._shape[1]) for _, group in self._classes)
        won, total = (weights @ self._pairs * weights).sum(axis=1), (weights @ pos) * (weights @ neg)
        found = np.full(len(weights), np.nan)
        np.divide(won, total, out=found, where=total > 0)
        return found

    def _won(self) -> FloatArray:
        """Pairs of a positive of one user and a lower negative of another, ties counted half, ``(n_groups, n_groups)``.

        The AUC of few users is a quadratic form in it; of whole weights it has the same bits as ``_auc``.
        """
        pos, neg = (
            np.bincount(level * self._shape[1] + group, minlength=math.prod(self._shape)).reshape(self._shape)
            for level, group in self._classes
        )
        below = np.cumsum(neg, axis=0) - neg
        return pos.T.astype(np.float64) @ (below + 0.5 * neg)

    def _auc(self, weight: FloatArray) -> float:
        pos, neg = (np.bincount(level, weight[group], minlength=self._shape[0]) for level, group in self._classes)
        below = np.cumsum(neg) - neg
        total = pos.sum() * neg.sum()
        return float((pos * (below + 0.5 * neg)).sum() / total) if total > 0 else float("nan")
