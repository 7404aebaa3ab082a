"""Privacy loss distributions of Gaussian noise on a grid, composed: upper bounds, on any grid.

Each mechanism's losses are put on a grid of multiples of h by the pessimistic algorithm of Doroshenko, Ghazi, Kamath,
Kumar, Manurangsi ("Connect the dots", PoPETs 2022). *It is an upper bound for any h.* The grid's curve δ'(ε) joins the
points (e^(hi), δ(hi)) of the true one by straight lines in e^ε; δ is convex in e^ε, so that δ' >= δ everywhere, which
is domination, and what is composed of dominating pairs dominates what is composed (Zhu, Dong, Wang, AISTATS 2022).
Cut tails move to larger losses or to infinity. A coarser grid therefore loses accuracy and never the bound.

*How much it loses.* A loss between two points is divided between them, which adds at most h²/4 to its variance, so
that k steps add k h²/4 to that of their sum, which is about μ² by the central limit theorem. ``fitting_interval`` holds
that at a four-thousandth of it. ε grows no faster than the variance, and so by as little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as distributions
from dp_accounting.pld.pld_pmf import PLDPmf, create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from numpy.typing import NDArray

FINE, COARSE, ROUGH = 1e-4, 1e-3, 1e-2
_ADDED = 1e-3  # four times the relative variance that a fitting grid may add
# What is composed is as large as its losses, and who writes a ledger chooses them. Beyond these, on ``COARSE``, an ε is
# taken to be infinite, which is an upper bound of anything: none of 700 or more is stated (``exactness``).
_MOST_MEAN = 1500.0  # of the sum of losses
_MOST_SQUARE = 1000.0  # of one step's largest shift over its noise: its losses range over about as much
_MOST_SQUARES = 4000.0  # of all distinct steps together
_MOST_DISTINCT = 2000
_SURELY_DENSE = 64  # compositions after which two losses or more have come to more than the library keeps one by one
SeveralTimes = Mapping[tuple[float, float, int], int]  # how often each (noise multiplier, sampling rate, times)


class GaussianLosses(GaussianPrivacyLoss):  # type: ignore[misc]  # dp-accounting has no types
    """The library's losses of a Gaussian mechanism on a Poisson sample, to the last bit, for many ε at once.

    Its own loop over each ε, in Python, is most of what a composition costs.
    """

    def get_delta_for_epsilon(self, epsilon: Any) -> Any:
        """δ at each ε ``(n,)``."""
        if np.ndim(epsilon) == 0 or self.adjacency_type == AdjacencyType.REPLACE:
            return super().get_delta_for_epsilon(epsilon)
        epsilons, add = np.asarray(epsilon, dtype=float), self.adjacency_type == AdjacencyType.ADD
        inside, unsampled = np.full_like(epsilons, True, dtype=bool), epsilons
        deltas = np.zeros_like(epsilons) if add else -np.expm1(epsilons)
        if self.sampling_prob < 1.0:
            inside, unsampled = self._unsampled(epsilons, add)
        cut = -0.5 * self.sensitivity - unsampled * self._standard_deviation**2 / self.sensitivity
        if add:
            cut = self.sensitivity + cut
        deltas[inside] = self.mu_upper_cdf(cut) - np.exp(epsilons[inside] + self.mu_lower_log_cdf(cut))
        return np.clip(deltas, 0, 1)

    def _unsampled(self, epsilons: NDArray[np.float64], add: bool) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which ε sampling leaves possible ``(n,)``, and the losses without sampling that they come from."""
        rate = self.sampling_prob
        sign, edge = (-1.0, -np.log1p(-rate)) if add else (1.0, np.log1p(-rate))
        inside: NDArray[np.bool_] = epsilons < edge if add else epsilons > edge
        inner = epsilons[inside]
        with np.errstate(divide="ignore", invalid="ignore"):  # at the edge, which is put right below
            scaled = sign * inner + np.log(1 / rate)
            unsampled = sign * (scaled + np.log1p(-np.exp(np.log(1 / rate - 1) - scaled)))
        unsampled[inner == 0] = sign * np.log(1 / rate + (1 - 1 / rate))
        unsampled[np.isclose(inner, edge, rtol=1e-9, atol=0.0)] = -sign * np.inf
        return inside, unsampled


def composed_losses(steps: SeveralTimes, interval: float) -> PrivacyLossDistribution:
    """Losses of steps ``{(noise multiplier, sampling rate, times): count}`` together.

    A noise that one person moves up to so many times, each with a coin of its own, is a mixture of Gaussians
    (``privacy.accounting.groups`` has the proof).

    Args:
        steps: how often each is run.
        interval: of the grid.
    """
    total = distributions.identity(value_discretization_interval=interval)
    for (noise_multiplier, rate, times), count in steps.items():
        total = total.compose(_repeated(noise_multiplier, rate, times, count, interval))
    return total


