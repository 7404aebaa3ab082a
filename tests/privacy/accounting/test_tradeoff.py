import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.tradeoff import TradeOffCurve, drawn_curve, nothing_learnt
from privacy.mechanisms.events import dp_sgd_event
from tests.curves import Continuous, gaussian_curve, pure_curve

RATES = [1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.999]


@pytest.mark.parametrize("mu", [0.3, 1.9, 3.0])
def test_a_gaussians_curve_is_the_closed_form_from_above(mu):
    for rate in RATES:
        exact = stats.norm.cdf(mu + stats.norm.ppf(rate))
        found = gaussian_curve(mu).largest_tpr(rate)
        assert exact <= found * (1 + 1e-9)
        assert found <= exact * 1.002 + 1e-9


@pytest.mark.parametrize("size", [2, 3])
def test_a_group_is_as_far_apart_as_its_steps_together(size):
    """Group privacy of a Gaussian: μ times the size, and far below (size ε, …)."""
    curve = gaussian_curve(0.7).grouped(size)
    for rate in RATES:
        exact = stats.norm.cdf(size * 0.7 + stats.norm.ppf(rate))
        assert exact <= curve.largest_tpr(rate) * (1 + 1e-9)
        assert curve.largest_tpr(rate) <= exact * 1.005 + 1e-9


def test_the_curve_lies_below_every_pair_that_an_accountant_states():
    events = [dp_event.GaussianDpEvent(2.0), dp_sgd_event(1.0, 0.05, 100)]
    curve = drawn_curve(events, [Continuous()])
    for delta in (1e-6, 1e-4, 1e-2):
        epsilon = pld_epsilon(events, delta)
        for rate in RATES:
            assert curve.largest_tpr(rate) <= min(np.exp(epsilon) * rate + delta, 1.0) * 1.003 + 1e-9


@given(st.floats(0, 1), st.sampled_from([gaussian_curve(1.2), pure_curve(2.0), gaussian_curve(0.4).grouped(2)]))
def test_least_fpr_turns_largest_tpr_round(rate, curve):
    reached = curve.largest_tpr(rate)
    assert curve.least_fpr(reached) <= rate + 1e-9
    assert curve.largest_tpr(curve.least_fpr(reached)) == pytest.approx(reached, abs=1e-9)
    assert reached >= rate - 1e-9


def test_what_a_run_draws_beside_the_continuous_noise_is_on_the_curve():
    class Drawn:
        coordinates = 10**6
        extra_delta = 1e-3

    events = [dp_event.GaussianDpEvent(1.0)]
    plain, drawn = drawn_curve(events, [Continuous()]), drawn_curve(events, [Drawn()])
    assert drawn.largest_tpr(0.0) >= plain.largest_tpr(0.0) + 0.999e-3
    assert all(drawn.largest_tpr(rate) >= plain.largest_tpr(rate) for rate in RATES)


def test_so_many_values_that_nothing_is_said_of_them():
    """As many as a ledger's line may state, which is anybody's: a power of their slack is beyond a double."""

    class Drawn:
        coordinates = 10**15
        extra_delta = 0.0

    assert drawn_curve([dp_event.GaussianDpEvent(1.0)], [Drawn()]).largest_tpr(0.0) == 1.0


def test_no_bound_no_curve_and_nothing_seen_nothing_learnt():
    assert drawn_curve([dp_event.NonPrivateDpEvent()], [Continuous()]) is None
    assert [nothing_learnt().largest_tpr(rate) for rate in RATES] == pytest.approx(RATES)


def test_one_more_pair_can_only_lower_the_curve():
    narrower = gaussian_curve(1.9).holding(0.5, 1e-3)
    assert narrower.largest_tpr(0.1) == pytest.approx(np.exp(0.5) * 0.1 + 1e-3)
    assert TradeOffCurve((0.5,), (1e-3,)).largest_tpr(0.1) == pytest.approx(narrower.largest_tpr(0.1))
