"""Canaries of a run, by the mechanisms alone: the law of what they show, and what it takes to be found."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from attacks.auditing.joint import joint_test
from attacks.auditing.run_canaries import HEAVY, LIGHT, SINGLE, crowds_weight, measure, noise_alone, single_canaries
from experiments.verification.canaries import spare_shape
from experiments.verification.meter import METER_LEVEL
from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.federation.canaries import RunCanaries
from fedmm_secure.guarantee.canary_sums import SpareSums, canary_sums, levels, noised_steps
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.ledger import stage_group
from privacy.mechanisms.canary_gradients import CanaryGradients
from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGDTrainer
from privacy.mechanisms.dp_svd import factors_by_subspace_iteration, noisy_gram
from privacy.mechanisms.factored_sums import FactoredGradients, LinearGradient
from privacy.mechanisms.meter import meter_findings
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny
from tests.released import PRIVATE

STAGES = ("counts", "embedding", "subspace", "quantizer/0", "ctr/0")
READINGS = 5 * 3  # of a run of three markets, and one for what they share
LARGE = 4000  # users of a market whose blocks hold a crowd
NOBODY = sparse.csr_array((0, 1))


def planned(method="gram"):
    privacy = {"epsilon": 8.0, "protect": "release", "ctr": {"steps": 12}, "quantizer": {"steps_per_round": 2}}
    embedding = {**PRIVATE, "private": {**PRIVATE["private"], "method": method}}
    config = tiny(privacy=privacy, embedding=embedding, ctr={"baselines": []})
    config = config.model_copy(update={"audit": AuditConfig(canaries=100)})
    sizes = {name: MarketSize(80, 40) for name in ("m0", "m1", "m2")}
    noise = {"counts": 1.5, "embedding": 3.0, "quantizer": 6.0, "ctr": 2.0}
    return SpendingPlan.of(config, "m0", sizes, noise)


PLANS = {"subspace": planned("subspace")}
PLAN = planned()


def of(name):
    """Plan and stage of a way to release."""
    return PLANS.get(name, PLAN), "embedding" if name == "subspace" else name


@cache
def factored(choices):
    """A model whose gradients are never written out, on rows of users that are nobody's."""
    model = torch.nn.Linear(1, 1)
    gradients = FactoredGradients(model, lambda net, x: net(x).square().sum(1), {torch.nn.Linear: LinearGradient})
    return DPSGDTrainer(gradients, torch.optim.SGD(model.parameters(), lr=0.0), choices, LARGE), torch.zeros(1, 1)


@cache
def dense(choices):
    gradients = CanaryGradients(1, choices.clipping_norm)
    return DPSGDTrainer(gradients, torch.optim.SGD(gradients.parameters, lr=0.0), choices, LARGE), torch.arange(1)


def drawn(name, number, factor=1.0):
    """Spare sums of a stage by its mechanism, whose noise multiplier is ``factor`` of what is planned."""
    plan, stage = of(name)
    key = NoiseSource.from_seed(number).words(4).tobytes()
    canaries, noise = RunCanaries(100, key), NoiseSource.from_seed(number).derive("noise", name)
    steps, count = spare_shape(plan, stage)
    rounds = range(1, 3) if stage.startswith("quantizer") else [None]
    found = []
    for round in rounds:
        spare = canaries.spare(count, plan, stage, round)
        own = noise.derive(str(round))
        sigma = factor * plan.noise[stage_group(stage)]
        if name == "counts":
            values = noisy_counts(NOBODY, sigma, own, spare=spare).spare[None, :]
        elif name == "embedding":
            values = noisy_gram(NOBODY, sigma, own, spare=spare)[1][None, :]
        elif name == "subspace":
            values = factors_by_subspace_iteration(NOBODY, 1, sigma, steps, own, spare=spare).spare
        else:
            choices = replace(noised_steps(plan, stage_group(stage)), noise_multiplier=sigma)
            trainer, examples = (factored if stage.startswith("quantizer") else dense)(choices)
            values = trainer.steps(examples, steps, own, spare=spare).spare
        found.append(SpareSums(values, spare))
    return found


def p_values(name, number, factor=1.0):
    """Of single canaries, and of their crowd."""
    found, (plan, stage) = drawn(name, number, factor), of(name)
    played, _ = single_canaries(plan, stage, found)
    return joint_test(played).p_value, crowds_weight(plan, stage, found)[1]


def scaled(name):
    return scale(levels(*of(name)))


