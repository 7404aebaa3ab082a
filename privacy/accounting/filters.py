"""What several runs spend together, however each was chosen by what those before it showed.

Privacy loss distributions compose runs that were laid down beforehand. Where a run's plan, or whether there is another
one, follows from what was seen, composing the losses of the runs that there were gives too small an ε: it is neither a
*privacy filter*, which says when to stop under a limit that was fixed first, nor an odometer (Rogers, Roth, Ullman,
Vadhan, "Privacy odometers and filters", NeurIPS 2016). Gaussian mechanisms do compose so, by the sum of their squared μ
(Smith, Thakurta, "Fully adaptive composition for Gaussian differential privacy", 2022; Koskela, Tobaben, Honkela,
"Individual privacy accounting with Gaussian differential privacy", ICLR 2023). So each run is taken for the least
Gaussian mechanism that tells no less.

**One scale.** ``D(m)`` tells all with probability ``1 - e^(-κm)``, and is a Gaussian mechanism of ``μ² = m`` otherwise;
κ is fixed by δ. ``D(m)`` beside ``D(n)`` is ``D(m + n)``: neither tells all with probability ``e^(-κm) e^(-κn)``, and
Gaussian mechanisms compose to one (Dong, Roth, Su, "Gaussian differential privacy", JRSS-B 2022). More m tells more.

**A run's cost** is the least m at which ``D(m)`` dominates the run: ``H_α(run) <= H_α(D(m))`` for every α > 0, in each
direction of add-or-remove-one, with the hockey-stick divergence ``H_α(P, Q) = sup P(E) - α Q(E)``. It is enough for
α >= 1 in both directions: ``H_α(P, Q) = 1 - α + α H_{1/α}(Q, P)``, and ``D(m)`` is the same in both. The run's side is
its profile as it is drawn, discrete noise and sampler included (``privacy.accounting.profiles``): upper bounds at some
ε = log α. Between these, both sides are convex in α. So the run's is below the chord, that of ``D(m)`` is above its
tangents at both ends, and the least of their difference is known. Below the first ε the run's side has a slope of -1 at
least; above the last it is no larger than there.

**Theorem.** Let the costs of runs, each known given what was seen before it, add to no more than M on every path. Then
``D(M)`` dominates all of them together, however many there are.

Proof. By induction over the number of runs. Let the first of k have cost m. Given what it shows, at most k - 1 follow,
whose costs add to M - m at most; ``D(M - m)`` dominates them, whatever was shown. Dominating pairs compose adaptively
(Zhu, Dong, Wang, AISTATS 2022, theorem 10), so that ``D(m)`` beside ``D(M - m)``, which is ``D(M)``, dominates all k.
Where runs have no end, each event of the first k is bounded so, and with them their limits. Runs that go on at the same
time are covered: what an interactive mechanism tells follows from a pair with the same profile (Vadhan, Zhang, STOC
2023), also where its cost is chosen on the way (Haney et al., CCS 2023).

**A limit.** Nine tenths of δ are for the noise, one for failures that no noise carries, of which every run says how
much (``extra_delta``). Both parts are kept apart: one could be traded for the other by what was seen. Let ε(M) be that
of ``D(M)`` at 0.9 δ. Who goes on only where ``ε(sum of costs) <= L``, with failures that add to 0.1 δ at most, is
(L, δ) private, for an L that was fixed before the first run. A single run may state its own ε at δ instead: if its cost
is within L, so is every path that begins with it; if not, no second run is, and the first one's own ε holds. An L that
was chosen by what was seen is no limit.

Not covered, as elsewhere: rounding of double precision in accountants and here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting.dp_event import ComposedDpEvent, DpEvent, GaussianDpEvent, NonPrivateDpEvent
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from privacy.accounting.accountants import once_each
from privacy.accounting.events import gaussian_steps
from privacy.accounting.losses import SeveralTimes
from privacy.accounting.profiles import drawn_profile

OF_NOISE = 0.9  # share of δ; the rest is for failures that no noise carries
TOLD = 1e-3  # κ over δ
_MOST = OF_NOISE / TOLD  # cost at which all of that share is told
_EPSILONS = np.concatenate([np.linspace(0.0, 12.0, 241), np.linspace(12.5, 40.0, 56), np.linspace(45.0, 600.0, 112)])
_FINER, _REACH = 40, 12  # points in a standard deviation of losses, and how many of those
_HALVINGS = 40
_NOISE_DIGITS, _FAILURE_DIGITS = 4, 3
_LARGEST_NOISE = 1e6  # of a note


@dataclass(frozen=True)
class RunCost:
    """What one run adds to those before it and after it.

    Attributes:
        gaussian: squared μ of the Gaussian mechanism that tells no less; ``inf`` where nothing bounds the run.
        failures: δ that no noise carries.
    """

    gaussian: float
    failures: float = 0.0


def run_cost(event: DpEvent, coordinates: int, delta: float, *, interval: float | None = None) -> float:
    """Squared μ of the Gaussian mechanism that tells no less than all that a run makes a view observe.

    ``inf`` where nothing bounds that; see ``gaussian_cost``.
    """
    steps = gaussian_steps(event)
    return math.inf if steps is None else gaussian_cost(once_each(steps), coordinates, delta, interval=interval)


def gaussian_cost(steps: SeveralTimes, coordinates: int, delta: float, *, interval: float | None = None) -> float:
    """Squared μ of the Gaussian mechanism that tells no less than steps; ``inf`` where none does.

    Args:
        steps: how often each (noise multiplier, sampling rate, times) is run.
        coordinates: values of discrete noise that were drawn for them, at most.
        delta: at which ε of all runs is asked.
        interval: grid of the losses; None for what fits the steps.
    """
    return _gaussian_cost(tuple(sorted(steps.items())), coordinates, delta, interval) if steps else 0.0


@lru_cache(maxsize=4096)
def _gaussian_cost(
    steps: tuple[tuple[tuple[float, float, int], int], ...], coordinates: int, delta: float, interval: float | None
) -> float:
    def cost_on(epsilons: NDArray[np.float64]) -> float:
        profile = drawn_profile(dict(steps), coordinates, epsilons, interval=interval)
        return _least_cost(_Bound.of(profile.epsilons, profile.deltas), delta)

    about = cost_on(_EPSILONS)  # an upper bound on any points
    if math.isinf(about):
        return about
    near = np.arange(0.0, about / 2.0 + _REACH * math.sqrt(about), math.sqrt(about) / _FINER)
    return min(about, cost_on(np.union1d(near, _EPSILONS)))


def _least_cost(bound: _Bound, delta: float) -> float:
    high = 1.0
    while not bound.dominated_by(high, delta):
        high *= 2.0
        if high > _MOST:
            return math.inf
    low = 0.0 if high == 1.0 else high / 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if bound.dominated_by(middle, delta) else (middle, high)
    return high


def filter_epsilon(costs: Iterable[RunCost], delta: float) -> float:
    """ε at ``delta`` of runs whose costs add up: the least limit, fixed beforehand, under which they were all admitted.

    ``inf`` if one of them has no bound, or what fails or tells all takes up the whole of δ.
    """
    found = list(costs)
    total, failures = (math.fsum(part) for part in zip(*((one.gaussian, one.failures) for one in found), strict=True))
    if failures > (1.0 - OF_NOISE) * delta or not total < _MOST:
        return math.inf
    if not total:
        return 0.0
    told = _told(total, delta)
    left = (OF_NOISE * delta - told) / (1.0 - told)
    return float(dp_accounting.get_epsilon_gaussian(1.0 / math.sqrt(total), left)) if left > 0.0 else math.inf


def _told(cost: float, delta: float) -> float:
    return -math.expm1(-TOLD * delta * cost)


def noted_event(costs: Iterable[float]) -> DpEvent:
    """One mechanism that tells no less than runs of some costs: what a ledger notes of them.

    Noise to so few digits, rounded down: a number that nobody can recompute has no room for more.
    """
    total = math.fsum(costs)
    if not total:
        return ComposedDpEvent([])
    if not total <= _MOST:
        return ComposedDpEvent([NonPrivateDpEvent()])
    noise = _cut(min(1.0 / math.sqrt(total), _LARGEST_NOISE), _NOISE_DIGITS)
    return ComposedDpEvent([GaussianDpEvent(noise)])


def noted_failures(failures: Iterable[float]) -> float:
    """Sum of failures for a note, to few digits, rounded up."""
    total = math.fsum(failures)
    return -_cut(-total, _FAILURE_DIGITS)


def noted_cost(event: DpEvent) -> float:
    """Cost of runs that a ledger's note is of."""
    steps = gaussian_steps(event)
    return math.inf if steps is None else math.fsum(count / noise**2 for (noise, _), count in steps.items())


