"""The audit of correct mechanisms is silent, and of mechanisms broken on purpose it is not."""

from dataclasses import replace

import pytest

from attacks.auditing.audit import CHAIN, CODEBOOK, MASKS, USER, gather, plan_audits, stage_games
from attacks.auditing.faults import FAULTS
from attacks.auditing.verdicts import LEVEL, Verdict, is_violated
from fedmm_secure.guarantee.multipliers import plan_noise, planned_stages
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny

N_ITEMS, DELTA, SLOW_GAMES = 300, 1e-4, {"quantizer": 30, "ctr": 60}  # of games that train a model each
FEW_GAMES, FEW_SLOW_GAMES = 100, 30
NEXT_TO_NO_NOISE = ("no noise", "noise on spare coordinates alone", "noise at a tenth")  # a few games find it
CONFIG = tiny(
    privacy={"epsilon": 8.0, "protect": "release", "ctr": {"steps": 10}, "quantizer": {"steps_per_round": 2}},
    embedding={"private": {"dim": 4}},
    federation={"rounds": 6},
    aggregation={"kind": "masked-ckks"},
    ctr={"baselines": []},
)
NOISE = plan_noise(CONFIG, N_ITEMS, DELTA)
EVENTS = {stage.name: stage.event(NOISE[stage.name]) for stage in planned_stages(CONFIG, N_ITEMS)}


@pytest.fixture(scope="module")
def audits():
    found = plan_audits(CONFIG, NOISE, EVENTS, DELTA, n_items=N_ITEMS, n_markets=3)
    return {(audit.game.stage, audit.game.kind): audit for audit in found}


def seeded(seed):
    """Noise sources, one after another, of a reproducible stream."""
    seeds = iter(range(seed * 10**7, (seed + 1) * 10**7))
    return lambda: NoiseSource.from_seed(next(seeds))


def played(audit, seed=0, games=None):
    games = games or (min(audit.games, SLOW_GAMES[audit.game.stage]) if audit.game.slow else audit.games)
    smaller = replace(audit, level=LEVEL, games=games)
    return smaller, gather(smaller.play(make_noise=seeded(seed)))


def test_every_stage_the_chain_and_the_masks_are_audited(audits):
    assert {stage for stage, _ in audits} == {"counts", "embedding", "quantizer", "ctr", CHAIN, MASKS}
    assert audits[CHAIN, "sum of ratios"].claim.epsilon == pytest.approx(8.0, rel=0.01)  # the whole budget


@pytest.mark.parametrize("stage", ["counts", "embedding", "quantizer", "ctr", CHAIN, MASKS])
def test_correct_mechanisms_are_not_flagged_and_the_games_are_sharp(audits, stage):
    for (which, kind), audit in audits.items():
        if which != stage:
            continue
        smaller, found = played(audit)
        finding = replace(smaller, level=0.005).judge(found)
        assert finding.verdict != Verdict.VIOLATED, (stage, kind)
        if not audit.game.slow and stage != MASKS:
            # what the adversary sees is nearly all that the claim admits
            assert finding.distance == pytest.approx(audit.claim.distance, rel=0.35), (stage, kind)


@pytest.mark.parametrize(("many", "most"), [(40, 6), pytest.param(100, 11, marks=pytest.mark.slow)])
def test_seeded_audits_of_correct_mechanisms_raise_no_more_alarms_than_stated(audits, many, most):
    """At the 5 % level, more than 6 alarms of 40 have a probability of 0.3 %, more than 11 of 100 one of 0.4 %."""
    for stage in ("counts", "quantizer", "ctr"):
        kind = next(kind for which, kind in audits if which == stage)
        audit = audits[stage, kind]
        alarms = 0
        for seed in range(many):
            _, found = played(audit, seed, games=100)
            alarms += is_violated(audit.claim, found.inside, found.outside)
        assert alarms <= most, stage


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_mechanism_is_caught(audits, name):
    """Each fault by each game that is meant to see it; games that train a model are too few here for half the noise."""
    fault, caught, missed = FAULTS[name], [], []
    for (stage, kind), audit in audits.items():
        if stage not in fault.stages or (fault.kinds and kind not in fault.kinds):
            continue
        if kind == CODEBOOK and CODEBOOK not in fault.kinds:
            continue
        if kind == USER and audit.game.slow and name in ("noise at half",):
            continue
        slow = SLOW_GAMES.get(stage, 0) if name == "noise at a tenth" else FEW_SLOW_GAMES
        few = min(audit.games, slow if audit.game.slow else FEW_GAMES)
        with fault.broken():
            smaller, found = played(audit, games=few if name in NEXT_TO_NO_NOISE else None)
        verdict = smaller.judge(found).verdict
        (caught if verdict == Verdict.VIOLATED else missed).append((stage, kind))
    assert caught
    assert len(missed) <= (1 if name == "one batch of fixed size reused" else 0), missed


def test_faults_end_with_their_block(audits):
    audit = audits["counts", USER]
    _, before = played(audit, seed=5, games=20)
    for fault in FAULTS.values():
        with fault.broken():
            pass
    _, after = played(audit, seed=5, games=20)
    assert (before.inside == after.inside).all()


def test_no_stage_is_audited_that_adds_no_noise():
    assert not stage_games(tiny(), {}, N_ITEMS, 3)