@lru_cache(maxsize=64)
def _repeated(noise_multiplier: float, rate: float, times: int, count: int, interval: float) -> PrivacyLossDistribution:
    if rate >= 1.0:  # Gaussians compose to one
        deviation = noise_multiplier / times / math.sqrt(count)
        return PrivacyLossDistribution(_on_grid(deviation, 1.0, AdjacencyType.REMOVE, interval))
    if times > 1:
        chances = [math.comb(times, b) * rate**b * (1.0 - rate) ** (times - b) for b in range(times + 1)]
        mixture = distributions.from_mixture_gaussian_mechanism(
            noise_multiplier, [float(b) for b in range(times + 1)], chances, value_discretization_interval=interval
        )
        return _self_composed(mixture, count)
    removed, added = (
        _on_grid(noise_multiplier, rate, direction, interval) for direction in (AdjacencyType.REMOVE, AdjacencyType.ADD)
    )
    return _self_composed(PrivacyLossDistribution(removed, added), count)


def _self_composed(losses: PrivacyLossDistribution, count: int) -> PrivacyLossDistribution:
    """The library's, without a power of the count that it computes to learn whether few losses stay few."""
    if count > _SURELY_DENSE:
        losses = PrivacyLossDistribution(losses._pmf_remove.to_dense_pmf(), losses._pmf_add.to_dense_pmf())
    return losses.self_compose(count)


def _on_grid(deviation: float, rate: float, direction: AdjacencyType, interval: float) -> PLDPmf:
    losses = GaussianLosses(deviation, sampling_prob=rate, adjacency_type=direction)
    bounds = losses.connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / interval), math.ceil(bounds.epsilon_upper / interval)
    deltas = losses.get_delta_for_epsilon(np.arange(low, high + 1) * interval)
    return create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, deltas)


def largest_deltas(losses: PrivacyLossDistribution, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """δ of a composition at each ε ``(n,)`` of 0 or more, the larger of adding and of removing one.

    The library's to rounding, whose loop over all losses in Python is most of what many ε cost.
    """
    directions = {id(one): one.to_dense_pmf() for one in (losses._pmf_remove, losses._pmf_add)}  # one where both are
    found: NDArray[np.float64] = np.max([_deltas(one, epsilons) for one in directions.values()], axis=0)
    return found


def _deltas(pmf: PLDPmf, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sum p(l) (1 - e^(ε - l))`` over losses l above ε, and what is infinite."""
    first = max(-pmf._lower_loss, 0)  # no loss below 0 is above an ε
    values = (np.arange(first, pmf.size) + pmf._lower_loss) * pmf._discretization
    upper, lower = (
        np.append(np.cumsum(mass[::-1])[::-1], 0.0)
        for mass in (pmf._probs[first:], pmf._probs[first:] * np.exp(-values))
    )
    above = np.searchsorted(values, epsilons, side="right")
    found: NDArray[np.float64] = np.clip(pmf._infinity_mass + upper[above] - np.exp(epsilons) * lower[above], 0.0, 1.0)
    return found


def fitting_interval(steps: SeveralTimes) -> float:
    """The grid on which the ε of some steps is stated: as coarse as it may be without being looser by a thousandth.

    A whole part of ``COARSE``, on which budgets are kept: the points of that are among its points, so that no ε stated
    is above what was admitted.
    """
    variance = sum(_variance(*step, count) for step, count in steps.items())
    repeated = sum(count for (_, rate, _), count in steps.items() if rate < 1.0) + 1
    fitting = max(math.sqrt(_ADDED * variance / repeated), FINE)
    return COARSE / max(1, math.ceil(COARSE / fitting))


def beyond_reach(steps: SeveralTimes, interval: float) -> bool:
    """Whether an ε is infinite, known before anything is composed: its losses would fill memory, or take for ever.

    A composition's ε at any δ in use is above its mean loss.

    Args:
        steps: how often each is run.
        interval: of the grid; a finer one reaches less far.
    """
    if len(steps) > _MOST_DISTINCT:
        return True
    reach = min(1.0, interval / COARSE) * (1.0 + 1e-9)
    squares = [_square(noise_multiplier, times) for noise_multiplier, _, times in steps]
    if max(squares, default=0.0) > reach * _MOST_SQUARE or sum(squares) > reach * _MOST_SQUARES:
        return True
    return sum(_mean(*step, count) for step, count in steps.items()) > reach * _MOST_MEAN


def _square(noise_multiplier: float, times: float) -> float:
    shift = times / noise_multiplier
    return shift * shift  # infinite, where a power would raise


def _mean(noise_multiplier: float, rate: float, times: int, count: int) -> float:
    """About that of the sum of losses; of steps without sampling to the last digit.

    Half the mean square of the shift over the noise, and no more than half of ``_variance``.
    """
    shifted = times * rate * (1.0 - rate) + (times * rate) ** 2  # mean square of a binomial number
    unsampled = _square(noise_multiplier, 1.0)
    return 0.5 * count * min(_single(noise_multiplier, rate, times), shifted * unsampled)


def _variance(noise_multiplier: float, rate: float, times: int, count: int) -> float:
    """About that of the sum of losses: ``q² (exp(1/σ²) - 1)`` a step (Bu, Dong, Long, Su, 2020), at most ``1/σ²``."""
    return count * _single(noise_multiplier, rate, times)


def _single(noise_multiplier: float, rate: float, times: int) -> float:
    unsampled = _square(noise_multiplier, times)
    return min(rate**2 * math.expm1(min(unsampled, 100.0)), unsampled)
