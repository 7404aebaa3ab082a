"""The test of a guarantee: its limits against a linear program, a library and enumeration; its alarms by simulation."""

from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from jax_privacy.auditing import _epsilon_one_run_fdp
from scipy import optimize

from attacks.membership.refutation import POWER, REFUTATION_LEVEL, admitted, refute
from attacks.one_run import guess_counts, is_possible, most_right
from tests.curves import coins, gaussian_curve, mu_of, pure_curve

DELTA = 1e-3


def largest_tail(curve, n, c, v):
    """The largest P(A >= v) that the claim admits, as a linear program in the law of A."""
    lines = [(np.exp(e), d) for e, d in zip(curve.epsilons, curve.deltas, strict=True)]
    lines += [(np.exp(-e), 1 - np.exp(-e) * (1 - d)) for e, d in zip(curve.epsilons, curve.deltas, strict=True)]
    a = np.arange(c + 1)
    rows, right = [], []
    for level in range(1, c + 1):
        u, w = 2 / n * a * (a >= level), 2 / n * (c - a) * (a >= level - 1)
        for slope, intercept in lines:
            if slope < 1e6:
                rows.append(u - slope * w)
                right.append(intercept)
    found = optimize.linprog(-(a >= v).astype(float), rows, right, np.ones((1, c + 1)), [1.0])
    assert found.status == 0
    return -found.fun


@pytest.mark.parametrize(("mu", "n", "c", "v"), [(0.5, 40, 8, 7), (1.0, 40, 12, 11), (1.9, 30, 10, 10)])
def test_the_limit_is_that_of_the_linear_program(mu, n, c, v):
    curve = gaussian_curve(mu)
    largest = largest_tail(curve, n, c, v)
    assert is_possible(curve, n, c, v, largest * 0.98)
    assert not is_possible(curve, n, c, v, largest * 1.02)


@pytest.mark.parametrize(("m", "guesses", "correct"), [(400, 40, 38), (1000, 200, 170)])
def test_the_limit_is_that_of_jax_privacy(m, guesses, correct):
    """The library's guesses may be "out" too: a pair of coins of its own for each of ours."""
    epsilon = _epsilon_one_run_fdp(0.0, m, guesses, correct, 0.05, DELTA)
    below, above = (gaussian_curve(mu_of(epsilon * factor, DELTA)) for factor in (0.98, 1.02))
    assert not is_possible(below, 2 * m, guesses, correct, 0.05)
    assert is_possible(above, 2 * m, guesses, correct, 0.05)


def test_no_mechanism_does_better_than_its_limit_randomised_response_by_enumeration():
    epsilon, n, c = 1.0, 6, 3
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    law = np.zeros(c + 1)
    for member, lie in product(product([0, 1], repeat=n), repeat=2):
        answers = [m ^ b for m, b in zip(member, lie, strict=True)]
        named = sorted(range(n), key=lambda i: -answers[i])[:c]
        chance = 0.5**n * np.prod([1 - truth if b else truth for b in lie])
        law[sum(member[i] for i in named)] += chance
    assert law.sum() == pytest.approx(1.0)
    for v in range(1, c + 1):
        assert is_possible(pure_curve(epsilon), n, c, v, law[v:].sum())


def test_the_grid_is_every_threshold():
    counts = np.array(guess_counts(3000))
    assert counts[0] == 1
    assert counts[-1] == 1500
    assert (counts[1:] / counts[:-1])[counts[1:] > 6].max() <= 1.35
    # limits grow, so that a count between two of the grid has that of the next
    _, limits = admitted(gaussian_curve(0.5), 4, 3000, REFUTATION_LEVEL)
    assert list(limits) == sorted(limits)


def dependent(mu, n_models, n_units, seed):
    """Scores of a μ-Gaussian mechanism, post-processed so that those of one model depend on each other."""
    member, rng = coins(n_models, n_units, seed)
    noisy = mu * member + rng.normal(size=member.shape)
    mixed = noisy + 0.5 * np.roll(noisy, 1, axis=1)
    return mixed * np.exp(rng.normal(size=(n_models, 1))) + rng.normal(size=(n_models, 1)), noisy, member


def test_false_alarms_are_rarer_than_the_level():
    """A mechanism that uses all of its guarantee, its own scores and dependent ones, at a level that shows.

    At a level of .5, fifty alarms in a hundred runs of two attacks would be admitted.
    """
    mu, alarms = 0.8, 0
    curve = gaussian_curve(mu)
    with patch("attacks.membership.refutation.REFUTATION_LEVEL", 0.5):
        for seed in range(100):
            mixed, noisy, member = dependent(mu, 8, 300, seed)
            alarms += any(refute(one, member, curve, DELTA, attacks=2).refuted for one in (mixed, noisy))
    assert alarms <= 15


def test_a_limit_holds_in_each_pipeline():
    """Of 4,000 pipelines at a limit of probability .1, 400 may be above: not 480, but with probability below 1e-4."""
    member, rng = coins(4000, 120)
    scores = 1.0 * member + rng.normal(size=member.shape)
    order = np.argsort(-scores, axis=1)
    right = np.cumsum(np.take_along_axis(member, order, axis=1), axis=1)
    for c in (6, 20, 50):
        assert (right[:, c - 1] > most_right(gaussian_curve(1.0), 120, c, 0.1)).sum() < 480


def test_what_is_said_to_be_detected_is():
    curve, delta = gaussian_curve(mu_of(1.0, DELTA)), DELTA
    nothing = refute(np.zeros((16, 400)), coins(16, 400)[0], curve, delta)
    assert not nothing.refuted
    mu = mu_of(nothing.detects, delta)
    seen = weaker = 0
    for seed in range(40):
        member, rng = coins(16, 400, seed)
        noise = rng.normal(size=member.shape)
        seen += refute(mu * member + noise, member, curve, delta).refuted
        weaker += refute(0.6 * mu * member + noise, member, curve, delta).refuted
    assert seen >= 36  # 38 of 40 are promised; fewer than 36 have probability .05, and four blocks may see it
    assert weaker < seen
    assert pytest.approx(0.95) == POWER


@pytest.mark.parametrize("epsilon", [7.0, 8.0])
def test_a_perfect_attack_is_refuted_or_beyond_what_so_few_targets_can_refute(epsilon):
    for n_models, n_units in ((32, 2000), (16, 2000), (16, 100), (4, 40)):
        delta = n_units**-1.1
        member, rng = coins(n_models, n_units)
        found = refute(member + 1e-3 * rng.random(member.shape), member, gaussian_curve(mu_of(epsilon, delta)), delta)
        assert found.refuted or found.detects is None
        assert found.refuted == (n_units == 2000)


def test_who_is_out_counts_as_well():
    """An attack that knows for certain who a tenth of the others are, and nothing of the rest."""
    member, rng = coins(16, 1000)
    scores = rng.random(member.shape)
    scores[~member & (rng.random(member.shape) < 0.1)] = -1.0
    assert refute(scores, member, gaussian_curve(mu_of(1.0, DELTA)), DELTA).refuted


def test_attacks_share_the_level_so_that_more_of_them_see_less():
    curve, member = gaussian_curve(0.5), coins(8, 500)[0]
    alone, many = (refute(np.zeros(member.shape), member, curve, DELTA, attacks=n) for n in (1, 50))
    assert alone.detects < many.detects
