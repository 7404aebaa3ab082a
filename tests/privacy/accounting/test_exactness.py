"""Discrete noise against its continuous model: the bound point by point, and ε(δ) by brute force where S is small."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import optimize, stats

from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.exactness import Slack, discretisation_slack, epsilon_with_slack, slack_at
from privacy.mechanisms.discrete_gaussian import DISTANCE, scale

SCALES = [1.0, 4.0, 32.0]


def discrete(values, scale):
    """The law of the discrete Gaussian on the integers, by its definition."""
    far = np.arange(-int(40 * scale) - 2, int(40 * scale) + 3)
    return np.exp(-(np.asarray(values) ** 2) / (2.0 * scale**2)) / np.exp(-(far**2) / (2.0 * scale**2)).sum()


@pytest.mark.parametrize("scale", [0.7, 1, 4, 50])
def test_the_ratio_of_discrete_and_rounded_noise_lies_where_the_proof_puts_it(scale):
    """With 60 digits: the difference is far below double precision where S is large."""
    mp.dps = 60
    wide = mpf(scale)
    normaliser = mp.nsum(lambda j: mp.exp(-(j**2) / (2 * wide**2)), [-mp.inf, mp.inf])
    for k in {0, 1, 2, 3, int(scale), int(5 * scale), int(12 * scale)}:
        exact = mp.exp(-(mpf(k) ** 2) / (2 * wide**2)) / normaliser
        rounded = mp.ncdf((k + mpf(0.5)) / wide) - mp.ncdf((k - mpf(0.5)) / wide)
        ratio = mp.log(exact / rounded)
        remainder = 3 * mp.exp(-2 * mp.pi**2 * wide**2)
        assert -(mpf(k) ** 2) / (24 * wide**4) - remainder <= ratio <= 1 / (24 * wide**2)
        if k == 0:  # the bound from above is tight at the centre
            assert ratio > mpf(0.8) / (24 * wide**2) - remainder


def epsilon_of(first, second, delta):
    """ε at δ of two laws on the same points, in both directions: ``Σ max(0, p - e^ε q) = δ``."""

    def needed(p, q):
        def excess(epsilon):
            return float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum()) - delta

        return 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, 600.0, xtol=1e-12))

    return max(needed(first, second), needed(second, first))


def gaussian_epsilon(multiplier):
    """ε(δ) of the continuous Gaussian mechanism (Balle, Wang, ICML 2018, theorem 8)."""

    def delta(epsilon):
        a, b = 0.5 / multiplier, epsilon * multiplier
        return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)

    def at(wanted):
        return 0.0 if delta(0.0) <= wanted else float(optimize.brentq(lambda e: delta(e) - wanted, 0.0, 200.0))

    return at


def sampled_epsilon(multiplier, rate, steps=1):
    event = dp_event.SelfComposedDpEvent(
        dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(multiplier)), steps
    )
    return lambda delta: pld_epsilon([event], delta)


def padded_pair(scale, shift):
    """Laws of discrete noise around 0 and around an integer vector, on a box that leaves out less than 1e-15."""
    size = int(8.5 * scale) + 2 + max(abs(part) for part in shift)
    points = np.arange(-size, size + 1)
    laws = []
    for move in (np.zeros(len(shift), dtype=int), np.array(shift)):
        law = np.ones(())
        for part in move:
            law = np.multiply.outer(law, discrete(points - part, scale))
        laws.append(law.ravel())
    return laws


SHIFTS = [(3,), (2, 2), (4, 1), (1, 1, 1)]


@pytest.mark.parametrize("delta", [1e-2, 1e-4])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("scale", SCALES)
def test_epsilon_of_discrete_noise_is_below_the_bound(scale, shift, delta):
    if scale > 4 and len(shift) > 2:
        pytest.skip("a box of 3e8 points")
    without, moved = padded_pair(scale, shift)
    exact = epsilon_of(without, moved, delta)
    bound = epsilon_with_slack(gaussian_epsilon(scale / np.linalg.norm(shift)), delta, fitting(scale, len(shift)))
    assert exact <= bound
    if scale >= 16:
        assert bound <= exact * 1.02 + 0.1  # and not far below


def fitting(scale, coordinates):
    """Slack at as many deviations as the δ of these tests needs."""
    return slack_at(scale, coordinates, deviations=8.0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shift", [(3,), (3, 2)])
@pytest.mark.parametrize("scale", [2.0, 4.0, 16.0])
def test_epsilon_on_poisson_samples_is_below_the_bound(scale, shift, rate):
    delta = 1e-4
    without, moved = padded_pair(scale, shift)
    exact = epsilon_of(without, (1 - rate) * without + rate * moved, delta)
    continuous = sampled_epsilon(scale / np.linalg.norm(shift), rate)
    bound = epsilon_with_slack(continuous, delta, fitting(scale, len(shift)))
    assert exact <= bound
    if scale >= 16:
        assert bound <= exact * 1.02 + 0.1


@pytest.mark.parametrize("scale", [2.0, 8.0])
def test_epsilon_of_composed_steps_on_poisson_samples_is_below_the_bound(scale):
    """Two steps, sampled apart: the law is a product of mixtures."""
    delta, rate, shift = 1e-4, 0.3, 3
    without, moved = padded_pair(scale, (shift,))
    mixed = (1 - rate) * without + rate * moved
    exact = epsilon_of(np.outer(without, without).ravel(), np.outer(mixed, mixed).ravel(), delta)
    bound = epsilon_with_slack(sampled_epsilon(scale / shift, rate, 2), delta, fitting(scale, 2))
    assert exact <= bound


def test_mixtures_whose_parts_lie_far_apart_keep_the_bound():
    """Others' samples move the sum much further than the one user: the bound is on the noise, not on the sum."""
    scale, rate, delta = 3.0, 0.4, 1e-4
    points = np.arange(-200, 201)
    others = [-120, 0, 90]  # what the rest of a batch may add up to
    without = sum(discrete(points - part, scale) for part in others) / 3
    moved = sum(discrete(points - part - 3, scale) for part in others) / 3
    exact = epsilon_of(without, (1 - rate) * without + rate * moved, delta)
    assert exact <= epsilon_with_slack(sampled_epsilon(1.0, rate), delta, fitting(scale, 1))


