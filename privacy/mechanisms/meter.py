"""The noise meter: whether values that should be noise of a stated law are.

Each function reads values that hold noise alone and returns what is wrong with them, or None. ``level`` is the
probability with which right values are called wrong; it is shared out over the tests of one call.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from privacy.mechanisms.randomised_response import SPARE_VALUE, truth_probability
from privacy.mechanisms.randomness import IntArray

_BINS = 16  # of the answers that are not the spare users' value
_SHAPE_SHARE = 0.2  # of the level; the size of the noise is what is asked first


def gaussian_problem(values: IntArray, scale: float, level: float) -> str | None:
    """What is wrong with discrete Gaussian values ``(n,)`` of standard deviation ``scale``; None if nothing.

    Size: a chi-square of n degrees on both sides. Law: Kolmogorov-Smirnov. Repetition: pairs of equal values, about
    Poisson around ``n (n-1) / (4 sqrt(π) scale)``. A scale of thousands makes the discrete law normal to all three.
    """
    n = len(values)
    standard = values.astype(np.float64) / scale
    ratio = math.sqrt(float(np.square(standard).mean()))
    size_level = level * (1.0 - 2.0 * _SHAPE_SHARE)
    low, high = (math.sqrt(stats.chi2.ppf(at, n) / n) for at in (size_level / 2.0, 1.0 - size_level / 2.0))
    if not low <= ratio <= high:
        return f"{n} values show {ratio:.3f} of the noise that is stated; {low:.3f} to {high:.3f} would pass"
    if stats.kstest(standard, stats.norm.cdf).pvalue < level * _SHAPE_SHARE:
        return f"{n} values have the size of the noise that is stated, but not its law"
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    equal, expected = float((counts * (counts - 1.0) / 2.0).sum()), n * (n - 1) / (4.0 * math.sqrt(math.pi) * scale)
    if stats.poisson.sf(equal - 1.0, expected) < level * _SHAPE_SHARE:
        return (
            f"{n} values of which {equal:.0f} pairs are equal, where {expected:.2f} are expected: noise was used again"
        )
    return None


def answers_problem(answers: IntArray, n_values: int, epsilon: float, level: float) -> str | None:
    """What is wrong with answers ``(n,)`` of users whose value is ``SPARE_VALUE``; None if nothing.

    How many are true: binomial, on both sides. The others: uniform, chi-square over bins of equal probability but for
    one value.
    """
    if ((answers < 0) | (answers >= n_values)).any():
        return "answers are out of range"
    n, truth = len(answers), truth_probability(epsilon, n_values)
    true = int((answers == SPARE_VALUE).sum())
    if stats.binomtest(true, n, truth).pvalue < level * (1.0 - _SHAPE_SHARE):
        return f"{true} of {n} spare answers are true, where {n * truth:.1f} are expected"
    others = answers[answers != SPARE_VALUE] - 1
    bins = min(_BINS, n_values - 1)
    if len(others) >= 5 * bins > 5:
        edges = np.linspace(0, n_values - 1, bins + 1).round().astype(np.int64)
        found = np.histogram(others, edges)[0]
        expected = len(others) * np.diff(edges) / (n_values - 1.0)
        if stats.chisquare(found, expected).pvalue < level * _SHAPE_SHARE:
            return f"{len(others)} spare answers that are not true are not uniform over the other values"
    return None
