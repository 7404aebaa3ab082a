"""The p-value of one run's guesses: valid at a guarantee, and small beyond it."""

import numpy as np
from scipy import stats

from attacks.one_run import p_value
from tests.curves import gaussian_curve

COINS = 120


def drawn(mu, number):
    rng = np.random.default_rng(number)
    member = rng.random(COINS) < 0.5
    return rng.normal(size=COINS) + mu * member, member


def test_false_alarms_are_no_more_than_stated():
    """At the guarantee itself; false-alarm rate of this test 1e-6 for each level."""
    curve = gaussian_curve(1.0)
    found = np.array([p_value(*drawn(1.0, number), curve) for number in range(60)])
    for level in (0.3, 0.1, 0.02):
        assert (found <= level).sum() <= stats.binom.ppf(1 - 1e-6, len(found), level)


def test_a_mechanism_beyond_the_guarantee_has_a_small_p_value():
    curve = gaussian_curve(0.5)
    assert max(p_value(*drawn(4.0, number), curve) for number in range(10)) < 0.01
    assert p_value(*drawn(0.0, 1), curve) > 0.5


def test_it_falls_with_the_guesses_that_are_right():
    member = np.arange(COINS) < COINS // 2
    curve = gaussian_curve(0.5)
    p = [p_value(np.where(np.arange(COINS) < right, member, ~member) * 1.0, member, curve) for right in (60, 80, 120)]
    assert p == sorted(p, reverse=True)
    assert p[-1] < p[0]