def test_there_are_cases_in_which_discrete_noise_is_worse_than_its_model():
    """Without slack the claim would be false: here the discrete ε exceeds the continuous one at the same δ."""
    worse = []
    for narrow in (0.5, 0.7, 1.0):
        for delta in (1e-1, 1e-2, 1e-3, 1e-4):
            exact = epsilon_of(*padded_pair(narrow, (1,)), delta)
            worse.append(exact > gaussian_epsilon(narrow)(delta) + 1e-6)
    assert any(worse)


@given(st.integers(1, 10**8), st.integers(1, 10**4))
def test_slack_of_a_real_run_is_small_and_grows_with_its_size(coordinates, steps):
    found = discretisation_slack(coordinates, steps)
    assert found.epsilon == pytest.approx(coordinates * steps / (12 * scale(2) ** 2), rel=0.5, abs=1e-8)
    assert found.distance == coordinates * steps * DISTANCE
    finer = discretisation_slack(coordinates, steps, levels=3)
    assert finer.epsilon < found.epsilon / 6e4


def test_a_run_of_the_size_that_ships_costs_next_to_nothing():
    """RQ-VAE and CTR model of a market: 40 and 100 steps, 5,000 and 20,000 parameters; Gram matrix of 300 items."""
    parts = (
        discretisation_slack(20_000, 1),
        discretisation_slack(300 * 300, 1, levels=3),
        discretisation_slack(5_000, 40),
        discretisation_slack(20_000, 100),
    )
    slack = sum(parts, start=Slack())
    assert slack.epsilon < 5e-6
    epsilon = epsilon_with_slack(gaussian_epsilon(0.5), 1e-5, slack)
    assert gaussian_epsilon(0.5)(1e-5) < epsilon < gaussian_epsilon(0.5)(1e-5) * 1.0002
    # the sampler's share at ε = 8: a thousandth of δ has room for far more
    assert (1 + math.exp(8)) * slack.distance < 1e-15 * 1e-5


def test_a_sampler_that_is_not_close_enough_has_no_epsilon():
    close = Slack(0.0, 1e-13, 0.0)
    far = Slack(0.0, 1e-11, 0.0)
    tail = Slack(0.0, 0.0, 1e-11)
    at = gaussian_epsilon(0.5)  # about 8 at 1e-5
    assert math.isfinite(epsilon_with_slack(at, 1e-5, close))
    assert epsilon_with_slack(at, 1e-5, far) == math.inf
    assert epsilon_with_slack(at, 1e-5, tail) == math.inf
    assert epsilon_with_slack(lambda delta: math.inf, 1e-5, Slack()) == math.inf
