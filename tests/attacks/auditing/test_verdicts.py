import numpy as np
import pytest
from dp_accounting import dp_event, get_epsilon_gaussian
from jax_privacy import auditing

from attacks.auditing import AUDIT_LEVEL
from attacks.auditing.claims import Claim
from attacks.auditing.joint import joint_test
from attacks.auditing.laws import Law
from attacks.auditing.verdicts import AuditVerdict, auc, judge, lower_bounds
from tests.attacks.auditing.test_joint import shown

LAW = Law(2.0)
CLAIM = Claim((dp_event.GaussianDpEvent(2.0),), 1e-5)
PARTS = [(1.0, LAW)]


def test_what_would_have_been_detected_is_detected():
    """At the ε that a verdict names, noise is too small in 95 of 100 audits: 88 or fewer have a probability of .4 %."""
    found = judge(CLAIM, PARTS, shown(LAW, 400))
    assert found.verdict == AuditVerdict.NOT_REFUTED
    assert CLAIM.epsilon < found.detects < 3 * CLAIM.epsilon
    factor = get_sigma(found.detects) / get_sigma(CLAIM.epsilon)
    caught = [
        joint_test(shown(LAW, 400, seed, **fault)).p_value <= AUDIT_LEVEL
        for seed in range(50)
        for fault in ({"noise": factor}, {"weight": 1 / factor})
    ]
    assert sum(caught) > 88


def get_sigma(epsilon):
    """By bisection of the closed form."""
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if get_epsilon_gaussian(middle, 1e-5) > epsilon else (low, middle)
    return high


def test_few_canaries_see_less_and_say_so():
    many, few = (judge(CLAIM, PARTS, shown(LAW, n)) for n in (2000, 40))
    assert many.detects < few.detects
    assert judge(CLAIM, (), shown(LAW, 40)).detects is None  # nothing is claimed


@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_less_noise_is_a_violation(factor):
    found = judge(CLAIM, PARTS, shown(LAW, 200, noise=factor))
    assert (found.verdict, found.direction) == (AuditVerdict.VIOLATED, "noise")


def test_scores_of_pure_noise_have_an_auc_of_a_half():
    """The library's is the area under the convex hull: .57 on average for sixty scores that say nothing."""
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=30), rng.normal(size=30)) for _ in range(200)]
    assert np.mean([auc(*pair) for pair in pairs]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([auditing.CanaryScoreAuditor(*pair).attack_auroc() for pair in pairs]) > 0.55
    assert auc(np.array([1.0]), np.array([])) == 0.5


def test_bounds_are_the_librarys_and_by_f_dp_they_are_sharper():
    """At ε = 8 with 850 canaries: about 3.5 where Steinke et al. have 2.4."""
    sigma = get_sigma(8.0)
    played = shown(Law(sigma), 850, seed=2)
    by_fdp, one_run = lower_bounds(played, 1e-5)
    auditor, split = auditing.CanaryScoreAuditor(played.inside, played.outside), auditing.Split(seed=0)
    assert by_fdp == auditor.epsilon_one_run_fdp(0.05, 1e-5, threshold_strategy=split)
    assert one_run == auditor.epsilon_one_run(0.05, 1e-5, threshold_strategy=split)
    assert one_run < by_fdp < 8.0
    assert lower_bounds(played.first(1), 1e-5) == (0.0, 0.0)


def test_no_bound_rises_above_the_truth_more_often_than_stated():
    """Of 40 bounds at 95 %, more than 7 above the true ε have a probability of .1 %."""
    exact = get_epsilon_gaussian(2.0, 1e-5)
    found = np.array([lower_bounds(shown(LAW, 100, seed), 1e-5) for seed in range(40)])
    assert ((found > exact).sum(axis=0) <= 7).all()
