"""Values of canaries are normal where the law is the stated one: closed forms, and numpy's own draws."""

import numpy as np
import pytest
from scipy import stats

from attacks.auditing.laws import Law

LAWS = [Law(1.0), Law(2.0, 1.0, 7), Law(2.0, 0.2, 10), Law(6.5, 0.5, 100), Law(1.0, 0.1, 40)]


def drawn(law, n, *, member=True, weight=1.0, noise=1.0, seed=0):
    """What canaries show, ``(n, steps)``, drawn without the product."""
    rng = np.random.default_rng(seed)
    sampled = (rng.random((n, law.steps)) < law.rate) & np.asarray(member).reshape(-1, 1)
    return sampled * weight + noise * law.noise_multiplier * rng.normal(size=(n, law.steps))


@pytest.mark.parametrize("law", LAWS)
def test_values_of_single_steps_are_standard_normal(law):
    """Kolmogorov and Smirnov's test of 4,000 values, in and out: a false alarm has a probability of .1 % each."""
    for member in (True, False):
        seen = drawn(law, max(1, 4000 // law.steps), member=member)
        assert stats.kstest(law.normal_scores(seen, member).ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("law", LAWS)
def test_weight_scores_are_standard_normal_and_no_larger(law):
    ratios = law.ratio(drawn(law, 4000)).sum(axis=1)
    scores = law.weight_scores(ratios)
    assert stats.kstest(scores, "norm").pvalue > 1e-3
    assert (law.weight_scores(ratios, slack=0.01) <= scores).all()


def test_one_steps_weight_is_the_quantile_of_its_value():
    """A ratio rises with its value, so both have the same rank: one by convolution, the other in closed form."""
    law = Law(1.5, 0.3)
    seen = np.linspace(-3.0, 5.0, 200)
    exact = law.normal_scores(seen, True)
    found = law.weight_scores(law.ratio(seen))
    assert (found <= exact + 1e-9).all()
    assert found == pytest.approx(exact, abs=0.02)


def test_a_part_that_is_not_clipped_has_the_law_of_its_own_length():
    law, seen = Law(1.5, 0.3), np.array([[0.7], [2.0]])
    whole = stats.norm.ppf(0.7 * stats.norm.cdf(seen / 1.5) + 0.3 * stats.norm.cdf((seen - 0.25) / 1.5))
    assert law.normal_scores(seen, True, 0.25) == pytest.approx(whole, rel=1e-9)


def test_scores_move_no_faster_than_values():
    """What proves that a slack of the values is one of the scores."""
    seen = np.linspace(-8.0, 9.0, 5001)
    for rate in (0.01, 0.2, 0.5, 0.9):
        scores = Law(0.7, rate).normal_scores(seen, True)
        assert (np.diff(scores) <= np.diff(seen) / 0.7 * (1 + 1e-6)).all()


@pytest.mark.parametrize("law", LAWS)
def test_moments_under_a_fault_are_those_of_draws(law):
    """Within six standard errors."""
    n = 20_000 // law.steps
    coins = np.arange(n) % 2 == 0
    squares = np.square(law.normal_scores(drawn(law, n, member=coins, noise=0.8), coins[:, None]))
    mean, variance = law.spread(0.8)
    assert squares.mean() == pytest.approx(mean, abs=6 * np.sqrt(variance / squares.size))
    scores = law.weight_scores(law.ratio(drawn(law, 4000, weight=1.5)).sum(axis=1))
    shift, width = law.shift(1.5)
    assert scores.mean() == pytest.approx(shift, abs=6 * width / np.sqrt(len(scores)))
    assert scores.std() == pytest.approx(width, rel=0.1)
