"""A person in several markets, against brute force: every outcome of the coins, and vectors that are not in line."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.dp_event import ComposedDpEvent, GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent
from scipy import stats

from privacy.accounting.accountants import group_pld_epsilon, pld_epsilon
from privacy.accounting.events import OneNoiseDpEvent, event_from_data, event_to_data, gaussian_steps
from privacy.accounting.groups import NotKnownError, joint_epsilon, joint_spendings
from privacy.accounting.spendings import Spending, spending_from_data, spent_to_data
from privacy.mechanisms.events import dp_sgd_event

DELTA = 1e-3


def spending(event, markets=3, run="run"):
    return Spending(run, {"release": event}, markets=markets)


def in_all(*markets):
    return joint_spendings({f"m{number}": list(found) for number, found in enumerate(markets)}, "release")


def hockey_sticks(vectors, sigma, rate, epsilon):
    """δ of one step at an ε, both directions, by a grid over the noise; vectors ``(k, d)`` with d at most 2."""
    axis = np.linspace(-9 * sigma, 9 * sigma + len(vectors), 20001 if vectors.shape[1] == 1 else 701)
    grid = np.meshgrid(*[axis] * vectors.shape[1], indexing="ij")
    z, weight = np.stack([one.ravel() for one in grid], axis=1), np.diff(axis)[0] ** vectors.shape[1]
    without = np.prod(stats.norm.pdf(z, scale=sigma), axis=1)
    with_person = np.zeros(len(z))
    for coins in itertools.product((0, 1), repeat=len(vectors)):
        chance = math.prod(rate if coin else 1 - rate for coin in coins)
        with_person += chance * np.prod(stats.norm.pdf(z - np.array(coins) @ vectors, scale=sigma), axis=1)
    alpha = math.exp(epsilon)
    removed = np.maximum(with_person - alpha * without, 0).sum() * weight
    return removed, np.maximum(without - alpha * with_person, 0).sum() * weight


@pytest.mark.parametrize("rate", [0.2, 0.7])
@pytest.mark.parametrize("k", [2, 3])
def test_one_step_is_what_all_outcomes_of_the_coins_give(k, rate):
    epsilon = group_pld_epsilon({(1.5, rate, k): 1}, DELTA, interval=1e-2)
    aligned = np.ones((k, 1))
    truth = max(hockey_sticks(aligned, 1.5, rate, epsilon))
    assert truth <= DELTA * (1 + 1e-6)
    assert truth > 0.9 * DELTA  # and it is no looser than the grid
    alone = group_pld_epsilon({(1.5, rate, 1): k}, DELTA, interval=1e-2)  # as if each market had noise of its own
    assert max(hockey_sticks(aligned, 1.5, rate, alone)) > DELTA


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.5])
def test_vectors_that_are_not_in_line_are_covered(angle):
    epsilon = group_pld_epsilon({(1.5, 0.3, 2): 1}, DELTA, interval=1e-2)
    vectors = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    assert max(hockey_sticks(vectors, 1.5, 0.3, epsilon)) < DELTA


def test_without_sampling_the_noise_multiplier_is_divided_and_markets_of_a_sum_share_its_least():
    sums = [OneNoiseDpEvent(GaussianDpEvent(noise), 3) for noise in (6.0, 9.0, 7.0)]
    (found,) = in_all(*([spending(one)] for one in sums))
    assert found.shared == {(6.0, 1.0, 3): 1}
    assert found.epsilon(DELTA) == pytest.approx(pld_epsilon([GaussianDpEvent(2.0)], DELTA), rel=2e-3)
    assert found.epsilon(DELTA) > 1.5 * pld_epsilon([GaussianDpEvent(6.0)] * 3, DELTA)  # what plain composition says


def test_noise_of_a_market_s_own_is_composed_beside_that_of_sums():
    own = dp_sgd_event(2.0, 0.1, 5)
    one = ComposedDpEvent([own, OneNoiseDpEvent(GaussianDpEvent(6.0), 3)])
    (found,) = in_all(*([spending(one)] for _ in range(3)))
    composed = pld_epsilon([*[own] * 3, GaussianDpEvent(2.0)], DELTA)
    assert found.epsilon(DELTA) == pytest.approx(composed, rel=2e-3)
    assert math.isinf(joint_epsilon(in_all(*([spending(NonPrivateDpEvent())] for _ in range(3))), DELTA))


def test_several_runs_add_up_by_the_filter_and_each_course_is_one():
    own, sums = dp_sgd_event(2.0, 0.1, 5), OneNoiseDpEvent(GaussianDpEvent(6.0), 3)
    runs = in_all(*([spending(ComposedDpEvent([own, sums]), run=name) for name in ("a", "b")] for _ in range(3)))
    assert len(runs) == 2
    losses = pld_epsilon([*[own] * 6, *[GaussianDpEvent(2.0)] * 2], DELTA)
    assert losses < joint_epsilon(runs, DELTA) < 1.05 * losses
    courses = in_all([spending(own)] * 2, *([spending(own)] for _ in range(2)))  # one market was put back once
    assert [len(one.spendings) for one in courses] == [3, 1]
    losses = pld_epsilon([own] * 4, DELTA)
    assert losses < joint_epsilon(courses, DELTA) < 1.4 * losses


@pytest.mark.parametrize(
    ("markets", "why"),
    [
        ([[spending(GaussianDpEvent(6.0))]], "is of 3 markets, and what it spent is known of 1"),
        ([[spending(GaussianDpEvent(6.0), None)]] * 3, "earlier version"),
        ([[spending(GaussianDpEvent(6.0)), spending(GaussianDpEvent(6.0), run="other")],
          *[[spending(GaussianDpEvent(6.0))]] * 2], "run other is of 3 markets, and what it spent is known of 1"),
        ([[spending(OneNoiseDpEvent(GaussianDpEvent(6.0), 3))] * 2] * 3, "went on from an older copy"),
        ([[spending(OneNoiseDpEvent(GaussianDpEvent(6.0), 2))]] * 3, "do not state the same sums"),
        ([*[[spending(OneNoiseDpEvent(GaussianDpEvent(6.0), 3))]] * 2, [spending(GaussianDpEvent(6.0))]], "same sums"),
        ([*[[spending(OneNoiseDpEvent(dp_sgd_event(2.0, 0.1, 5), 3))]] * 2,
          [spending(OneNoiseDpEvent(dp_sgd_event(2.0, 0.2, 5), 3))]], "same sums"),
    ],
)  # fmt: skip
def test_what_is_not_known_gives_no_number(markets, why):
    with pytest.raises(NotKnownError, match=why):
        in_all(*markets)


def test_lines_say_which_noise_is_one_and_old_ones_say_nothing():
    event = ComposedDpEvent([OneNoiseDpEvent(dp_sgd_event(2.0, 0.1, 5), 3), GaussianDpEvent(4.0)])
    data = spent_to_data(spending(event))
    assert data["events"]["release"]["events"][0]["kind"] == "one-noise"
    assert spending_from_data({"run": "run", **data}) == spending(event)
    assert event_from_data(event_to_data(event)) == event
    assert gaussian_steps(event) == {(2.0, 0.1): 5, (4.0, 1.0): 1}  # to a user of one market
    assert gaussian_steps(OneNoiseDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 3)) == {(2.0, 0.1): 1}
    old = {key: value for key, value in data.items() if key != "markets"}
    assert spending_from_data({"run": "run", **old}).markets is None
