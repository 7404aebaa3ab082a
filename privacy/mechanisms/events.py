"""What mechanisms release, as dp-accounting's events: plain data that a mechanism names and accountants read."""

from __future__ import annotations

import math

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent


def dp_sgd_event(noise_multiplier: float, sampling_rate: float, steps: int) -> DpEvent:
    """DP-SGD: ``steps`` Gaussian mechanisms on Poisson samples (Abadi et al., CCS 2016).

    >>> dp_sgd_event(1.0, 0.1, 20).count
    20
    """
    step = dp_event.PoissonSampledDpEvent(sampling_rate, dp_event.GaussianDpEvent(noise_multiplier))
    return dp_event.SelfComposedDpEvent(step, steps)


def randomised_response_event(epsilon: float, n_values: int) -> DpEvent:
    """One k-ary randomised response; dp-accounting counts the share of answers that are drawn uniformly."""
    return dp_event.RandomizedResponseDpEvent(n_values / (math.exp(epsilon) + n_values - 1.0), n_values)
