"""Losses on a grid: the library's to the last bit where they are on its grid, and upper bounds on every other."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

from privacy.accounting.losses import COARSE, FINE, ROUGH, GaussianLosses, composed_losses, fitting_interval

CASES = {
    "one Gaussian": {(0.7, 1.0, 1): 1},
    "little noise": {(0.15, 1.0, 1): 1},
    "a run": {(0.7, 1.0, 1): 1, (0.9, 1.0, 1): 1, (3.2, 0.2, 1): 40, (6.3, 0.5, 1): 100},
    "a small budget": {(20.0, 1.0, 1): 1, (80.0, 0.2, 1): 40, (300.0, 0.5, 1): 200},
    "rare samples": {(0.6, 0.001, 1): 2000},
    "many steps": {(60.0, 0.1, 1): 30000},
}


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize(("noise", "rate"), [(0.4, 0.5), (0.96, 0.2), (3.0, 0.01), (20.0, 0.9), (1.2, 1.0)])
def test_deltas_are_the_librarys_to_the_last_bit(noise, rate, adjacency):
    loss, library = (
        kind(noise, sampling_prob=rate, adjacency_type=adjacency) for kind in (GaussianLosses, GaussianPrivacyLoss)
    )
    bounds = loss.connect_dots_bounds()
    edge = np.log1p(-rate) if rate < 1 else 0.0  # where sampled losses end: at and beside it
    epsilons = np.linspace(bounds.epsilon_lower, bounds.epsilon_upper, 997)
    epsilons = np.sort(np.concatenate([epsilons, [0.0, edge, -edge, np.nextafter(edge, 9), np.nextafter(-edge, -9)]]))
    found = loss.get_delta_for_epsilon(epsilons)
    assert np.array_equal(found, library.get_delta_for_epsilon(epsilons))
    assert found.min() < 1e-6 < 1e-3 < found.max()
    assert loss.get_delta_for_epsilon(0.5) == library.get_delta_for_epsilon(0.5)


@pytest.mark.parametrize("steps", [*CASES.values(), {(2.0, 0.1, 3): 4, (5.0, 1.0, 2): 3}])
def test_a_composition_is_the_librarys_to_the_last_bit(steps):
    accountant = PLDAccountant(value_discretization_interval=ROUGH)
    for (noise, rate, times), count in steps.items():
        event = dp_event.GaussianDpEvent(noise / (times if rate == 1.0 else 1))
        if times > 1 and rate < 1.0:
            chances = [(1 - rate) ** 3, 3 * rate * (1 - rate) ** 2, 3 * rate**2 * (1 - rate), rate**3]
            event = dp_event.MixtureOfGaussiansDpEvent(noise, [0.0, 1.0, 2.0, 3.0], chances)
        elif rate < 1.0:
            event = dp_event.PoissonSampledDpEvent(rate, event)
        accountant.compose(event, count)
    found = composed_losses(steps, ROUGH)
    for delta in (1e-2, 1e-5):
        assert found.get_epsilon_for_delta(delta) == accountant.get_epsilon(delta)


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_grid_that_fits_is_an_upper_bound_less_than_a_per_mille_from_the_finest(steps, delta):
    interval = fitting_interval(steps)
    fine, fitting, coarse = (
        composed_losses(steps, grid).get_epsilon_for_delta(delta) for grid in (FINE, interval, COARSE)
    )
    assert fine * (1 - 1e-9) <= fitting <= fine * 1.001
    assert fitting <= coarse * (1 + 1e-9)  # what is stated is not above what the budget admitted
    assert COARSE / interval == pytest.approx(round(COARSE / interval))


def test_many_small_steps_need_more_than_the_coarse_grid():
    steps = CASES["many steps"]
    fine, coarse = (composed_losses(steps, grid).get_epsilon_for_delta(1e-6) for grid in (FINE, COARSE))
    assert coarse > 1.01 * fine
    assert fitting_interval(steps) < COARSE == fitting_interval(CASES["a run"])


@pytest.mark.parametrize(
    "noise", [pytest.param(0.3, marks=pytest.mark.slow), pytest.param(0.6, marks=pytest.mark.long), 1.0, 5.0]
)
@pytest.mark.parametrize("interval", [FINE, COARSE, ROUGH, 0.1])
def test_no_grid_is_below_the_closed_form_and_one_that_rounds_down_is(noise, interval):
    exact = dp_accounting.get_epsilon_gaussian(noise / 3.0, 1e-5)
    assert composed_losses({(noise, 1.0, 1): 9}, interval).get_epsilon_for_delta(1e-5) >= exact * (1 - 1e-7)
    below = from_gaussian_mechanism(
        noise / 3.0, pessimistic_estimate=False, use_connect_dots=False, value_discretization_interval=interval
    )
    assert below.get_epsilon_for_delta(1e-5) < exact * (1 - 1e-7)  # the test can fail
