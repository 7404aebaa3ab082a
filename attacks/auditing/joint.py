"""One exact test of all canaries against the law of the stated noise, and what it would have seen.

Where a mechanism adds the noise and bounds the contribution that it states, what canaries show is standard normal given
the coins (``laws``). Each of four directions in which that breaks and privacy with it has a test of known law, in which
every canary counts; they share the level:

- *noise*: the sum of all squared values is chi-square; too small where noise is;
- *noise of sums*: the same of each canary's sum over steps; too small where steps share noise that cancels;
- *weight*: the mean of those that were in is normal; too large where a canary moved the release further than it may;
- *spread*: the sum of squares of those that were in; too large where coins of several steps are the same.

What values may differ from the continuous law is taken off in the direction that costs alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from attacks.auditing.laws import Law
from attacks.auditing.played import Played
from attacks.metrics import POWER

NOISE, SUMS, WEIGHT, SPREAD = "noise", "noise of sums", "weight", "spread"
_SHARES = {NOISE: 0.25, SUMS: 0.15, WEIGHT: 0.5, SPREAD: 0.1}
_SMALLEST = 1e-3  # factor that is looked for
_NEAR = 1e-3  # of a factor: how near it is found
_UNLIKELY = 1e-9  # probability of coins that power is not computed for
_FEWEST, _MOST = 8, 2**24  # canaries

Parts = Sequence[tuple[float, Law]]  # mechanisms that a canary is in, and how much each counts for its weight


class Alarm(NamedTuple):
    """What the joint test found.

    Attributes:
        p_value: probability of what was seen, or worse, where the mechanism is as stated, over all four directions.
        direction: in which it is worst.
        seen: what was measured, in words.
    """

    p_value: float
    direction: str
    seen: str


@dataclass(frozen=True)
class _Direction:
    """One test: its p-value, and what was measured."""

    name: str
    p_value: float
    seen: str


def joint_test(played: Played) -> Alarm:
    """The test; its p-value is valid at any number of canaries."""
    shares = shares_of(played.steps)
    found = [direction for direction in _directions(played) if direction.name in shares]
    worst = min(found, key=lambda direction: direction.p_value / shares[direction.name])
    return Alarm(min(1.0, worst.p_value / shares[worst.name]), worst.name, worst.seen)


def shares_of(steps: int) -> dict[str, float]:
    """Share of the level for each direction; where a canary shows one value, it is its own sum."""
    if steps > 1:
        return dict(_SHARES)
    return {NOISE: _SHARES[NOISE] + _SHARES[SUMS], WEIGHT: _SHARES[WEIGHT], SPREAD: _SHARES[SPREAD]}


def _directions(played: Played) -> list[_Direction]:
    n, n_in = len(played), int(played.member.sum())
    inside = played.total[played.member]
    of_sum = np.sqrt(played.steps) * played.slack
    values = np.sqrt(played.squares.sum()) + np.sqrt(n * played.steps) * played.slack
    sums = np.sqrt(np.square(played.total).sum()) + np.sqrt(n) * of_sum
    wide = max(0.0, float(np.sqrt(np.square(inside).sum()) - np.sqrt(n_in) * of_sum))
    mean = float(played.weight[played.member].sum()) / np.sqrt(max(n_in, 1))
    return [
        _Direction(NOISE, float(stats.chi2.cdf(values**2, n * played.steps)), _ratio(values, n * played.steps)),
        _Direction(SUMS, float(stats.chi2.cdf(sums**2, n)), _ratio(sums, n)),
        _Direction(WEIGHT, float(stats.norm.sf(mean)) if n_in else 1.0, f"{mean:.1f} deviations above"),
        _Direction(SPREAD, float(stats.chi2.sf(wide**2, n_in)) if n_in else 1.0, _ratio(wide, max(n_in, 1))),
    ]


def _ratio(length: float, n: int) -> str:
    return f"{length / np.sqrt(n):.3f} of what is stated, by {n} values"


# -- power -------------------------------------------------------------------------------------------------------------


def noise_power(parts: Parts, factor: float, canaries: int, level: float, slack: float = 0.0) -> float:
    """Probability of an alarm about ``factor`` times the stated noise."""
    steps = sum(law.steps for _, law in parts)
    n = canaries * steps
    bound = float(np.sqrt(stats.chi2.ppf(level * shares_of(steps)[NOISE], n)) - np.sqrt(n) * slack)
    moments = [(law.steps, *law.spread(factor)) for _, law in parts]
    mean = canaries * sum(count * each for count, each, _ in moments)
    variance = canaries * sum(count * each for count, _, each in moments)
    # a gamma law of these moments: exact where nothing is sampled
    return float(stats.gamma.cdf(max(bound, 0.0) ** 2, mean**2 / variance, scale=variance / mean))


def weight_power(parts: Parts, factor: float, canaries: int, level: float, slack: float = 0.0) -> float:
    """Probability of an alarm about a canary of ``factor`` times the weight that it may have."""
    share = shares_of(sum(law.steps for _, law in parts))[WEIGHT]
    bound = float(stats.norm.isf(level * share))
    moments = [(weight, *law.shift(factor)) for weight, law in parts]
    taken_off = slack * sum(weight * np.sqrt(law.steps) for weight, law in parts)
    mean = sum(weight * each for weight, each, _ in moments) - taken_off
    width = np.sqrt(sum((weight * each) ** 2 for weight, _, each in moments))
    # coins decide how many are in, and fewer say less; those so few or so many count as seeing nothing
    coins = stats.binom(canaries, 0.5)
    n_in = np.arange(max(1.0, coins.ppf(_UNLIKELY)), coins.isf(_UNLIKELY) + 1.0)
    return float(coins.pmf(n_in) @ stats.norm.cdf((np.sqrt(n_in) * mean - bound) / width))


def seen_factor(parts: Parts, canaries: int, level: float, slack: float = 0.0) -> float | None:
    """The largest factor on noise over weight that is seen with 95 % power, whichever of the two is at fault.

    None where not even a thousandth is.
    """
    noise = _boundary(lambda factor: noise_power(parts, factor, canaries, level, slack))
    weight = _boundary(lambda factor: weight_power(parts, 1.0 / factor, canaries, level, slack))
    return None if noise is None or weight is None else min(noise, weight)


def canaries_needed(parts: Parts, level: float, *, noise: float = 0.0, weight: float = np.inf) -> int | None:
    """Canaries that see ``noise`` of what is stated and a canary of ``weight`` times what it may, with 95 % power each.

    None where no number is enough.
    """

    def enough(canaries: int) -> bool:
        return (noise == 0.0 or noise_power(parts, noise, canaries, level) >= POWER) and (
            np.isinf(weight) or weight_power(parts, weight, canaries, level) >= POWER
        )

    high = _FEWEST
    while not enough(high):
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _boundary(power: Callable[[float], float]) -> float | None:
    """The largest factor below 1 at which power is enough: by growing steps, then to a few thousandths, or below it."""
    near, far, ratio = 1.0, 0.98, 0.98
    while power(far) < POWER:
        near, ratio = far, ratio**1.5
        far *= ratio
        if far < _SMALLEST:
            return None
    width = _NEAR * far
    # what is told is on the side where power is enough
    return float(optimize.brentq(lambda factor: power(factor) - POWER, far, near, xtol=width)) - width
