"""Trade-off curves of mechanisms whose law is known."""

from functools import cache

import numpy as np
from dp_accounting import dp_event, get_sigma_gaussian

from privacy.accounting.tradeoff import TradeOffCurve, drawn_curve


class Continuous:
    coordinates = 0
    extra_delta = 0.0


@cache
def gaussian_curve(mu: float) -> TradeOffCurve:
    """Of ``N(0, 1)`` and ``N(μ, 1)``, by privacy loss distributions."""
    return drawn_curve([dp_event.GaussianDpEvent(1.0 / mu)], [Continuous()])


def mu_of(epsilon: float, delta: float) -> float:
    return 1.0 / get_sigma_gaussian(epsilon, delta)


def pure_curve(epsilon: float) -> TradeOffCurve:
    return TradeOffCurve((epsilon,), (0.0,))


def coins(n_models: int, n_units: int, seed: int = 0):
    """Fair coins, and the generator that goes on."""
    rng = np.random.default_rng(seed)
    return rng.random((n_models, n_units)) < 0.5, rng
