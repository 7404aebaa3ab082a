"""Canaries of a run, by the mechanisms alone: the law of what they show, and what it takes to be found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from attacks.auditing.joint import joint_test
from attacks.auditing.run_canaries import crowds_weight, measure, noise_alone, single_canaries
from experiments.verification.canaries import spare_shape
from experiments.verification.meter import METER_LEVEL
from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.federation.canaries import RunCanaries
from fedmm_secure.guarantee.canary_sums import SpareSums, canary_sums, noised_steps
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.ledger import stage_group
from privacy.mechanisms.canary_gradients import CanaryGradients
from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGDTrainer
from privacy.mechanisms.dp_svd import GRAM_LEVELS, noisy_gram
from privacy.mechanisms.meter import meter_findings
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from tests.conftest import tiny
from tests.released import PRIVATE

STAGES = ("counts", "embedding", "quantizer/0", "ctr/0")
READINGS = 5 * 3  # of a run of three markets, and one for what they share
NOBODY = sparse.csr_array((0, 1))


@pytest.fixture(scope="module")
def plan():
    privacy = {"epsilon": 8.0, "protect": "release", "ctr": {"steps": 12}, "quantizer": {"steps_per_round": 2}}
    config = tiny(privacy=privacy, embedding=PRIVATE, ctr={"baselines": []})
    config = config.model_copy(update={"audit": AuditConfig(canaries=100)})
    sizes = {name: MarketSize(80, 40) for name in ("m0", "m1", "m2")}
    noise = {"counts": 1.5, "embedding": 3.0, "quantizer": 6.0, "ctr": 2.0}
    return SpendingPlan.of(config, "m0", sizes, noise)


def drawn(plan, stage, number, factor=1.0):
    """Spare sums of a stage by its mechanism, whose noise multiplier is ``factor`` of what is planned."""
    key = NoiseSource.from_seed(number).words(4).tobytes()
    canaries, noise = RunCanaries(100, key), NoiseSource.from_seed(number).derive("noise", stage)
    steps, count = spare_shape(plan, stage)
    rounds = range(1, 3) if stage.startswith("quantizer") else [None]
    found = []
    for round in rounds:
        spare = canaries.spare(count, plan, stage, round)
        own = noise.derive(str(round))
        sigma = factor * plan.noise[stage_group(stage)]
        if stage == "counts":
            values = noisy_counts(NOBODY, sigma, own, spare=spare).spare[None, :]
        elif stage == "embedding":
            values = noisy_gram(NOBODY, sigma, own, spare=spare)[1][None, :]
        else:
            choices = replace(noised_steps(plan, stage_group(stage)), noise_multiplier=sigma)
            gradients = CanaryGradients(1, choices.clipping_norm)
            trainer = DPSGDTrainer(gradients, torch.optim.SGD(gradients.parameters, lr=0.0), choices, 1)
            values = trainer.steps(torch.arange(1), steps, own, spare=spare).spare
        found.append(SpareSums(values, spare))
    return found


def p_values(plan, stage, number, factor=1.0):
    """Of single canaries, and of their crowd."""
    found = drawn(plan, stage, number, factor)
    played, _ = single_canaries(plan, stage, found)
    return joint_test(played).p_value, crowds_weight(plan, stage, found)[1]


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_taken_off_leaves_noise_alone(plan, stage):
    """False-alarm rate 1e-6: chi-square of all that is left."""
    found = drawn(plan, stage, 1)
    left = np.concatenate(noise_alone(plan, stage, found)).ravel() / scale(
        GRAM_LEVELS if stage == "embedding" else LEVELS
    )
    assert 5e-7 < stats.chi2.cdf(np.square(left).sum(), left.size) < 1 - 5e-7
    assert any(canary_sums(plan, stage, one.spare, len(one.values)).any() for one in found)


def check_law(plan, stage, repetitions):
    found = np.array([p_values(plan, stage, number) for number in range(repetitions)])
    for p in found.T:
        for level in (0.2, 1e-2, 1e-3):
            assert int((p < level).sum()) <= stats.binom.ppf(1 - 1e-6, repetitions, level)
    assert stats.kstest(found[:, 1], "uniform").pvalue > 1e-6  # of a crowd, exactly; the joint test shares its level


@pytest.mark.parametrize("stage", STAGES)
def test_false_alarms_come_as_often_as_is_stated(plan, stage):
    """False-alarm rate of this test 8e-6 a stage."""
    check_law(plan, stage, 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "repetitions"), [("counts", 100_000), ("embedding", 100_000), ("quantizer/0", 10_000), ("ctr/0", 10_000)]
)
def test_false_alarms_by_many_repetitions(plan, stage, repetitions):
    check_law(plan, stage, repetitions)


def test_a_stage_as_planned_raises_no_alarm_and_says_what_it_measured(plan):
    found = {stage: drawn(plan, stage, 3) for stage in STAGES}
    measured = list(measure(plan, found, 1e-3))
    assert [one.stage for one in measured] == list(STAGES)
    for one in measured:
        assert one.alarm is None
        assert one.noise[1] < 1.01
        assert one.noise[2] > 0.99
        assert one.result is not None
        assert one.result.low_fdp < one.result.claimed


LEVEL = METER_LEVEL / 2 / 3 / len(STAGES)  # of one stage of one market


@pytest.mark.parametrize("stage", STAGES)
def test_a_noise_multiplier_of_08_is_found_by_the_crowd(plan, stage):
    """Grid and noise shrink together, so that no spare value tells: the meter is blind, and a user weighs 1.25."""
    crowd = [p_values(plan, stage, number, 0.8)[1] < LEVEL / 2 for number in range(10)]
    assert all(crowd)  # each with a probability above .9999, see below


@pytest.mark.parametrize("factor", [0.8, 0.9])
def test_the_power_of_a_crowd_is_enough_by_its_law(plan, factor):
    for stage in STAGES:
        (found, *_) = drawn(plan, stage, 5)
        weighed = canary_sums(plan, stage, found.spare, len(found.values))[:, len(found.spare.member)]
        scaled = scale(GRAM_LEVELS if stage == "embedding" else LEVELS)
        shift = (1 / factor - 1) * weighed.sum() / (scaled * np.sqrt(len(weighed)))
        assert stats.norm.sf(stats.norm.isf(LEVEL / 2) - shift) > 0.95, stage


@pytest.mark.parametrize("stage", STAGES)
def test_noise_of_08_on_the_planned_grid_is_found_by_the_meter(plan, stage):
    scaled = scale(GRAM_LEVELS if stage == "embedding" else LEVELS)
    for number in range(10):
        left = np.concatenate(noise_alone(plan, stage, drawn(plan, stage, number))).ravel()
        shrunk = (0.8 * left).astype(np.int64)
        found = meter_findings(shrunk, scale=scaled, level=METER_LEVEL / 2 / READINGS)
        assert any(one.alarm for one in found)