def is_noted(event: DpEvent, runs: int) -> bool:
    """Whether a note of so many runs may say this of a view: nothing of none, and a number of few digits."""
    match event:
        case ComposedDpEvent(events=[]):
            return True
        case ComposedDpEvent(events=[NonPrivateDpEvent()]):
            return runs > 0
        case ComposedDpEvent(events=[GaussianDpEvent(noise_multiplier=noise)]):
            return runs > 0 and 0.0 < noise <= _LARGEST_NOISE and noise == _cut(noise, _NOISE_DIGITS)
    return False


def are_noted_failures(failures: float) -> bool:
    """Whether a note's failures have few digits."""
    return failures == noted_failures([failures])


def _cut(value: float, digits: int) -> float:
    """The largest decimal of so many digits that is not above a value."""
    context = Context(prec=digits, rounding=ROUND_FLOOR)
    return float(context.create_decimal(repr(value)))


@dataclass(frozen=True)
class _Bound:
    """A run's side: linear in α between points.

    Attributes:
        epsilons: ``(n,)``, ascending from 0, n at least 1.
        deltas: ``(n,)``, descending.
    """

    epsilons: NDArray[np.float64]
    deltas: NDArray[np.float64]

    @classmethod
    def of(cls, epsilons: NDArray[np.float64], deltas: NDArray[np.float64]) -> _Bound:
        if not epsilons.size:
            return cls(np.zeros(1), np.ones(1))
        least = np.minimum.accumulate(np.minimum(deltas, 1.0))
        if epsilons[0] == 0.0:
            return cls(epsilons, least)
        at_zero = min(least[0] + math.expm1(epsilons[0]), 1.0)
        return cls(np.append(0.0, epsilons), np.append(at_zero, least))

    def dominated_by(self, cost: float, delta: float) -> bool:
        """Whether ``D(cost)`` is nowhere below."""
        mu, told = math.sqrt(cost), _told(cost, delta)
        if self.deltas[-1] > told:
            return False
        alphas = np.exp(self.epsilons)
        beyond = np.exp(self.epsilons + log_ndtr(-self.epsilons / mu - mu / 2.0))
        over = told + (1.0 - told) * (ndtr(mu / 2.0 - self.epsilons / mu) - beyond) - self.deltas
        width, chord = np.diff(alphas), np.diff(self.deltas) / np.diff(alphas)
        tangents = -(1.0 - told) * beyond / alphas
        begins, ends = tangents[:-1] - chord, tangents[1:] - chord  # slopes of the difference, which is convex
        with np.errstate(divide="ignore", invalid="ignore"):
            meet = (over[1:] - over[:-1] - ends * width) / (begins - ends)
        inside = (begins < 0.0) & (ends > 0.0)
        least = np.where(inside, over[:-1] + begins * np.clip(meet, 0.0, width), np.minimum(over[:-1], over[1:]))
        return bool((least >= 0.0).all() and (over >= 0.0).all())
