import numpy as np
import pytest
from dp_accounting import dp_event, get_epsilon_gaussian
from scipy import stats

from attacks.auditing.claims import Claim, gaussian_tpr
from privacy.accounting.events import dp_sgd_event

RATES = [1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 2.0, 8.0])
def test_the_curve_of_one_gaussian_is_the_closed_form(noise_multiplier):
    claim = Claim((dp_event.GaussianDpEvent(noise_multiplier),), 1e-5)
    assert claim.epsilon == pytest.approx(get_epsilon_gaussian(noise_multiplier, 1e-5), rel=1e-3)
    for rate in RATES:
        exact = gaussian_tpr(1.0 / noise_multiplier, rate)
        assert exact - 1e-6 <= claim.largest_tpr(rate) <= exact + 0.002
    assert claim.distance == pytest.approx(1.0 / noise_multiplier, rel=0.02)


def test_composed_gaussians_are_one_with_less_noise():
    parts = Claim((dp_event.GaussianDpEvent(3.0), dp_event.GaussianDpEvent(4.0)), 1e-5)
    for rate in RATES:
        assert parts.largest_tpr(rate) == pytest.approx(gaussian_tpr(np.hypot(1 / 3.0, 1 / 4.0), rate), abs=2e-3)


def test_the_curve_of_one_sampled_gaussian_is_that_of_its_mixture():
    """With the canary N(1, σ²) with probability q and N(0, σ²) else: the best test is a threshold.

    The claim covers adding and removing by one δ(ε), so it lies above the curve of either.
    """
    sigma, q = 1.0, 0.3
    claim = Claim((dp_sgd_event(sigma, q, 1),), 1e-5)
    for rate in RATES:
        threshold = stats.norm.isf(rate, scale=sigma)
        exact = (1 - q) * rate + q * stats.norm.sf(threshold, loc=1.0, scale=sigma)
        assert exact - 1e-6 <= claim.largest_tpr(rate) <= exact + 0.04


def test_nothing_released_is_guessing_and_no_privacy_is_certainty():
    nothing, everything = Claim((), 1e-5), Claim((dp_event.NonPrivateDpEvent(),), 1e-5)
    assert nothing.epsilon == 0.0
    assert np.isinf(everything.epsilon)
    for rate in RATES:
        assert nothing.largest_tpr(rate) == pytest.approx(rate)
        assert everything.largest_tpr(rate) == 1.0