@pytest.mark.parametrize("name", STAGES)
def test_what_is_taken_off_leaves_noise_alone(name):
    """False-alarm rate 1e-6: chi-square of all that is left."""
    (plan, stage), found = of(name), drawn(name, 1)
    left = np.concatenate(noise_alone(plan, stage, found)).ravel() / scaled(name)
    assert 5e-7 < stats.chi2.cdf(np.square(left).sum(), left.size) < 1 - 5e-7
    assert any(canary_sums(plan, stage, one.spare, len(one.values)).any() for one in found)


def check_law(name, repetitions):
    found = np.array([p_values(name, number) for number in range(repetitions)])
    for p in found.T:
        for level in (0.2, 1e-2, 1e-3):
            assert int((p < level).sum()) <= stats.binom.ppf(1 - 1e-6, repetitions, level)
    assert stats.kstest(found[:, 1], "uniform").pvalue > 1e-6  # of a crowd, exactly; the joint test shares its level


@pytest.mark.parametrize("name", STAGES)
def test_false_alarms_come_as_often_as_is_stated(name):
    """False-alarm rate of this test 8e-6 a stage."""
    check_law(name, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_false_alarms_by_many_repetitions(name):
    check_law(name, 100_000)


def alarms_of_a_run(number):
    """Whether meter or canaries accuse a run of one market, all of whose stages are as planned."""
    stages = ("counts", "embedding", "quantizer/0", "ctr/0")
    level, accused = METER_LEVEL / 2, False
    for name in stages:
        (plan, stage), found, own = of(name), drawn(name, number), level / len(stages)
        played, _ = single_canaries(plan, stage, found)
        _, heavy, light = crowds_weight(plan, stage, found)
        left = np.concatenate(noise_alone(plan, stage, found)).ravel()
        accused |= joint_test(played).p_value <= SINGLE * own or heavy < HEAVY * own or light < LIGHT * own
        accused |= any(one.alarm for one in meter_findings(left, scale=scaled(name), level=level / (len(stages) + 1)))
    return accused


def check_runs(repetitions):
    """False-alarm rate 1e-6."""
    found = sum(map(alarms_of_a_run, range(repetitions)))
    assert found <= stats.binom.ppf(1 - 1e-6, repetitions, METER_LEVEL)


def test_no_run_in_a_thousand_is_accused_falsely():
    check_runs(10)


@pytest.mark.slow
def test_no_run_in_a_thousand_is_accused_falsely_by_many_repetitions():
    check_runs(5_000)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_as_planned_raises_no_alarm_and_says_what_it_measured(name):
    plan, stage = of(name)
    (one,) = measure(plan, {stage: drawn(name, 3)}, 1e-3)
    assert one.stage == stage
    assert one.alarm is None
    assert one.noise[1] < 1.01
    assert one.noise[2] > 0.99
    assert one.result is not None
    assert one.result.low_fdp < one.result.claimed


LEVEL = METER_LEVEL / 2 / 3 / 4  # of one of four stages of one of three markets


@pytest.mark.parametrize("name", STAGES)
def test_a_noise_multiplier_of_08_is_found_by_the_crowd(name):
    """Grid and noise shrink together, so that no spare value tells: the meter is blind, and a user weighs 1.25."""
    crowd = [p_values(name, number, 0.8)[1] < LEVEL * HEAVY for number in range(10)]
    assert all(crowd)  # each with a probability above .9999, see below


@pytest.mark.parametrize("factor", [0.8, 0.9])
def test_the_power_of_a_crowd_is_enough_by_its_law(factor):
    for name in STAGES:
        (plan, stage), (found, *_) = of(name), drawn(name, 5)
        weighed = canary_sums(plan, stage, found.spare, len(found.values))[:, len(found.spare.member)]
        shift = (1 / factor - 1) * weighed.sum() / (scaled(name) * np.sqrt(len(weighed)))
        assert stats.norm.sf(stats.norm.isf(LEVEL * HEAVY) - shift) > 0.95, name


@pytest.mark.parametrize("name", STAGES)
def test_noise_of_08_on_the_planned_grid_is_found_by_the_meter(name):
    for number in range(10):
        left = np.concatenate(noise_alone(*of(name), drawn(name, number))).ravel()
        shrunk = (0.8 * left).astype(np.int64)
        found = meter_findings(shrunk, scale=scaled(name), level=METER_LEVEL / 2 / READINGS)
        assert any(one.alarm for one in found)


@pytest.mark.parametrize("name", STAGES)
def test_canaries_that_are_lost_on_the_way_are_an_alarm(name):
    """Whatever canaries show says nothing where the mechanism drops them."""
    plan, stage = of(name)
    gone = [SpareSums(left, one.spare) for one in drawn(name, 2) for left in noise_alone(plan, stage, [one])]
    (found,) = measure(plan, {stage: gone}, 1e-3)
    assert "weighs -0.0" in found.alarm or "weighs 0.0" in found.alarm
