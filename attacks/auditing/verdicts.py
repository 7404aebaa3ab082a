"""From scores of canaries that were in and of canaries that were out to a verdict on a claim.

Lower bounds on ε come from ``jax_privacy.auditing`` (Google DeepMind), but for the Gaussian one: its
``epsilon_from_gdp`` takes the absolute value of a bound on μ, and so calls scores that say nothing a violation. The
verdict does not rest on them: it asks whether the true positives that were seen exceed what the claim's own trade-off
curve admits, which loses nothing to the choice of a δ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import dp_accounting
import numpy as np
from jax_privacy import auditing
from numpy.typing import NDArray
from scipy import stats

from attacks.auditing.claims import Claim, gaussian_tpr

Scores = NDArray[np.float64]
Counts = int | NDArray[np.int64]
LEVEL = 0.05
_LARGEST = 2**24  # canaries; where not even so many would do, no number does


class Verdict(StrEnum):
    CONSISTENT = "consistent"
    VIOLATED = "VIOLATED"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """What an audit found.

    Attributes:
        claimed: ε of the claim, at its δ.
        delta: that δ.
        low: lower bound on ε from Clopper-Pearson intervals; assumes nothing.
        low_gaussian: lower bound on ε for a mechanism whose trade-off curve is Gaussian.
        low_one_run: lower bound from one training run with many canaries; None for other games.
        distance: how many standard deviations apart canaries in and out score, by their AUC.
        verdict: ``VIOLATED`` at the stated level, ``consistent`` if half the noise would have been seen, else
            ``inconclusive``.
        canaries: number that were scored.
        needed: canaries with which half the noise would be seen 19 times in 20; None where no number is enough.
    """

    claimed: float
    delta: float
    low: float
    low_gaussian: float
    low_one_run: float | None
    distance: float
    verdict: Verdict
    canaries: int
    needed: int | None


def judge(
    claim: Claim,
    inside: Scores,
    outside: Scores,
    *,
    level: float = LEVEL,
    one_run: bool = False,
    broken: float | None = None,
) -> Finding:
    """Compare scores ``(n,)`` of canaries with a claim.

    Args:
        claim: what is claimed of the mechanism.
        inside: scores of canaries that were in the data, higher where the adversary believes so.
        outside: scores of others, from the same number of games.
        level: false-alarm rate of ``VIOLATED`` for a mechanism that meets the claim.
        one_run: whether all canaries were in one training run.
        broken: distance of the scores under the fault that the audit must not miss; by default twice what was seen,
            as half the noise would have it.
    """
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    split = auditing.Split(seed=0)
    distance = _distance(auditor.attack_auroc())
    canaries = len(inside) + len(outside)
    needed = canaries_needed(claim, 2.0 * distance if broken is None else broken, level=level)
    if is_violated(claim, inside, outside, level=level):
        verdict = Verdict.VIOLATED
    elif needed is not None and needed <= canaries:
        verdict = Verdict.CONSISTENT
    else:
        verdict = Verdict.INCONCLUSIVE
    low_one_run = None
    if one_run:
        low_one_run = float(auditor.epsilon_one_run(level, claim.delta, threshold_strategy=split))
    return Finding(
        claimed=claim.epsilon,
        delta=claim.delta,
        low=float(auditor.epsilon_clopper_pearson(level, claim.delta, threshold_strategy=split)),
        low_gaussian=gaussian_bound(claim, inside, outside, level=level),
        low_one_run=low_one_run,
        distance=distance,
        verdict=verdict,
        canaries=canaries,
        needed=needed,
    )


def is_violated(claim: Claim, inside: Scores, outside: Scores, *, level: float = LEVEL) -> bool:
    """Whether the scores refute the claim: true with probability ``level`` at most where the claim holds.

    One half of the scores chooses the threshold, the other half counts: Clopper-Pearson bounds, ``level / 2`` each, of
    both rates at one threshold that was chosen without them.
    """
    threshold = _best_threshold(claim, inside[::2], outside[::2], level)
    held_in, held_out = inside[1::2], outside[1::2]
    return _exceeds(
        claim, int((held_in > threshold).sum()), len(held_in), int((held_out > threshold).sum()), len(held_out), level
    )


def gaussian_bound(claim: Claim, inside: Scores, outside: Scores, *, level: float = LEVEL) -> float:
    """Lower bound on ε at the claim's δ if the mechanism's trade-off curve is that of a Gaussian (Nasr et al., 2023).

    ``μ >= Φ⁻¹(TPR) - Φ⁻¹(FPR)`` at Clopper-Pearson bounds of both rates, at a threshold that the other half of the
    scores chose, then ε(δ) of ``N(0, 1)`` against ``N(μ, 1)`` by dp-accounting.
    """
    candidates = _thresholds(inside[::2], outside[::2])
    chosen = candidates[int(_distances(inside[::2], outside[::2], candidates, level).argmax())]
    mu = float(_distances(inside[1::2], outside[1::2], np.array([chosen]), level)[0])
    return float(dp_accounting.get_epsilon_gaussian(1.0 / mu, claim.delta)) if mu > 0 else 0.0


def canaries_needed(claim: Claim, distance: float, *, level: float = LEVEL) -> int | None:
    """Canaries, half of them in, with which scores ``distance`` standard deviations apart refute the claim.

    Nineteen times in twenty, at the best threshold; None where the claim admits that distance.
    """
    rates = np.concatenate([np.geomspace(1e-4, 0.5, 40), 1.0 - np.geomspace(1e-3, 0.5, 20)])
    useful = np.array([rate for rate in rates if gaussian_tpr(distance, rate) > claim.largest_tpr(float(rate))])
    seen = np.array([gaussian_tpr(distance, float(rate)) for rate in useful])
    n = 16
    while len(useful) and n <= _LARGEST:
        counted = n // 4  # half of the canaries are in, half of those count
        hits = np.asarray(stats.binom.ppf(0.05, counted, seen)).astype(int)
        false = np.asarray(stats.binom.ppf(0.95, counted, useful)).astype(int)
        lower, upper = _lower(hits, counted, level / 2), _upper(false, counted, level / 2)
        if any(low > claim.largest_tpr(float(high)) for low, high in zip(lower, upper, strict=True)):
            return n
        n = int(n * 1.25)
    return None


def _best_threshold(claim: Claim, inside: Scores, outside: Scores, level: float) -> float:
    """The threshold whose rates, bounded as they will be on the other half, rise furthest above the claim."""
    candidates = _thresholds(inside, outside)
    lower, upper = _rates(inside, outside, candidates, level)
    margin = lower - np.array([claim.largest_tpr(float(rate)) for rate in upper])
    return float(candidates[int(margin.argmax())])


def _thresholds(inside: Scores, outside: Scores) -> Scores:
    return np.unique(np.quantile(np.concatenate([inside, outside]), np.linspace(0.0, 1.0, 201)))


def _rates(inside: Scores, outside: Scores, thresholds: Scores, level: float) -> tuple[Scores, Scores]:
    """Lower bounds of true- and upper bounds of false-positive rates at each threshold."""
    hits = (inside[:, None] > thresholds).sum(0)
    false = (outside[:, None] > thresholds).sum(0)
    return _lower(hits, len(inside), level / 2), _upper(false, len(outside), level / 2)


def _distances(inside: Scores, outside: Scores, thresholds: Scores, level: float) -> Scores:
    """Lower bound of a Gaussian's μ at each threshold."""
    lower, upper = _rates(inside, outside, thresholds, level)
    with np.errstate(invalid="ignore"):
        found = stats.norm.ppf(lower) - stats.norm.ppf(upper)
    return np.nan_to_num(np.asarray(found), nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def _exceeds(claim: Claim, hits: int, n_in: int, false: int, n_out: int, level: float) -> bool:
    return float(_lower(hits, n_in, level / 2)) > claim.largest_tpr(float(_upper(false, n_out, level / 2)))


def _lower(successes: Counts, trials: int, level: float) -> Scores:
    """Clopper-Pearson lower bound of a proportion, one-sided."""
    counts = np.asarray(successes)
    return np.where(counts > 0, stats.beta.ppf(level, np.maximum(counts, 1), trials - counts + 1), 0.0)


def _upper(successes: Counts, trials: int, level: float) -> Scores:
    """Clopper-Pearson upper bound of a proportion, one-sided."""
    counts = np.asarray(successes)
    return np.where(counts < trials, stats.beta.ppf(1.0 - level, counts + 1, np.maximum(trials - counts, 1)), 1.0)


def _distance(auc: float) -> float:
    return float(np.sqrt(2.0) * stats.norm.ppf(np.clip(auc, 1e-6, 1.0 - 1e-6)))
