"""The noise meter: spare values of a mechanism, which anybody who reads a transcript can measure.

Every mechanism draws noise for some coordinates that nobody contributes to, in the same call as for those that it
releases, and shows them as they were drawn. They must be noise of the stated size and law. Noise that was left out
altogether, or made smaller, is found; noise left out of the other coordinates alone is beyond this.

Each test below has an exact law where the noise is what it should be, so its false-alarm rate is what is stated:

- *size*: the sum of squares over S² is chi-square distributed, to within what rounding does to a value (a part in S);
- *law*: Kolmogorov and Smirnov's distance from the normal distribution function, exact for up to 10,000 values;
- *odd values*: a binomial count, for a discrete Gaussian is odd with probability 1/2 to within ``exp(-π²S²/2)``;
- *repeats*: a bound on the probability that any run of consecutive values occurs twice, in this series or another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from privacy.arrays import IntArray
from privacy.mechanisms.randomised_response import SPARE_VALUE, truth_probability

ENOUGH = 1_500  # values of a stage in a run: noise at .9 is seen with 95 % power at a level of 3.6e-5, that of 28
_LOWER = 0.97  # of the level of a two-sided test for the side that costs privacy
_SIZE_SHARE = 0.97  # of the level for the test of size; the rest is for gross faults, which any level sees
_EXACT_KS = 10_000


def spare_coordinates(draws: int) -> int:
    """Spare values of each of ``draws`` draws of a stage in a run, so that together they are ``ENOUGH``."""
    return -(-ENOUGH // draws)


@dataclass(frozen=True)
class MeterFinding:
    """One test of spare values.

    Attributes:
        test: its name.
        p_value: probability of what was seen, or worse, if the noise is what it should be; at most, where bounded.
        level: below it there is an alarm.
        seen: what was measured, in words.
    """

    test: str
    p_value: float
    level: float
    seen: str

    @property
    def alarm(self) -> bool:
        """Whether the test rejects that the noise is as stated."""
        return self.p_value < self.level


def meter_findings(values: IntArray, *, scale: float, level: float) -> tuple[MeterFinding, ...]:
    """Tests of spare values ``(n,)``, in grid units, as drawn; together they have the false-alarm rate ``level``.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values).ravel()
    if not values.size:
        raise ValueError("no spare values to measure noise by")
    rest = level * (1.0 - _SIZE_SHARE) / 3.0
    return (
        _size(values, scale, level * _SIZE_SHARE),
        _law(values, scale, rest),
        _odd(values, rest),
        repeats([values], scale=scale, level=rest),
    )


def response_findings(answers: IntArray, *, n_values: int, epsilon: float, level: float) -> tuple[MeterFinding, ...]:
    """Tests of the answers ``(n,)`` of dummy users by randomised response; together of false-alarm rate ``level``.

    True answers are binomial. Given their number, wrong ones are uniform over the other values: so is the count of
    those that have a given binary digit, each binomial too. What is no answer at all is never given.

    Raises:
        ValueError: no answers.
    """
    answers = np.asarray(answers).ravel()
    if not answers.size:
        raise ValueError("no spare answers to measure randomised response by")
    probability = truth_probability(epsilon, n_values)
    strange = int(((answers < 0) | (answers >= n_values)).sum())
    wrong = (answers[answers != SPARE_VALUE] - SPARE_VALUE) % n_values - 1
    others, digits = np.arange(n_values - 1), max(1, (n_values - 2).bit_length())
    truths = answers.size - wrong.size
    found = [MeterFinding("range", 0.0 if strange else 1.0, level, f"{strange} are not in 0 … {n_values - 1}")]
    # too many true answers cost privacy
    found += [_binomial("true answers", truths, answers.size, probability, level / 2.0, costly="above")]
    for digit in range(digits):
        share = float(((others >> digit) & 1).mean())
        ones = int(((wrong >> digit) & 1).sum())
        name = f"digit {digit} of wrong answers"
        found.append(_binomial(name, ones, wrong.size, share, level / 2.0 / digits))
    return tuple(found)


def repeats(series: Sequence[IntArray], *, scale: float, level: float) -> MeterFinding:
    """Whether any run of consecutive values occurs twice, within a series or between two of them.

    Two given runs of m values agree with probability at most ``c^m``, overlapping or not: in order, each of the m
    equalities is about a value that is independent of what it must equal, and no value has a probability above
    ``c = 1 / (sqrt(2π) S)``. m is the least for which a union bound over all pairs stays below the level.
    """
    parts = [np.asarray(part).ravel() for part in series]
    total = sum(part.size for part in parts)
    chance = 1.0 / (math.sqrt(2.0 * math.pi) * scale)
    length = 1
    while 0.5 * total**2 * chance**length >= level:
        length += 1
    runs = _numbered_runs(parts, length)
    again = len(runs) - len(np.unique(runs))
    p_value = 0.0 if again else 1.0
    return MeterFinding("repeats", p_value, level, f"{again} runs of {length} values occur more than once")


def _numbered_runs(parts: Sequence[IntArray], length: int) -> IntArray:
    """A number for each run of ``length`` values within a part, the same where they are equal."""
    joined = np.concatenate([np.zeros(0, np.int64), *parts])
    inside = [np.arange(part.size) < part.size - length + 1 for part in parts]
    first = np.flatnonzero(np.concatenate([np.zeros(0, bool), *inside]))
    values, ranks = np.unique(joined, return_inverse=True)
    runs, most = np.zeros(len(first), dtype=np.int64), 1  # numbers below ``most``
    for place in range(length):
        if most * len(values) > 2**62:  # as many as there are runs, at most
            _, runs = np.unique(runs, return_inverse=True)
            most = len(runs)
        runs, most = runs * len(values) + ranks[first + place], most * len(values)
    return runs


def _size(values: IntArray, scale: float, level: float) -> MeterFinding:
    squares = float(np.square(values / scale).sum())
    ratio = math.sqrt(squares / values.size)
    p_value = _two_sided(
        float(stats.chi2.cdf(squares, values.size)), float(stats.chi2.sf(squares, values.size)), costly="below"
    )
    return MeterFinding("size", p_value, level, f"{ratio:.3f} of the stated noise, by {values.size} values")


def _law(values: IntArray, scale: float, level: float) -> MeterFinding:
    shown = values[:_EXACT_KS] / scale
    found = stats.kstest(shown, special.ndtr, method="exact")
    return MeterFinding("law", float(found.pvalue), level, f"distance {found.statistic:.4f} from the normal law")


def _odd(values: IntArray, level: float) -> MeterFinding:
    return _binomial("odd values", int((values % 2).sum()), values.size, 0.5, level)


def _binomial(
    test: str, count: int, n: int, probability: float, level: float, *, costly: str | None = None
) -> MeterFinding:
    below, above = float(stats.binom.cdf(count, n, probability)), float(stats.binom.sf(count - 1, n, probability))
    seen = f"{count} of {n}, {n * probability:.1f} expected"
    return MeterFinding(test, _two_sided(below, above, costly=costly), level, seen)


def _two_sided(below: float, above: float, *, costly: str | None = None) -> float:
    """p-value of a test whose sides share the level: evenly, or ``_LOWER`` of it for the side that costs privacy."""
    for_below = {None: 0.5, "below": _LOWER, "above": 1.0 - _LOWER}[costly]
    return min(1.0, below / for_below, above / (1.0 - for_below))
