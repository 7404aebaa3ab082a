"""Two independent accountants over the same events, and the noise multiplier that meets a budget.

PLD: dp-accounting (Doroshenko et al., PoPETs 2022). PRV: Opacus (Gopi, Lee, Wutschitz, NeurIPS 2021). Both
for the add-or-remove-one relation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray

from privacy.accounting.events import GaussianSteps, gaussian_steps
from privacy.accounting.losses import (
    COARSE,
    FINE,
    ROUGH,
    SeveralTimes,
    beyond_reach,
    composed_losses,
    fitting_interval,
    largest_deltas,
)

Accountant = Callable[[Sequence[DpEvent], float], float]

PRV_RELATIVE_ERROR = 0.002
MOST_STEPS = 500_000  # of which PRV is asked, whose mesh is the finer the more there are: 3 GB
_MULTIPLIER_BRACKET = (5e-2, 1e4)
GRID = 1000  # multipliers are multiples of a thousandth
_COARSER = 10.0  # times the planning grid, to find where to look
_GALLOP = 0.01  # first step of that search: central limits are about as good


def pld_epsilon(events: Sequence[DpEvent], delta: float, *, interval: float | None = None) -> float:
    """ε at ``delta`` of the composition, by privacy loss distributions; ``inf`` if any part is not private.

    An upper bound at any discretisation ``interval`` (``privacy.accounting.losses`` has the proof). Without one it is
    what fits the steps: less than a per mille looser than the finest.
    """
    steps = gaussian_steps(dp_event.ComposedDpEvent(list(events)))
    return math.inf if steps is None else group_pld_epsilon(once_each(steps), delta, interval=interval)


def finely(events: Sequence[DpEvent], delta: float) -> float:
    """PLD on the finest grid, on which earlier versions stated ε."""
    return pld_epsilon(events, delta, interval=FINE)


def prv_epsilon(events: Sequence[DpEvent], delta: float) -> float:
    """ε at ``delta`` of the composition, by privacy random variables; ``inf`` if any part is not private."""
    steps = _prv_steps(events)
    return math.inf if steps is None else _prv_epsilon(steps, delta)


def prv_work(compositions: Iterable[tuple[Sequence[DpEvent], float]]) -> int:
    """Numbers that PRV lays out for compositions, each with a δ; those that are the same are laid out once."""
    asked = {(steps, delta) for events, delta in compositions if (steps := _prv_steps(events))}
    return sum(_prv_numbers(steps, delta) for steps, delta in asked)


def _prv_steps(events: Sequence[DpEvent]) -> _PRVSteps | None:
    """Equal steps merged; None where ε is infinite."""
    steps = gaussian_steps(dp_event.ComposedDpEvent(list(events)))
    if steps is None or sum(steps.values()) > MOST_STEPS or beyond_reach(once_each(steps), COARSE):
        return None
    return tuple(sorted(steps.items()))


def within_reach(event: DpEvent) -> bool:
    """Whether an event's losses can be composed on any grid; those of every run that can be planned can."""
    return not beyond_reach(once_each(gaussian_steps(event) or {}), FINE)


def once_each(steps: GaussianSteps) -> SeveralTimes:
    """Steps that one person moves once."""
    return {(*step, 1): count for step, count in steps.items()}


def group_pld_epsilon(steps: SeveralTimes, delta: float, *, interval: float | None = None) -> float:
    """ε at ``delta`` by privacy loss distributions, where one person may move a noise several times.

    Args:
        steps: how often each (noise multiplier, sampling rate, times) is run; each of the times has a coin of its own.
        delta: δ.
        interval: grid of the losses; an upper bound at any. None for what fits the steps.
    """
    interval = fitting_interval(steps) if interval is None else interval
    return math.inf if beyond_reach(steps, interval) else _pld_epsilon(_sorted(steps), delta, interval)


def group_pld_deltas(
    steps: SeveralTimes, epsilons: NDArray[np.float64], *, interval: float | None = None
) -> NDArray[np.float64]:
    """δ at each ε ``(n,)``, the larger of adding and of removing one; see ``group_pld_epsilon`` for the rest."""
    interval = fitting_interval(steps) if interval is None else interval
    if beyond_reach(steps, interval):
        return np.ones(len(epsilons))
    return np.array(_pld_deltas(_sorted(steps), tuple(epsilons.tolist()), interval))


def _sorted(steps: SeveralTimes) -> _Steps:
    return tuple(sorted(steps.items()))


