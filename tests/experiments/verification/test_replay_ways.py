"""Every way in which noise is drawn comes out again."""

from types import SimpleNamespace

import pytest

from experiments.verification.replay import Replay, _keys
from experiments.verification.run import examine_run
from fedmm_secure.federation.noise_chain import links, release_key
from fedmm_secure.guarantee.multipliers import MarketSize, planned_stages
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.aggregation.identities import Identity
from tests.replayed import gone_on, opened, replayable, tossed

RELEASE = {
    "epsilon": 8.0,
    "protect": "release",
    "ctr": {"steps": 4},
    "quantizer": {"steps_per_round": 1},
    "pseudo_users": 50,
}
SHARED = {"markets": 3, "users": 60, "items": 30, "mean_interactions": 8, "shared_items": True}
WAYS = {
    "protect federation": {"privacy": {"epsilon": 8.0, "quantizer": {"steps_per_round": 2}, "pseudo_users": 50}},
    "distributed noise": {"privacy": RELEASE | {"distributed_noise": True}},
    "a discovered catalogue": {
        "privacy": RELEASE | {"epsilon": 30.0, "catalogue": "discovered"},
        "data": {"synthetic": {"markets": 3, "users": 500, "items": 70, "mean_interactions": 12}},
    },
    "subspace iteration": {
        "privacy": RELEASE,
        "embedding": {"kind": "dp-svd", "private": {"dim": 4, "max_items": 20, "method": "subspace"}},
    },
    "sums over a shared catalogue": {
        "privacy": RELEASE,
        "data": {"synthetic": SHARED, "shared_items": True},
        "embedding": {"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}, "shared_items": 20},
    },
    "two repetitions": {"privacy": RELEASE, "seed": [0, 1]},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_draws_at_the_same_places_before_a_catalogue_is_found_and_after(way):
    """Keys are made by places, by a market that does not know its items yet, and by its auditor."""
    config = replayable(Identity.generate("auditor"), **WAYS[way])
    stages = ("catalogue", "shared-counts", "shared-gram", "counts", "embedding", "quantizer", "ctr", "evaluation")
    sizes = {f"m{number}": MarketSize(500, 0) for number in range(3)}
    plan = SpendingPlan(config, "m0", sizes, 1e-4, dict.fromkeys(planned(config, stages), 1.0))
    assert plan.drawing == plan.with_items(70).drawing
    assert len(set(plan.drawing)) == len(plan.drawing) >= 2


def planned(config, stages):
    known = [stage.name for stage in planned_stages(config, 0)]
    assert set(known) <= set(stages) | {"user-codes"}
    return known


def test_keys_of_an_earlier_version_are_by_how_many_were_drawn_before():
    """And those of this one by place: a round that was missed is passed over, and attempts of one have one key."""
    places = [("counts", None), ("quantizer/0", 1), ("quantizer/0", 2)]
    plan = SimpleNamespace(market="m0", drawing=places)

    def charge(sequence, stage, round, attempt, coordinates=9):
        identity = (stage, round, attempt)
        entry = SimpleNamespace(stage=stage, round=round, identity=identity, coordinates=coordinates)
        return SimpleNamespace(sequence=sequence, entry=entry)

    missed = [charge(1, "counts", None, None), charge(3, "quantizer/0", 2, 1), charge(5, "quantizer/0", 2, 2, 0)]
    content = SimpleNamespace(charges=missed)
    made = [link for link, _ in zip(links(b"f" * 32), range(3), strict=False)]
    found = _keys(content, plan, b"f" * 32, by_place=False)
    assert found[3] == release_key(made[1], "m0", ("quantizer/0", 2, 1))
    found = _keys(content, plan, b"f" * 32, by_place=True)
    assert found == {1: release_key(made[0], "m0", places[0]), 3: release_key(made[2], "m0", places[2])}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_comes_out_again(tmp_path, way):
    auditor = Identity.generate("auditor")
    settings = replayable(auditor, **WAYS[way])
    opened(settings, tmp_path / "run")
    tossed(tmp_path / "run", auditor)
    gone_on(settings, tmp_path / "run")
    examined = examine_run(tmp_path / "run", replay=Replay(auditor))
    assert examined.findings == []
    assert sum("drawn again and compared" in note for note in examined.notes) == 3
    assert not any("not compared" in note for note in examined.notes)
