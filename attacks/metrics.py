"""How well an attack does, with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.metrics import roc_auc_score, roc_curve

from fedmm_secure.ctr.metrics import CONFIDENCE

POWER = 0.95  # with which an alarm is wanted where there is something to find
SHARED_SHADOWS = 2.0**0.5
_ROUNDED = 1e-9  # a cosine of two equal vectors may be more than 1 by a rounding


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(successes: float, trials: float, *, repeated: float = 0.0) -> Estimate:
    """Clopper and Pearson's interval of a proportion (Biometrika 1934), which covers at any number of trials.

    As quantiles of beta laws, so that counts need not be whole.

    Args:
        successes: among the trials.
        trials: that were made.
        repeated: trials that say nothing of their own, because others are the same (Kish, "Survey Sampling", 1965).
    """
    share, tail = min(successes / trials, 1.0), 0.5 - 0.5 * CONFIDENCE
    worth = trials - repeated
    hits, misses = share * worth, (1.0 - share) * worth
    low = float(stats.beta.ppf(tail, hits, misses + 1.0)) if hits > 0.0 else 0.0
    high = float(stats.beta.isf(tail, hits + 1.0, misses)) if misses > 0.0 else 1.0
    return Estimate(share, low, high)


def mean_estimate(values: NDArray[np.float64]) -> Estimate:
    """Student t interval of a mean."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def bounded_estimate(values: NDArray[np.float64], least: float = 0.0, most: float = 1.0) -> Estimate:
    """Mean of what lies between two bounds, as shares, AUCs and cosines do, with an interval that lies there too.

    Student's t interval of the mean's log-odds, by the delta method: that of a fractional logit with standard errors
    that are robust to heteroscedasticity (Papke, Wooldridge, J. Applied Econometrics 1996). Of many values, or of
    values in the middle, it is the t interval of the mean; few of them do not tell of more than there can be. Of hits
    and misses, which are at the bounds alone, it is the exact one of a proportion: of one hit in a hundred the other
    covers .89.

    Values that are all the same have no error to go by. What happens with a probability above ``1 - .025^(1/n)`` would
    have been among ``n`` of them with 97.5 %, so that the mean is as far away as the rest can move it: for a share of 0
    or 1 that is Clopper and Pearson's interval.

    Raises:
        ValueError: a value is out of bounds.
    """
    scaled = (values - least) / (most - least)
    if scaled.min() < -_ROUNDED or scaled.max() > 1.0 + _ROUNDED:
        raise ValueError(f"values from {values.min()} to {values.max()} are not all in [{least}, {most}]")
    mean = float(np.clip(scaled.mean(), 0.0, 1.0))
    low, high = 0.0, 1.0
    if len(values) > 1:
        error = float(stats.sem(scaled))
        seen = (0.5 - 0.5 * CONFIDENCE) ** (1.0 / len(values))
        low, high = seen * mean, 1.0 - seen * (1.0 - mean)
        if np.isin(scaled, (0.0, 1.0)).all():
            hits = proportion(float(scaled.sum()), len(values))
            low, high = hits.low, hits.high
        elif error > _ROUNDED and 0.0 < mean < 1.0:
            half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * error / (mean * (1.0 - mean))
            low, high = special.expit(special.logit(mean) + np.array([-half, half]))
    return Estimate(*(float(least + (most - least) * part) for part in (mean, low, high)))


def _share(values: list[float], trials: int) -> Estimate:
    """Mean over models of what lies between 0 and 1: so does its interval, whatever few models say.

    Models are each other's shadows, so that what one of them is like moves the figures of others too. A t interval of
    independent figures then covers .87 to .89 instead of .95 (LiRA, 16 models, simulated); at ``SHARED_SHADOWS`` times
    its width it covers .95 and more.

    Of few true positives figures have little error to go by, or none where all models show the same: a single one
    among 16 models would be covered .91 of the time. So the interval is no narrower than that of as many ``trials`` as
    there were, had they been independent.
    """
    found = mean_estimate(np.array(values))
    half, apart = SHARED_SHADOWS * (found.high - found.value), proportion(found.value * trials, trials)
    low, high = min(found.value - half, apart.low), max(found.value + half, apart.high)
    return Estimate(found.value, max(low, 0.0), min(high, 1.0))


def true_positives_at(score: NDArray[np.float64], member: NDArray[np.bool_], fpr: float) -> int:
    """Members that score strictly above the threshold that at most ``fpr`` of the non-members exceed.

    That is one that a non-member has. Of fewer than ``1 / fpr`` it is the highest, above which others of their kind are
    more often than ``fpr``: the count errs upwards.
    """
    outside = np.sort(score[~member])[::-1]
    allowed = int(np.floor(fpr * len(outside)))
    return int((score[member] > outside[allowed]).sum())


FALSE_POSITIVE_RATES = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class MembershipMetrics:
    """How well an attack tells members from others.

    Attributes:
        auc: mean over target models, t interval over them, widened for the shadows that they share.
        tpr: by false-positive rate, of each target model by itself; mean and interval over models alike. Queries of one
            model depend on each other, so that an interval over queries would be several times too narrow.
        targets: target models, trained independently.
        queries: queries of each.
    """

    auc: Estimate
    tpr: dict[float, Estimate]
    targets: int
    queries: int

    def to_json(self) -> dict[str, Any]:
        """As they are kept in ``attacks.json``: an estimate with its interval for each figure, and the counts."""
        rates = {f"tpr_at_{100 * rate:g}_percent_fpr": asdict(found) for rate, found in self.tpr.items()}
        return {"auc": asdict(self.auc), **rates, "targets": self.targets, "queries": self.queries}


def membership_metrics(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> MembershipMetrics:
    """Metrics of attack scores ``(n_targets, n_queries)`` against membership of the same shape."""
    pairs = list(zip(scores, members, strict=True))
    inside = members.sum(1)
    apart = np.minimum(inside, members.shape[1] - inside)  # pairs of a member and another query, none in two of them

    def tpr(rate: float) -> Estimate:
        found = [true_positives_at(score, member, rate) / int(member.sum()) for score, member in pairs]
        return _share(found, int(inside.sum()))

    return MembershipMetrics(
        auc=_share([float(roc_auc_score(member, score)) for score, member in pairs], int(apart.sum())),
        tpr={rate: tpr(rate) for rate in FALSE_POSITIVE_RATES},
        targets=len(scores),
        queries=scores.shape[1],
    )


def roc(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False- and true-positive rates, averaged over target models at the same false-positive rates ``(n_points,)``.

    A threshold that ``k`` of ``n`` non-members exceed counts as a rate of ``(k + 1) / n``: it was chosen by the next
    one. Below ``1 / n`` there is nothing to see.
    """
    rates = np.unique(np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 200)]))
    curves = []
    for score, member in zip(scores, members, strict=True):
        false, true, _ = roc_curve(member, score)
        # the most that is reached without exceeding a rate: no interpolation between what was observed
        place = np.searchsorted(false + 1.0 / (~member).sum(), np.minimum(rates + 1e-12, 1.0), side="right") - 1
        curves.append(np.where(place >= 0, true[np.maximum(place, 0)], 0.0))
    return rates, np.mean(curves, axis=0)
