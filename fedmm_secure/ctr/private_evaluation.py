"""Test figures that may be published: AUC and LogLoss of a private model from noisy histograms of its scores.

An exact AUC of private rows is an output without a guarantee: whoever knows all test rows but one reads the last one
off its digits. Here each user contributes one positive and its negatives, a score is cut to public bins, and the counts
get noise that the budget pays for. Three things have to hold, and are made to:

- a user's candidates follow from that user's rows, public or released weights of the items, and coins of their own.
  (The candidates of the exact evaluation do not: which items may be candidates depends on everyone's rows, and one
  generator serves all users in turn.)
- a user's scores follow from that user's rows and from released models. So only the configured model under ``protect:
  release`` has noisy figures; a baseline that was trained or calibrated on raw rows has none.
- everything else that is reported of test rows, their number say, comes from the same histograms, or is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fedmm_secure.ctr.metrics import CONFIDENCE, Interval
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray, IntArray, Market
from fedmm_secure.guarantee.score_bins import LOG_ODDS, contribution
from privacy.mechanisms.histograms import ScoredExamples, ScoreHistograms, noisy_score_histograms
from privacy.mechanisms.randomness import NoiseSource

_CLEAR = 4.0  # standard deviations by which a number of candidates has to stand above its noise


_QUANTILE = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class NoisyEstimate:
    """A figure of the candidates at hand, and the standard deviation that the noise gives it."""

    value: float
    deviation: float

    def interval(self) -> Interval:
        """95 %, for the noise alone: how far the figure of other users would be from this one, it does not say."""
        half = _QUANTILE * self.deviation
        return Interval(self.value, self.value - half, self.value + half)


@dataclass(frozen=True)
class NoisyFigures:
    """AUC and LogLoss of a model whose scores are cut to bins; None where the noise leaves nothing to say.

    ``negatives`` and ``positives`` are the noisy numbers of candidates.
    """

    auc: NoisyEstimate | None
    logloss: NoisyEstimate | None
    negatives: float
    positives: float


def private_candidates(
    market: Market, rows: IntArray, weights: FloatArray, *, per_positive: int, noise: NoiseSource
) -> Candidates:
    """Each user's latest test row and ``per_positive`` negatives, drawn from the items that the user never touched.

    Negatives are independent, so one may come twice. The words of the stream are independent and uniform: whether or
    not a user is there and takes some of them, the others' candidates have the same law.

    Args:
        market: the market.
        rows: its test rows, ``(n,)``.
        weights: of the items, ``(n_items,)``: public or released. Those of weight 0 are no candidates.
        per_positive: negatives of a positive.
        noise: source of this purpose.
    """
    latest = np.sort(rows)  # by user, and in time order of each
    latest = latest[np.flatnonzero(np.diff(market.user[latest], append=-1))]
    latest = latest[weights[market.item[latest]] > 0]
    uniform = noise.uniforms(len(latest) * per_positive).reshape(-1, per_positive)
    touched = _items_by_user(market)
    negatives = np.full((len(latest), per_positive), -1, dtype=np.int64)
    for row, user in enumerate(market.user[latest]):
        left = weights.copy()
        left[touched[user]] = 0.0
        total = np.cumsum(left)
        if total[-1] > 0:  # else the user has touched everything, and has no candidates
            found = np.searchsorted(total, uniform[row] * total[-1], side="right")
            negatives[row] = np.minimum(found, np.flatnonzero(left)[-1])
    kept = negatives[:, 0] >= 0
    latest, negatives = latest[kept], negatives[kept]
    user = market.user[latest]
    return Candidates(
        np.concatenate([user, np.repeat(user, per_positive)]),
        np.concatenate([market.item[latest], negatives.ravel()]),
        np.concatenate([np.ones(len(user)), np.zeros(negatives.size)]),
    )


def _items_by_user(market: Market) -> Sequence[IntArray]:
    order = np.argsort(market.user, kind="stable")
    count = np.bincount(market.user, minlength=market.n_users)
    return np.split(market.item[order], np.cumsum(count)[:-1])


def release_histograms(
    candidates: Candidates,
    probabilities: Sequence[FloatArray],
    noise_multiplier: float,
    noise: NoiseSource,
    *,
    per_positive: int,
    spare: int = 0,
) -> ScoreHistograms:
    """Noisy histograms of predicted probabilities ``(n,)``, one pair for each repetition of the model.

    One Gaussian mechanism of ``noise_multiplier`` for all of them together. Candidates may be any: of a user's, the
    first positive and the first ``per_positive`` negatives count.
    """
    log_odds = np.stack([_log_odds(probability) for probability in probabilities])
    examples = ScoredExamples(candidates.user, candidates.label.astype(np.int64), log_odds)
    return noisy_score_histograms(examples, LOG_ODDS, contribution(per_positive), noise_multiplier, noise, spare=spare)


def _log_odds(probability: FloatArray) -> FloatArray:
    clipped = np.clip(probability, 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def histograms_from_arrays(kept: Mapping[str, FloatArray]) -> ScoreHistograms:
    """Histograms as they were published: without the spare values of their noise."""
    negative, positive = kept["noise"]
    return ScoreHistograms(kept["counts"], (float(negative), float(positive)), np.zeros(0, dtype=np.int64))


def noisy_figures(histograms: ScoreHistograms) -> list[NoisyFigures]:
    """AUC and LogLoss of each repetition, from what was released alone."""
    return [_figures(negative, positive, histograms.noise) for negative, positive in histograms.counts]


def mean_of(estimates: Sequence[NoisyEstimate | None]) -> NoisyEstimate | None:
    """Mean over repetitions, or over markets, whose noise is independent; None where one of them is."""
    known = [found for found in estimates if found is not None]
    if not known or len(known) < len(estimates):
        return None
    deviation = float(np.linalg.norm([found.deviation for found in known])) / len(known)
    return NoisyEstimate(float(np.mean([found.value for found in known])), deviation)


def _figures(negative: FloatArray, positive: FloatArray, noise: tuple[float, float]) -> NoisyFigures:
    """First-order error propagation. The gradient is that at the noisy counts, which the noise makes longer on average:
    by twice what the second order of the AUC, ``zᵀ(W - AUC)z' / PN``, adds to its variance.
    """
    n_negative, n_positive = float(negative.sum()), float(positive.sum())
    clear = [_CLEAR * deviation * np.sqrt(len(negative)) for deviation in noise]
    if n_negative < clear[0] or n_positive < clear[1]:
        return NoisyFigures(None, None, n_negative, n_positive)
    # AUC = aᵀWb / PN with W = 1 below the diagonal and 1/2 on it: Mann-Whitney, ties counted half
    below = np.cumsum(negative) - negative / 2.0
    above = n_positive - np.cumsum(positive) + positive / 2.0
    auc = float(positive @ below) / (n_positive * n_negative)
    by_positive = (below / n_negative - auc) / n_positive
    by_negative = (above / n_positive - auc) / n_negative
    centre = bin_centres()
    loss_negative, loss_positive = np.logaddexp(0.0, centre), np.logaddexp(0.0, -centre)
    total = n_negative + n_positive
    logloss = float(negative @ loss_negative + positive @ loss_positive) / total
    return NoisyFigures(
        _estimate(auc, noise, by_negative, by_positive),
        _estimate(logloss, noise, (loss_negative - logloss) / total, (loss_positive - logloss) / total),
        n_negative,
        n_positive,
    )


def _estimate(
    value: float, noise: tuple[float, float], by_negative: FloatArray, by_positive: FloatArray
) -> NoisyEstimate:
    """A figure whose gradients in the counts of negatives and of positives are given."""
    return NoisyEstimate(
        value, float(np.hypot(noise[0] * np.linalg.norm(by_negative), noise[1] * np.linalg.norm(by_positive)))
    )


def bin_centres() -> FloatArray:
    """Log odds that stand for the bins, ``(n_bins,)``; the outer ones, which are open, count as wide as the next."""
    outer = [2 * LOG_ODDS[0] - LOG_ODDS[1], 2 * LOG_ODDS[-1] - LOG_ODDS[-2]]
    edges = np.concatenate([outer[:1], LOG_ODDS, outer[1:]])
    return np.asarray((edges[1:] + edges[:-1]) / 2, dtype=np.float64)
