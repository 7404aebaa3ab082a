import numpy as np
import pytest
from dp_accounting import dp_event, get_epsilon_gaussian
from jax_privacy import auditing
from scipy import stats

from attacks.auditing.claims import Claim
from attacks.auditing.verdicts import Verdict, canaries_needed, gaussian_bound, is_violated, judge

CLAIM = Claim((dp_event.GaussianDpEvent(2.0),), 1e-5)  # scores half a standard deviation apart


def scores(distance, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(distance, 1.0, n), rng.normal(0.0, 1.0, n)


def test_a_mechanism_that_meets_its_claim_is_flagged_no_more_often_than_stated():
    """1,000 audits at the 20 % level: more than 233 alarms have a probability of 0.5 % even at that level exactly."""
    alarms = sum(is_violated(CLAIM, *scores(0.5, 300, seed), level=0.2) for seed in range(1000))
    assert alarms <= 233


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_less_noise_is_a_violation(share):
    found = judge(CLAIM, *scores(0.5 / share, 3000))
    assert found.verdict == Verdict.VIOLATED
    assert found.low_gaussian > found.claimed


def test_enough_canaries_make_silence_mean_something_and_few_do_not():
    assert judge(CLAIM, *scores(0.5, 6000)).verdict == Verdict.CONSISTENT
    few = judge(CLAIM, *scores(0.5, 100))
    assert few.verdict == Verdict.INCONCLUSIVE
    assert few.needed > few.canaries


def test_a_game_too_weak_to_see_half_the_noise_says_so():
    weak = judge(CLAIM, *scores(0.1, 20000))
    assert weak.verdict == Verdict.INCONCLUSIVE
    assert weak.needed is None


def test_the_needed_canaries_suffice_nineteen_times_in_twenty():
    needed = canaries_needed(CLAIM, 1.0)
    caught = sum(is_violated(CLAIM, *scores(1.0, needed // 2, seed)) for seed in range(200))
    assert caught >= 180  # 190 expected at least; fewer than 180 has a probability below 0.1 %
    assert canaries_needed(CLAIM, 0.5) is None


def test_bounds_agree_with_the_reference_library():
    """The library's own bounds pass through; the Gaussian one is checked against a closed form on the same counts."""
    inside, outside = scores(1.5, 4000, seed=3)
    auditor, split = auditing.CanaryScoreAuditor(inside, outside), auditing.Split(seed=0)
    found = judge(CLAIM, inside, outside, one_run=True)
    assert found.low == auditor.epsilon_clopper_pearson(0.05, 1e-5, threshold_strategy=split)
    assert found.low_one_run == auditor.epsilon_one_run(0.05, 1e-5, threshold_strategy=split)
    assert found.distance == pytest.approx(np.sqrt(2) * stats.norm.ppf(auditor.attack_auroc()), rel=1e-6)
    exact = get_epsilon_gaussian(1 / 1.5, 1e-5)
    assert 0.6 * exact < gaussian_bound(CLAIM, inside, outside) < exact
    library = auditor.epsilon_from_gdp(0.05, 1e-5)
    assert gaussian_bound(CLAIM, inside, outside) == pytest.approx(library, rel=0.25)


def test_no_bound_rises_above_the_truth_more_often_than_stated():
    """Of 300 bounds at 95 %, more than 25 above the true ε have a probability of 0.7 %."""
    exact = get_epsilon_gaussian(1.0, 1e-5)
    claim = Claim((dp_event.GaussianDpEvent(1.0),), 1e-5)
    above = {"low": 0, "gaussian": 0}
    for seed in range(300):
        inside, outside = scores(1.0, 300, seed)
        auditor = auditing.CanaryScoreAuditor(inside, outside)
        above["low"] += auditor.epsilon_clopper_pearson(0.05, 1e-5, threshold_strategy=auditing.Split(seed=0)) > exact
        above["gaussian"] += gaussian_bound(claim, inside, outside) > exact
    assert max(above.values()) <= 25


def test_the_librarys_gaussian_bound_is_not_used_because_it_finds_leaks_in_noise():
    """Were this ever repaired upstream, the bound here could be the library's."""
    inside, outside = scores(0.0, 60, seed=1)
    assert auditing.CanaryScoreAuditor(inside, outside).epsilon_from_gdp(0.05, 1e-5) > 1.0
    assert gaussian_bound(CLAIM, inside, outside) == 0.0
