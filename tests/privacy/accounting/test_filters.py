"""What several runs spend together: the scale of costs, against closed forms, exact profiles and plain composition."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.dp_event import ComposedDpEvent, GaussianDpEvent, NonPrivateDpEvent
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from privacy.accounting.accountants import group_pld_deltas, once_each, pld_epsilon
from privacy.accounting.events import gaussian_steps
from privacy.accounting.filters import (
    OF_NOISE,
    TOLD,
    RunCost,
    are_noted_failures,
    filter_epsilon,
    gaussian_cost,
    noted_cost,
    noted_event,
    noted_failures,
    run_cost,
)
from privacy.mechanisms.events import dp_sgd_event

DELTA = 1e-5
RUNS = {
    "Gaussian": GaussianDpEvent(0.6),
    "a little": GaussianDpEvent(40.0),
    "steps": dp_sgd_event(3.2, 0.2, 40),
    "few steps": dp_sgd_event(0.9, 0.01, 3),
    "rare samples": dp_sgd_event(0.6, 0.001, 2000),
    "a run": ComposedDpEvent([GaussianDpEvent(0.9), dp_sgd_event(3.2, 0.2, 40), dp_sgd_event(6.3, 0.5, 100)]),
}


def scale_deltas(cost, epsilons):
    """δ of D(m), by its definition."""
    told, mu = -math.expm1(-TOLD * DELTA * cost), math.sqrt(cost)
    gaussian = norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * norm.cdf(-mu / 2 - epsilons / mu)
    return told + (1 - told) * gaussian


def cost(event, coordinates=0):
    return run_cost(event, coordinates, DELTA)


@pytest.mark.parametrize("noise", [0.2, 0.6, 3.0, 40.0])
def test_a_gaussian_mechanism_costs_its_squared_mu(noise):
    assert 1.0 <= cost(GaussianDpEvent(noise)) * noise**2 < 1.003


@pytest.mark.parametrize("event", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("coordinates", [0, 10**6])
def test_the_scale_is_nowhere_below_the_run_and_touches_it_somewhere(event, coordinates):
    """Between the points that it was compared at, too, and in both directions of adding and removing one."""
    found = cost(event, coordinates)
    epsilons = np.sort(np.random.default_rng(0).uniform(0.0, 6.0 * math.sqrt(found) + found, 2000))
    exact = group_pld_deltas(once_each(gaussian_steps(event)), epsilons, interval=1e-4)
    assert (exact <= scale_deltas(found, epsilons) * (1 + 1e-9)).all()
    assert (exact > scale_deltas(0.97 * found, epsilons)).any()


def test_discrete_noise_costs_more():
    event = RUNS["a run"]
    assert cost(event) < cost(event, 10**8) < 1.01 * cost(event)
    assert cost(event, 10**13) > 1.1 * cost(event)
    assert math.isinf(cost(event, 10**15))


def test_what_nothing_bounds():
    assert math.isinf(cost(NonPrivateDpEvent()))
    assert cost(ComposedDpEvent([])) == 0.0
    assert math.isinf(gaussian_cost({(0.02, 1.0, 1): 1}, 0, DELTA))  # μ² of 2500
    assert math.isinf(filter_epsilon([RunCost(0.1), RunCost(math.inf)], DELTA))
    assert math.isinf(filter_epsilon([RunCost(OF_NOISE / TOLD)], DELTA))
    assert filter_epsilon([RunCost(0.0), RunCost(0.0)], DELTA) == 0.0


def test_failures_have_a_tenth_of_delta_and_no_more():
    costs = [RunCost(1.0, 0.04 * DELTA), RunCost(2.0, 0.06 * DELTA * (1 - 1e-12))]
    assert filter_epsilon(costs, DELTA) == filter_epsilon([RunCost(3.0)], DELTA)
    assert math.isinf(filter_epsilon([*costs, RunCost(0.0, 1e-3 * DELTA)], DELTA))


@pytest.mark.parametrize(("name", "looser"), [("Gaussian", 1.02), ("a little", 1.02), ("a run", 1.02), ("steps", 1.1)])
@pytest.mark.parametrize("runs", [2, 5])
def test_several_runs_come_to_little_more_than_by_their_losses(name, looser, runs):
    """What few steps on rare samples lose has tails that no Gaussian mechanism has: those cost more."""
    losses = pld_epsilon([RUNS[name]] * runs, DELTA)
    assert losses < filter_epsilon([RunCost(cost(RUNS[name]))] * runs, DELTA) < looser * losses


@given(st.lists(st.floats(1e-4, 8.0), min_size=1, max_size=5), st.floats(1e-9, 1e-2), st.floats(0.01, 0.99))
def test_it_does_not_matter_how_costs_are_divided(costs, delta, share):
    whole = filter_epsilon([RunCost(math.fsum(costs))], delta)
    assert filter_epsilon([RunCost(one) for one in costs], delta) == pytest.approx(whole, rel=1e-9)
    parted = [RunCost(part) for one in costs for part in (share * one, (1 - share) * one)]
    assert filter_epsilon(parted, delta) == pytest.approx(whole, rel=1e-9)


def test_epsilon_is_that_of_the_scale():
    found = filter_epsilon([RunCost(2.0)], DELTA)
    assert scale_deltas(2.0, np.array([found]))[0] == pytest.approx(OF_NOISE * DELTA, rel=1e-6)
    assert found > dp_accounting.get_epsilon_gaussian(1 / math.sqrt(2.0), DELTA)


@given(st.lists(st.floats(1e-9, 100.0), max_size=4))
def test_a_note_is_never_below_and_barely_above(costs):
    found = noted_cost(noted_event(costs))
    assert math.fsum(costs) * (1 - 1e-12) <= found <= math.fsum(costs) * 1.0025


@given(st.lists(st.floats(0.0, 1e-2), max_size=4))
def test_so_are_failures(failures):
    found = noted_failures(failures)
    assert math.fsum(failures) <= found <= math.fsum(failures) * 1.011
    assert are_noted_failures(found)
