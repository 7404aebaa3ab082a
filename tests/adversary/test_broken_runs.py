"""Runs whose DP-SGD is broken in the lines that users go through: canaries and noise meter show it to a reader."""

import pytest

from experiments.verification.run import examine_run
from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from tests.broken_sgd import BROKEN
from tests.conftest import tiny
from tests.released import PRIVATE

STAGES = ("quantizer", "ctr")


def settings():
    found = tiny(
        data={"synthetic": {"markets": 3, "users": 60, "items": 30, "mean_interactions": 8}},
        privacy={
            "epsilon": 8.0,
            "protect": "release",
            "ctr": {"steps": 4},
            "quantizer": {"steps_per_round": 1},
            "pseudo_users": 50,
        },
        embedding=PRIVATE,
        federation={"rounds": 2},
        ctr={"baselines": []},
    )
    return found.model_copy(update={"audit": AuditConfig(canaries=100, nonce="ab" * 32)})


def findings_of(name, directory):
    """What a reader finds, whose own machine is as it should be."""
    config = settings()
    run_directory.create(directory, config)
    with BROKEN[name]():
        run_pipeline(config, prepare_markets(config.data), directory)
    return [
        finding
        for check, found in examine_run(directory).checks.items()
        for finding in found
        if "canar" in check or "noise" in check
    ]


def check(name, directory):
    """Every market's stages of DP-SGD are named."""
    texts = [f"{finding.where} {finding.what}" for finding in findings_of(name, directory)]
    for stage in STAGES:
        for market in ("m0", "m1", "m2"):
            assert any(market in text and stage in text for text in texts), (name, market, stage)


def test_a_run_in_which_everybody_is_sampled_ends_red(tmp_path):
    check("everybody sampled", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BROKEN) - {"everybody sampled"}))
def test_every_fault_ends_red(name, tmp_path):
    check(name, tmp_path / "run")
