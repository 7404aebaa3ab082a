"""The noise meter: as many false alarms as stated, and as much power as it needs."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.meter import (
    ENOUGH,
    meter_findings,
    repeats,
    response_findings,
    spare_coordinates,
)
from privacy.mechanisms.randomised_response import randomise
from privacy.mechanisms.randomness import NoiseSource

S, LEVEL = scale(2), 1e-3 / 28  # seven markets with four stages each share a run's false alarms


def drawn(n, seed=0, levels=2):
    return NoiseSource.from_seed(seed).discrete_gaussian(n, levels=levels)


def alarms(values, *, level=LEVEL, scale=S):
    return {finding.test for finding in meter_findings(values, scale=scale, level=level) if finding.alarm}


@pytest.mark.parametrize("draws", [1, 3, 40, 1499, 1500, 10_000])
def test_a_stage_has_enough_spare_values_and_not_many_more(draws):
    assert ENOUGH <= draws * spare_coordinates(draws) < ENOUGH + draws


@pytest.mark.long
def test_false_alarms_are_as_many_as_stated():
    """At an inflated level of 10 %, each test's own share and all together; more has a probability of 1e-4."""
    runs, found = 2000, {}
    for seed in range(runs):
        for finding in meter_findings(drawn(200, seed), scale=S, level=0.1):
            found.setdefault(finding.test, []).append((finding.p_value, finding.level))
    total = 0
    for test, pairs in found.items():
        level, count = pairs[0][1], sum(p < level for p, level in pairs)
        total += count
        assert count <= stats.binom.ppf(1 - 1e-4, runs, level), test
    assert total >= stats.binom.ppf(1e-4, runs, 0.09)  # nor far fewer: size alone has 97 % of the level
    p_values = [p for p, _ in found["law"]]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_noise_of_any_number_of_levels_passes(levels):
    assert not alarms(drawn(3000, 7, levels), scale=scale(levels))


@pytest.mark.parametrize(("n", "ratio"), [(340, 0.8), (ENOUGH, 0.9)])
def test_power(n, ratio):
    """95 % at the level of one of 28 tests of a run, by simulation (below 91 %: 1e-4) and exactly."""
    seen = ["size" in alarms(np.rint(ratio * drawn(n, seed)).astype(np.int64)) for seed in range(400)]
    assert np.mean(seen) > 0.95 - 3.7 * (0.95 * 0.05 / 400) ** 0.5
    critical = stats.chi2.ppf(LEVEL * 0.97 * 0.97, n)
    assert stats.chi2.cdf(critical / ratio**2, n) >= 0.95


@pytest.mark.parametrize(("readings", "percent"), [(5, 98), (28, 95), (101, 91), (501, 84)])
def test_the_power_that_the_documentation_states_is_that_of_so_many_readings(readings, percent):
    level = 1e-3 / (readings + 1)
    critical = stats.chi2.ppf(level * 0.97 * 0.97, ENOUGH)
    assert int(100 * stats.chi2.cdf(critical / 0.9**2, ENOUGH)) == percent
    assert stats.chi2.cdf(critical / 0.85**2, ENOUGH) > 0.999
    documented = (Path(__file__).parents[3] / "docs" / "verification.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {readings}\b.*\| {percent} % \| above 99.9 %", documented, re.MULTILINE)


@pytest.mark.parametrize(
    "fault",
    [
        lambda v: np.zeros_like(v),
        lambda v: v // 2,
        lambda v: v * 2,
        lambda v: np.full_like(v, int(S)),  # the right size, and not random
        lambda v: np.rint(np.sign(v) * S).astype(np.int64),
        lambda v: 2 * (v // 2),  # the right size on a coarser grid: lower digits of what is released are bare
        lambda v: 256 * np.rint(v / 256).astype(np.int64),
        lambda v: np.tile(v[: len(v) // 2], 2),
        lambda v: np.concatenate([v[: len(v) - 10], v[10:20]]),
    ],
)
def test_noise_that_is_not_what_it_should_be_is_found(fault):
    assert alarms(fault(drawn(ENOUGH)))


def test_one_stages_noise_in_another_is_found():
    first, second = drawn(300, 1), drawn(300, 2)
    assert not repeats([first, second], scale=S, level=1e-7).alarm
    second[50:60] = first[200:210]
    assert repeats([first, second], scale=S, level=1e-7).alarm


def test_repeats_do_not_occur_by_chance():
    """Short runs of coarse noise: the union bound holds with room, also where runs overlap."""
    alarmed = sum(repeats([drawn(400, seed, 1)], scale=scale(1), level=0.2).alarm for seed in range(300))
    assert alarmed <= stats.binom.ppf(1 - 1e-4, 300, 0.2)


def answers(epsilon, k, n=ENOUGH, seed=0):
    return randomise(np.zeros(0, dtype=np.int64), k, epsilon, NoiseSource.from_seed(seed), spare=n).spare


@pytest.mark.parametrize("k", [2, 3, 64, 1024])
def test_answers_of_randomised_response_pass(k):
    for seed in range(20):
        found = response_findings(answers(2.0, k, seed=seed), n_values=k, epsilon=2.0, level=1e-3)
        assert not any(finding.alarm for finding in found)


def test_false_alarms_of_randomised_response_are_as_many_as_stated():
    alarmed = sum(
        any(f.alarm for f in response_findings(answers(1.5, 20, 200, seed), n_values=20, epsilon=1.5, level=0.1))
        for seed in range(1000)
    )
    assert alarmed <= stats.binom.ppf(1 - 1e-4, 1000, 0.1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda a: np.zeros_like(a),  # the truth, always
        lambda a: np.where(np.arange(len(a)) % 4 == 0, 0, a),
        lambda a: np.where(a == 0, 0, 1 + (a - 1) // 2),  # others not uniform
        lambda a: np.where(a == 0, 0, 7),
    ],
)
def test_answers_that_are_not_what_they_should_be_are_found(fault):
    found = response_findings(fault(answers(2.0, 1024)), n_values=1024, epsilon=2.0, level=LEVEL)
    assert any(finding.alarm for finding in found)


def test_a_smaller_epsilon_than_was_used_is_found():
    """Answers at ε = 4 under the name of ε = 3."""
    found = response_findings(answers(4.0, 1024), n_values=1024, epsilon=3.0, level=LEVEL)
    assert next(f for f in found if f.test == "true answers").alarm


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="no spare"):
        meter_findings(np.zeros(0, dtype=np.int64), scale=S, level=0.01)
    with pytest.raises(ValueError, match="no spare"):
        response_findings(np.zeros(0, dtype=np.int64), n_values=4, epsilon=1.0, level=0.01)
