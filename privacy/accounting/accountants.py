"""Two independent accountants over the same events, and the noise multiplier that meets a budget.

PLD: dp-accounting (Doroshenko et al., PoPETs 2022). PRV: Opacus (Gopi, Lee, Wutschitz, NeurIPS 2021). Both
for the add-or-remove-one relation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting import dp_event, pld, rdp
from dp_accounting.dp_event import DpEvent
from opacus.accountants import PRVAccountant

from privacy.accounting.events import gaussian_steps

Accountant = Callable[[Sequence[DpEvent], float], float]

FINE, COARSE, ROUGH = 1e-4, 1e-3, 1e-2
PRV_RELATIVE_ERROR = 0.002
_MULTIPLIER_BRACKET = (5e-2, 1e4)
_BELOW_RDP = (0.6, 0.35, 0.2, 0.1)  # where the answer by PLD may lie under the one by RDP; tried in turn
_INTEGER_ORDERS = (*range(2, 64), 128, 256, 512)  # closed forms; fractional orders need not converge


def pld_epsilon(events: Sequence[DpEvent], delta: float, *, interval: float = FINE) -> float:
    """ε at ``delta`` of the composition, by privacy loss distributions; ``inf`` if any part is not private.

    An upper bound at any discretisation ``interval``; ``COARSE`` is ten times faster and a fraction of a per
    mille looser.
    """
    steps = gaussian_steps(dp_event.ComposedDpEvent(list(events)))
    return math.inf if steps is None else _pld_epsilon(tuple(sorted(steps.items())), delta, interval)


def prv_epsilon(events: Sequence[DpEvent], delta: float) -> float:
    """ε at ``delta`` of the composition, by privacy random variables; ``inf`` if any part is not private."""
    steps = gaussian_steps(dp_event.ComposedDpEvent(list(events)))
    return math.inf if steps is None else _prv_epsilon(tuple(sorted(steps.items())), delta)


# equal steps merged, so that accountants see few parts, and the views of one ledger share results
_Steps = tuple[tuple[tuple[float, float], int], ...]


@lru_cache(maxsize=4096)
def _pld_epsilon(steps: _Steps, delta: float, interval: float) -> float:
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    for (noise_multiplier, rate), count in steps:
        step: DpEvent = dp_event.GaussianDpEvent(noise_multiplier)
        if rate < 1.0:
            step = dp_event.PoissonSampledDpEvent(rate, step)
        accountant.compose(step, count)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=4096)
def _prv_epsilon(steps: _Steps, delta: float) -> float:
    if not steps:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, count) for (sigma, rate), count in steps]
    with np.errstate(divide="ignore"):  # Opacus takes log(1 - q), and is right for q = 1 all the same
        rough = float(accountant.get_epsilon(delta, eps_error=0.1))
        return float(accountant.get_epsilon(delta, eps_error=max(1e-3, PRV_RELATIVE_ERROR * rough)))


def solve_noise_multiplier(make_event: Callable[[float], DpEvent], *, epsilon: float, delta: float) -> float:
    """Smallest noise multiplier whose event meets (``epsilon``, ``delta``) by coarse PLD, rounded up.

    Raises:
        ValueError: no multiplier in [0.05, 10000] meets the budget.
    """
    # RDP is loose but cheap at any multiplier; PLD would need gigabytes far below the answer.
    least, most = _MULTIPLIER_BRACKET
    try:
        loose = dp_accounting.calibrate_dp_mechanism(
            lambda: rdp.RdpAccountant(orders=_INTEGER_ORDERS),
            make_event,
            epsilon,
            delta,
            bracket_interval=dp_accounting.ExplicitBracketInterval(least, most),
            tol=1e-3,
        )
    except ValueError as error:
        other = "smaller" if epsilon > 1 else "larger"
        raise ValueError(
            f"no noise from {least:g} to {most:g} times a sensitivity spends it; choose a {other} epsilon"
        ) from error

    def meets(noise_multiplier: float) -> bool:
        return pld_epsilon([make_event(noise_multiplier)], delta, interval=COARSE) <= epsilon

    below = next(share for share in _BELOW_RDP if share == _BELOW_RDP[-1] or not meets(share * loose))
    found = dp_accounting.calibrate_dp_mechanism(
        lambda: pld.PLDAccountant(value_discretization_interval=COARSE),
        make_event,
        epsilon,
        delta,
        bracket_interval=dp_accounting.ExplicitBracketInterval(below * loose, 1.02 * loose),
        tol=1e-3,
    )
    return float(np.ceil((found + 1e-3) * 1e3) / 1e3)  # the search may end up to its tolerance below
