"""The audit of correct mechanisms is silent, and of mechanisms broken on purpose it is not.

Every nonce here is fixed, so each game is the same each time.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from attacks.auditing import AIM, AUDIT_LEVEL
from attacks.auditing.audit import CHAIN, CODEBOOK, GRADIENTS, MASKS, USER, plan_audits, play, stage_games
from attacks.auditing.faults import FAULTS
from attacks.auditing.joint import joint_test
from attacks.auditing.verdicts import AuditVerdict
from fedmm_secure.executors.processes import WorkerProcesses
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, QUANTIZER
from tests.conftest import tiny

CONFIG = tiny(
    privacy={"epsilon": 8.0, "protect": "release", "ctr": {"steps": 10}, "quantizer": {"steps_per_round": 2}},
    embedding={"private": {"dim": 4}},
    federation={"rounds": 6},
    aggregation={"kind": "masked-ckks"},
    ctr={"baselines": []},
)
SIZES = {market: MarketSize(4000, 300) for market in ("m0", "m1", "m2")}
NONCE = bytes(range(32))
# canaries; others need fewer
FEW = {"noise at .9": 700, "noise at .8": 260, "Gram sensitivity off by 2": 400, "one batch of fixed size reused": 1200}
REPETITIONS, EACH = 60, 20  # audits of correct mechanisms, and canaries of each
TRAINED = ("noise at half", "noise on spare coordinates alone", "no clipping", "codebook not clipped")


@pytest.fixture(scope="module")
def plan():
    return SpendingPlan.of(CONFIG, "m0", SIZES)


@pytest.fixture(scope="module")
def audits(plan):
    return plan_audits(plan)


def quick(audits, canaries=60, models=6):
    """With fewer canaries, at the level of a single audit."""
    return [
        replace(a, level=AUDIT_LEVEL, canaries=min(a.canaries, models if a.games[0].trains else canaries))
        for a in audits
    ]


def fast(audits):
    return [audit for audit in audits if not audit.games[0].trains]


def test_every_stage_the_chain_and_the_masks_are_audited(audits):
    kinds = Counter(audit.stage for audit in audits)
    assert kinds == {COUNTS: 1, EMBEDDING: 1, QUANTIZER: 3, CTR: 2, CHAIN: 1, MASKS: 1}
    chain = next(audit for audit in audits if audit.stage == CHAIN)
    assert chain.claim.epsilon == pytest.approx(8.0, rel=0.01)  # the whole budget
    assert [game.stage for game in chain.games] == [COUNTS, EMBEDDING, QUANTIZER, CTR]
    assert sum(audit.level for audit in audits) == pytest.approx(AUDIT_LEVEL)


def test_no_stage_is_audited_that_adds_no_noise():
    assert stage_games(SpendingPlan.of(tiny(), "m0", SIZES)) == []


@pytest.fixture(scope="module")
def correct(audits):
    """What correct mechanisms show, by stage; the chain is of the same canaries."""
    enough = [replace(a, canaries=max(a.canaries, REPETITIONS * EACH)) for a in fast(audits) if a.stage != CHAIN]
    chain = next(audit for audit in audits if audit.stage == CHAIN)
    return {audit.name: played for audit, played in play([*enough, chain], NONCE)}


def test_correct_mechanisms_are_not_refuted_and_twice_the_claim_would_have_been(audits, correct):
    for audit in fast(audits):
        played = correct[audit.name]
        finding = audit.judge(played)
        assert finding.verdict == AuditVerdict.NOT_REFUTED, audit.name
        assert finding.canaries == audit.canaries
        if audit.stage != MASKS:
            assert finding.claimed < finding.detects <= AIM * finding.claimed, audit.name
            assert finding.low_fdp < finding.claimed


def test_models_trained_by_correct_code_are_not_refuted(audits):
    trained = [audit for audit in quick(audits) if audit.games[0].trains]
    for audit, played in play(trained, NONCE):
        assert joint_test(played[0]).p_value > AUDIT_LEVEL / 10, audit.name


def test_the_same_nonce_draws_the_same_games_and_another_one_others(audits):
    chosen = [audit for audit in quick(audits, 40) if audit.stage in (COUNTS, MASKS)]

    def scores(nonce, workers=1):
        return [played[0].score for _, played in play(chosen, nonce, executor=WorkerProcesses(workers))]

    for one, again, other in zip(scores(NONCE), scores(NONCE), scores(bytes(32)), strict=True):
        assert (one == again).all()
        assert one.shape == other.shape
        assert not (one == other).all() or set(one) == {0.0}  # masks that are fresh leave nothing to see


def test_mechanisms_alone_raise_no_more_alarms_than_stated(correct):
    """Audits at the 20 % level: more than 24 alarms of 60 have a probability of .02 %."""
    for name, (played, *others) in correct.items():
        if not others and len(played) >= REPETITIONS * EACH:
            assert alarms(played, REPETITIONS) <= 24, name


@pytest.mark.slow
def test_mechanisms_alone_raise_no_more_alarms_than_stated_over_5000_audits(audits):
    """More than 1,150 alarms have a probability of 1e-7."""
    many = [replace(audit, canaries=5000 * EACH) for audit in fast(audits) if audit.stage in (COUNTS, QUANTIZER, CTR)]
    for audit, (played,) in play(many, NONCE):
        assert alarms(played, 5000) <= 1150, audit.name


def alarms(played, repetitions):
    parts = np.split(np.arange(repetitions * EACH), repetitions)
    return sum(joint_test(_chosen(played, part)).p_value <= 0.2 for part in parts)


def _chosen(played, at):
    names = ("member", "score", "weight", "total", "squares")
    return replace(played, **{name: getattr(played, name)[at] for name in names})


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_mechanism_is_caught(audits, name, monkeypatch):
    """Each fault by the games that are meant to see it; those that train models by a few of each direction."""
    # which say nothing of the verdict
    monkeypatch.setattr("attacks.auditing.verdicts.lower_bounds", lambda played, delta: (0.0, 0.0))
    fault = FAULTS[name]
    concerned = [
        audit
        for audit in quick(audits, FEW.get(name, 60))
        if audit.stage in fault.stages
        and (not fault.kinds or audit.kind in fault.kinds)
        and (not audit.games[0].trains or name in TRAINED)
    ]
    with fault.broken():
        shown = list(play(concerned, NONCE))
    verdicts = {audit.name: audit.judge(played).verdict for audit, played in shown}
    assert verdicts
    assert set(verdicts.values()) == {AuditVerdict.VIOLATED}, verdicts


def test_games_that_read_a_part_see_what_is_meant_to_see_it(audits):
    kinds = {fault.name: fault.kinds for fault in FAULTS.values() if fault.kinds}
    assert set(kinds.values()) == {(CODEBOOK,), (GRADIENTS,)}
    assert {audit.kind for audit in audits} >= {CODEBOOK, GRADIENTS, USER}


def test_faults_end_with_their_block(audits):
    counts = quick(audits, 20)[:1]
    before = next(play(counts, NONCE))[1][0]
    for fault in FAULTS.values():
        with fault.broken():
            pass
    assert (next(play(counts, NONCE))[1][0].score == before.score).all()
