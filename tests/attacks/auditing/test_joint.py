"""The joint test: exact levels, power as computed, and hardly more canaries than the best test would need."""

import numpy as np
import pytest
from scipy import stats

from attacks.auditing.joint import (
    NOISE,
    POWER,
    SPREAD,
    SUMS,
    WEIGHT,
    canaries_needed,
    joint_test,
    noise_power,
    seen_factor,
    shares_of,
    weight_power,
)
from attacks.auditing.laws import Law
from attacks.auditing.played import Played, join_batches, together
from tests.attacks.auditing.test_laws import drawn

ONE, SAMPLED = Law(2.0), Law(3.0, 0.2, 10)
LEVEL = 0.005  # of one of ten audits


def shown(law, n, seed=0, **changes):
    """Canaries of a mechanism without the product's code."""
    member = np.random.default_rng(10_000 + seed).random(n) < 0.5
    seen = drawn(law, n, member=member, seed=seed, **changes)
    normal = law.normal_scores(seen, member[:, None])
    ratios = law.ratio(seen).sum(axis=1)
    total = normal.sum(axis=1) / np.sqrt(law.steps)
    return Played(member, ratios, law.weight_scores(ratios), total, np.square(normal).sum(axis=1), law.steps)


@pytest.mark.parametrize("law", [ONE, SAMPLED])
def test_mechanisms_as_stated_raise_no_more_alarms_than_stated(law):
    """1,000 audits of 20 canaries: 91 alarms at the 5 % level, or 272 at 20 %, have a probability below 1e-7."""
    values = [joint_test(shown(law, 20, seed)).p_value for seed in range(1000)]
    assert np.mean(np.array(values) <= 0.05) < 0.091
    assert np.mean(np.array(values) <= 0.2) < 0.272


@pytest.mark.parametrize(
    ("changes", "direction"),
    [({"noise": 0.5}, NOISE), ({"weight": 4.0}, WEIGHT), ({"noise": 0.0}, NOISE)],
)
@pytest.mark.parametrize("law", [ONE, SAMPLED])
def test_what_costs_privacy_is_seen_and_named(law, changes, direction):
    found = joint_test(shown(law, 200, **changes))
    assert found.p_value < 1e-4
    assert found.direction == direction


def test_noise_that_cancels_over_steps_is_seen():
    law, n = SAMPLED, 200
    played = shown(law, n)
    sums = Played(played.member, played.score, played.weight, 0.3 * played.total, played.squares, played.steps)
    assert joint_test(sums)[:2] == (0.0, SUMS) or joint_test(sums).direction == SUMS


def test_coins_that_are_the_same_in_every_step_are_seen():
    law, n = Law(3.0, 0.5, 40), 400
    rng = np.random.default_rng(3)
    member = rng.random(n) < 0.5
    seen = ((rng.random(n) < 0.5) & member)[:, None] + 3.0 * rng.normal(size=(n, 40))
    normal = law.normal_scores(seen, member[:, None])
    total = normal.sum(axis=1) / np.sqrt(40)
    played = Played(member, total, np.zeros(n), total, np.square(normal).sum(axis=1), 40)
    found = joint_test(played)
    assert (found.direction, found.p_value < 1e-4) == (SPREAD, True)


def test_slack_costs_alarms_and_never_makes_any():
    played = shown(ONE, 200, noise=0.8)
    loose = Played(played.member, played.score, played.weight, played.total, played.squares, 1, 0.5)
    assert joint_test(loose).p_value > joint_test(played).p_value
    assert noise_power([(1.0, ONE)], 0.8, 200, LEVEL, 0.5) < noise_power([(1.0, ONE)], 0.8, 200, LEVEL)


