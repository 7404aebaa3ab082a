import math

import pytest
from dp_accounting import dp_event
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accounting.accountants import finely, pld_epsilon, prv_epsilon, solve_noise_multiplier
from privacy.accounting.events import UnknownEventError, event_from_data, event_to_data, gaussian_steps
from privacy.mechanisms.events import dp_sgd_event


def analytic_gaussian_epsilon(sigma, delta):
    """Balle and Wang, ICML 2018, theorem 8, sensitivity 1."""

    def excess(epsilon):
        a = 1 / (2 * sigma) - epsilon * sigma
        b = -1 / (2 * sigma) - epsilon * sigma
        return norm.cdf(a) - math.exp(epsilon) * norm.cdf(b) - delta

    return brentq(excess, 0, 200)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-6])
def test_pld_matches_the_closed_form_of_a_gaussian(sigma, delta):
    found = finely([dp_event.GaussianDpEvent(sigma)], delta)
    assert found == pytest.approx(analytic_gaussian_epsilon(sigma, delta), rel=1e-3)
    assert found >= analytic_gaussian_epsilon(sigma, delta) - 1e-9  # an upper bound


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.8, 0.05, 300), (1.0, 0.1, 100), (2.0, 0.02, 1000), (1.2, 0.5, 20)]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_pld_and_prv_agree_within_one_percent(noise, rate, steps, delta):
    events = [dp_sgd_event(noise, rate, steps // 4)] * 4
    assert pld_epsilon(events, delta) == pytest.approx(prv_epsilon(events, delta), rel=0.01)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_solved_noise_meets_the_budget_and_barely(epsilon):
    def make(noise):
        return dp_sgd_event(noise, 0.1, 100)

    noise = solve_noise_multiplier(make, epsilon=epsilon, delta=1e-4)
    assert finely([make(noise)], 1e-4) <= pld_epsilon([make(noise)], 1e-4) <= epsilon
    assert finely([make(noise - 0.01)], 1e-4) > epsilon * 0.99
    assert finely([make(noise / 2)], 1e-4) > epsilon  # half the noise breaks the claim


def test_sampling_a_composition_is_not_taken_for_composed_samplings():
    inner = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(1.0), 10)
    assert gaussian_steps(dp_event.PoissonSampledDpEvent(0.1, inner)) is None


def test_events_survive_the_way_to_json_and_back():
    event = dp_event.ComposedDpEvent([dp_sgd_event(1.1, 0.2, 7), dp_event.NoOpDpEvent(), dp_event.NonPrivateDpEvent()])
    assert event_from_data(event_to_data(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "magic"},
        {"kind": "gaussian"},
        {"kind": "poisson-sampled", "sampling_rate": 0, "event": {"kind": "no-op"}},
        {"kind": "poisson-sampled", "sampling_rate": 1.5, "event": {"kind": "no-op"}},
    ],
)
def test_unknown_events_are_refused(data):
    with pytest.raises(UnknownEventError):
        event_from_data(data)


def test_an_event_the_ledger_does_not_know_is_refused():
    with pytest.raises(UnknownEventError):
        event_to_data(dp_event.LaplaceDpEvent(1.0))
