"""The contract of accountants, which every one meets: from mechanisms and δ to an ε that bounds them together."""

import math

import pytest
from dp_accounting import dp_event

from privacy.accounting.accountants import PRV_RELATIVE_ERROR, finely, pld_epsilon, prv_epsilon
from privacy.mechanisms.events import dp_sgd_event
from tests.privacy.accounting.test_accountants import analytic_gaussian_epsilon

ACCOUNTANTS = {"pld": pld_epsilon, "pld, finest grid": finely, "prv": prv_epsilon}
DELTA = 1e-5
STEPS = dp_sgd_event(1.0, 0.1, 50)


LONG = "pld, finest grid"


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.long if name == LONG else ()) for name in ACCOUNTANTS])
def epsilon(request):
    return ACCOUNTANTS[request.param]


def test_it_bounds_the_closed_form_of_a_gaussian_and_barely(epsilon):
    exact = analytic_gaussian_epsilon(2.0, DELTA)
    found = epsilon([dp_event.GaussianDpEvent(2.0)], DELTA)
    assert exact * (1 - PRV_RELATIVE_ERROR) <= found <= exact * (1 + 5 * PRV_RELATIVE_ERROR)


def test_more_steps_less_noise_a_smaller_delta_and_no_sampling_cost_more(epsilon):
    base = epsilon([STEPS], DELTA)
    dearer = [([STEPS, STEPS], DELTA), ([dp_sgd_event(0.9, 0.1, 50)], DELTA), ([STEPS], DELTA / 10)]
    assert all(epsilon(events, delta) > base for events, delta in dearer)
    assert epsilon([dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(1.0), 50)], DELTA) > base


def test_composition_is_below_the_sum_and_takes_no_notice_of_order_or_grouping(epsilon):
    other = dp_event.GaussianDpEvent(4.0)
    one, two = epsilon([STEPS], DELTA), epsilon([other], DELTA)
    both = epsilon([STEPS, other], DELTA)
    assert max(one, two) < both < one + two
    assert epsilon([other, STEPS], DELTA) == both
    halves = [dp_sgd_event(1.0, 0.1, 25), dp_event.ComposedDpEvent([other, dp_sgd_event(1.0, 0.1, 25)])]
    assert epsilon(halves, DELTA) == both


def test_nothing_costs_nothing_and_what_is_not_private_has_no_bound(epsilon):
    assert epsilon([dp_event.NoOpDpEvent()], DELTA) == 0.0
    assert epsilon([], DELTA) == 0.0
    for exposed in (dp_event.NonPrivateDpEvent(), dp_event.GaussianDpEvent(0.0), dp_sgd_event(0.0, 0.1, 1)):
        assert epsilon([STEPS, exposed], DELTA) == math.inf