def test_shares_of_the_level_add_up():
    assert sum(shares_of(1).values()) == pytest.approx(1.0)
    assert sum(shares_of(40).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("law", [ONE, SAMPLED])
@pytest.mark.parametrize("changes", [{"noise": 0.8}, {"weight": 2.5}])
def test_the_canaries_needed_suffice_nineteen_times_in_twenty(law, changes):
    """Fewer than 180 of 200 alarms have a probability below .4 % at that power."""
    needed = canaries_needed([(1.0, law)], 0.05, **changes)
    caught = sum(joint_test(shown(law, needed, seed, **changes)).p_value <= 0.05 for seed in range(200))
    assert caught >= 180


def deviations(probability):
    return float(stats.norm.isf(probability))


def best_for_noise(factor):
    """Neyman and Pearson's test of two known variances: the sum of squares, at the whole level."""
    return next(n for n in range(2, 5000) if stats.chi2.cdf(stats.chi2.ppf(LEVEL, n) / factor**2, n) >= POWER)


def best_for_weight(law, weight):
    """That of a weight against 1, by the likelihood ratio of the two, over all steps of canaries that were in."""
    sigma, rate = law.noise_multiplier, law.rate
    seen = np.linspace(-14 * sigma, weight + 14 * sigma, 100_001)
    densities = [
        (1 - rate) * stats.norm.pdf(seen, 0, sigma) + rate * stats.norm.pdf(seen, each, sigma) for each in (1, weight)
    ]
    ratio, width = np.log(densities[1] / densities[0]), seen[1] - seen[0]
    means = [float((ratio * density).sum() * width) for density in densities]
    spreads = [float((ratio**2 * d).sum() * width) - m**2 for d, m in zip(densities, means, strict=True)]
    root = deviations(LEVEL) * np.sqrt(spreads[0]) + deviations(1 - POWER) * np.sqrt(spreads[1])
    return 2 * (root / (means[1] - means[0])) ** 2 / law.steps


@pytest.mark.parametrize("factor", [0.9, 0.8, 0.5])
def test_noise_takes_hardly_more_canaries_than_the_best_test(factor):
    assert canaries_needed([(1.0, ONE)], LEVEL, noise=factor) <= 1.5 * best_for_noise(factor)


# noise as the shipped configurations have it at ε from 1 to 8
@pytest.mark.parametrize(
    "law", [Law(10.0), Law(2.0), Law(0.7), Law(18.7, 0.2, 40), Law(3.36, 0.2, 40), Law(6.5, 0.5, 100)]
)
def test_weight_takes_hardly_more_canaries_than_the_best_test(law):
    assert canaries_needed([(1.0, law)], LEVEL, weight=2.0) <= 1.5 * best_for_weight(law, 2.0)


def test_half_the_noise_takes_a_thirteenth_of_what_thresholds_took():
    """340 canaries at this level where a threshold was chosen on half of the scores and counted on the other."""
    assert canaries_needed([(1.0, ONE)], LEVEL, noise=0.5) <= 26


def test_what_is_seen_is_seen_whichever_is_at_fault():
    parts = [(1.0, SAMPLED)]
    factor = seen_factor(parts, 500, LEVEL)
    assert min(noise_power(parts, factor, 500, LEVEL), weight_power(parts, 1 / factor, 500, LEVEL)) >= POWER - 0.01
    assert seen_factor(parts, 2000, LEVEL) > factor
    assert seen_factor([(1.0, Law(1e6))], 16, LEVEL) is None


def test_mechanisms_together_have_the_law_of_their_parts():
    parts = [shown(ONE, 300, 1), shown(SAMPLED, 300, 1)]
    weights = (0.6, 0.8)
    both = together(parts, weights)
    assert both.steps == 11
    assert stats.kstest(both.total, "norm").pvalue > 1e-3
    assert both.first(7).squares == pytest.approx(parts[0].squares[:7] + parts[1].squares[:7])
    assert len(join_batches([parts[0], parts[0]])) == 600
    with pytest.raises(ValueError, match="the same canaries"):
        together([parts[0], shown(SAMPLED, 300, 2)], weights)


@pytest.mark.parametrize("canaries", [16, 60])
def test_what_few_canaries_are_said_to_see_they_see_nineteen_times_in_twenty(canaries):
    """By the law itself: coins decide how many are in. Half of all, as it was reckoned with, see more than that."""
    parts, bound = [(1.0, ONE)], stats.norm.isf(LEVEL * shares_of(1)[WEIGHT])
    weight = 1.0 / seen_factor(parts, canaries, LEVEL)
    each = ONE.shift(weight)[0]
    n_in = np.arange(canaries + 1)
    seen = stats.norm.sf(bound - np.sqrt(n_in) * each)
    assert float(stats.binom.pmf(n_in, canaries, 0.5) @ seen) >= POWER
    assert weight_power(parts, weight, canaries, LEVEL) == pytest.approx(
        float(stats.binom.pmf(n_in, canaries, 0.5) @ seen), abs=1e-6
    )
    as_it_was = (bound + stats.norm.isf(1 - POWER)) / np.sqrt(canaries // 2)
    missed = float(stats.binom.pmf(n_in, canaries, 0.5) @ stats.norm.sf(bound - np.sqrt(n_in) * as_it_was))
    assert missed < POWER