# Equal steps merged, so that accountants see few parts, and the views of one ledger share results. They are kept by all
# that they depend on, and in this process alone: a file of results would be believed by whoever verifies a run.
_Steps = tuple[tuple[tuple[float, float, int], int], ...]
_PRVSteps = tuple[tuple[tuple[float, float], int], ...]


@lru_cache(maxsize=4096)
def _pld_epsilon(steps: _Steps, delta: float, interval: float) -> float:
    return float(_losses(steps, interval).get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _pld_deltas(steps: _Steps, epsilons: tuple[float, ...], interval: float) -> tuple[float, ...]:
    return tuple(largest_deltas(_losses(steps, interval), np.array(epsilons)).tolist())


@lru_cache(maxsize=8)
def _losses(steps: _Steps, interval: float) -> PrivacyLossDistribution:
    return composed_losses(dict(steps), interval)


@lru_cache(maxsize=4096)
def _prv_epsilon(steps: _PRVSteps, delta: float) -> float:
    if not steps:
        return 0.0
    from privacy.accounting.random_variables import composed_epsilon_of  # Opacus, and with it torch

    return composed_epsilon_of(dict(steps), delta, error=_prv_error(steps, delta))


@lru_cache(maxsize=4096)
def _prv_numbers(steps: _PRVSteps, delta: float) -> int:
    from privacy.accounting.random_variables import numbers_laid_out

    return numbers_laid_out(dict(steps), delta, error=_prv_error(steps, delta))


def _prv_error(steps: _PRVSteps, delta: float) -> float:
    """How exactly PRV is asked; how large ε is says that, and has no part in the answer."""
    about = group_pld_epsilon(once_each(dict(steps)), delta, interval=ROUGH)
    return max(1e-3, PRV_RELATIVE_ERROR * about)


def planning_interval(epsilon: float) -> float:
    """Grid of the losses at which a budget of ``epsilon`` is planned: coarse, and coarser where losses are large.

    Work grows with the number of grid points, and so does with ``epsilon``; what the grid costs is relative to it: an
    ε that is a fraction of a per mille too large, never too small.
    """
    return COARSE * max(1.0, epsilon / 10.0)


def solve_noise_multiplier(make_event: Callable[[float], DpEvent], *, epsilon: float, delta: float) -> float:
    """Smallest multiple of a thousandth whose event meets (``epsilon``, ``delta``) by PLD on the planning grid.

    A grid ten times as coarse, which is an upper bound too, finds where to look; the planning grid alone decides.

    Args:
        make_event: the whole composition at a noise multiplier: ``1/μ`` of about a μ-Gaussian mechanism.
        epsilon: of the budget.
        delta: of the budget.

    Raises:
        ValueError: no multiplier in [0.05, 10000] meets the budget.
    """
    interval = planning_interval(epsilon)

    def meets(thousandths: int, coarser: float = 1.0) -> bool:
        event = make_event(thousandths / GRID)
        return pld_epsilon([event], delta, interval=coarser * interval) <= epsilon

    least, most = (round(GRID * bound) for bound in _MULTIPLIER_BRACKET)
    guess = math.ceil(GRID * dp_accounting.get_sigma_gaussian(epsilon, delta))
    found = _first(lambda at: meets(at, _COARSER), min(max(guess, least), most), least, most, _GALLOP)
    found = _first(meets, found, least, most, 0.0)
    if found > most or (found == least and meets(least)):
        other = "smaller" if epsilon > 1 else "larger"
        low, high = _MULTIPLIER_BRACKET
        raise ValueError(f"no noise from {low:g} to {high:g} times a sensitivity spends it; choose a {other} epsilon")
    return found / GRID


def _first(meets: Callable[[int], bool], guess: int, least: int, most: int, gallop: float) -> int:
    """The smallest integer that meets, if larger ones do: from a guess by growing steps, then by halves.

    Args:
        meets: the condition.
        guess: where to begin.
        least: is returned if it meets.
        most: one more is returned if it does not meet.
        gallop: first step over the guess; at least 1.
    """
    step = max(1, round(gallop * guess))
    if meets(guess):
        high, low = guess, least - 1
        while high > least:
            at = max(high - step, high // 2, least)  # far below the answer a grid takes gigabytes
            if not meets(at):
                low = at
                break
            high, step = at, 2 * step
    else:
        low, high = guess, most + 1
        while low < most:
            at = min(low + step, most)
            if meets(at):
                high = at
                break
            low, step = at, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high
