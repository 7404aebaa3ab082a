"""Every way in which noise is drawn comes out again."""

import pytest

from experiments.verification.replay import Replay
from experiments.verification.run import examine_run
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
