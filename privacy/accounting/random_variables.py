"""ε by privacy random variables (Gopi, Lee, Wutschitz, "Numerical composition of differential privacy", NeurIPS 2021).

Opacus' implementation, but for the range of losses that it looks at. It has to hold nearly all of the composition's
mass, which a bound by Rényi moments of any orders shows. Opacus takes a hundred fractional orders, whose series
are nine tenths of the time that it takes; integer orders, whose moments are finite sums, show it of a range that is a
little wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis.prv import (
    DiscretePRV,
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    discretize,
)
from opacus.accountants.analysis.rdp import compute_rdp

from privacy.accounting.events import GaussianSteps

_ORDERS = (*range(2, 21), 24, 28, 32, 40, 48, 64, 96, 128, 256)
_DELTA_ERROR = 1e-3  # of δ
# Each step is laid out over the whole mesh, and who writes a ledger chooses how many there are.
_MOST_NUMBERS = 2**30  # of all steps: minutes
_AT_ONCE = 2**26  # that are in memory together; beyond it one step after the other is composed
_BEYOND = 3.0  # of the range, over what moments show; as Opacus has it


def composed_epsilon_of(steps: GaussianSteps, delta: float, *, error: float) -> float:
    """ε at ``delta`` of at least one step: an upper bound, larger than it has to be by about twice ``error``.

    ``inf`` where the steps are too many for their mesh.

    Args:
        steps: how often each (noise multiplier, sampling rate) is run.
        delta: δ.
        error: in ε; the mesh is theorem 5.5's for it.
    """
    counts, delta_error = list(steps.values()), _DELTA_ERROR * delta
    domain = _domain(steps, delta, error)
    numbers = len(steps) * int(domain.size)
    if numbers > _MOST_NUMBERS:
        return math.inf

    def parts() -> Iterator[DiscretePRV]:
        for noise, rate in steps:
            loss = PoissonSubsampledGaussianPRV(rate, noise)
            yield discretize(TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain)

    with np.errstate(divide="ignore"):  # log(1 - q), which is right for q = 1 all the same
        if numbers <= _AT_ONCE:
            composed = compose_heterogeneous(dprvs=list(parts()), num_self_compositions=counts)
        else:
            composed = _one_by_one(parts(), counts)
        return float(composed.compute_epsilon(delta, delta_error, error)[2])


def numbers_laid_out(steps: GaussianSteps, delta: float, *, error: float) -> int:
    """Of all steps on their mesh; a composition takes time in proportion, a third of a microsecond each."""
    return len(steps) * int(_domain(steps, delta, error).size)


def _domain(steps: GaussianSteps, delta: float, error: float) -> Domain:
    delta_error = _DELTA_ERROR * delta
    mesh = error / math.sqrt(sum(steps.values()) * math.log(12.0 / delta_error) / 2.0)
    reach = _reach(steps, delta_error, error)
    return Domain.create_aligned(-reach, reach, mesh)


def _one_by_one(parts: Iterator[DiscretePRV], counts: list[int]) -> DiscretePRV:
    composed: DiscretePRV | None = None
    for part, count in zip(parts, counts, strict=True):
        repeated = compose_heterogeneous(dprvs=[part], num_self_compositions=[count])
        both = [repeated] if composed is None else [composed, repeated]
        composed = compose_heterogeneous(dprvs=both, num_self_compositions=[1] * len(both))
    return composed


def _reach(steps: GaussianSteps, delta_error: float, error: float) -> float:
    """Losses that hold the mass of the composition, and of each step: remark 5.6."""
    moments = {step: compute_rdp(q=step[1], noise_multiplier=step[0], steps=1, orders=_ORDERS) for step in steps}
    whole = _tail(sum(count * moments[step] for step, count in steps.items()), delta_error / 4.0)
    single = max(_tail(found, delta_error / (8.0 * sum(steps.values()))) for found in moments.values())
    return max(whole, single, error) + _BEYOND


def _tail(moments: NDArray[np.float64], delta: float) -> float:
    """ε at ``delta`` that Rényi moments of ``_ORDERS`` show (Balle et al., AISTATS 2020, theorem 21)."""
    orders = np.array(_ORDERS, dtype=float)
    bounds = moments - (math.log(delta) + np.log(orders)) / (orders - 1.0) + np.log1p(-1.0 / orders)
    return float(bounds.min())
