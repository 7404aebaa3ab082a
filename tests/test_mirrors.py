"""Tests mirror the packages: a module's tests are found by its path, those of a whole room by the room's name."""

from pathlib import Path

from tests.test_interfaces import PACKAGES, ROOT

TOGETHER = {  # tests of what no single module does, and what that is
    "attacks/auditing/test_canary_faults.py": "what goes wrong in the way that users and canaries share",
    "attacks/membership/test_references.py": "scores beside the published formulas of other tools",
    "experiments/commands/test_helps.py": "what all commands say of themselves",
    "experiments/deploy/test_flower_engine.py": "an engine against the in-process one, bit for bit",
    "experiments/deploy/test_signals.py": "commands and all that they start, from outside",
    "experiments/deploy/test_units.py": "the files that start parties as services",
    "experiments/reports/test_figures.py": "figures of runs and sweeps, as files",
    "experiments/reports/test_pages.py": "pages in a browser",
    "experiments/test_discovered_catalogue.py": "runs of a kind, from configuration to verification",
    "experiments/test_light_start.py": "what commands import",
    "experiments/test_noisy_figures.py": "runs of a kind, from configuration to verification",
    "experiments/test_real_markets.py": "runs on real markets",
    "experiments/test_release.py": "runs of a kind, from configuration to verification",
    "experiments/test_secrets.py": "runs under an operator's environment",
    "experiments/verification/test_replay_ways.py": "runs of every kind, drawn again by their auditor",
    "experiments/verification/test_shared_catalogue.py": "runs of a kind, with every manipulation of their sums",
    "fedmm_secure/collaborative/test_embeddings.py": "what all embeddings are good for",
    "fedmm_secure/ctr/test_features_and_models.py": "features into models",
    "fedmm_secure/data/test_splits_and_candidates.py": "splits into candidates",
    "fedmm_secure/federation/test_aggregators.py": "the contract of aggregators",
    "fedmm_secure/federation/test_faults.py": "a federation that is killed at every point",
    "fedmm_secure/federation/test_rounds.py": "client, server and door together",
    "privacy/mechanisms/test_linear_releases.py": "the contract of what is a linear function and noise",
}


def mirrored(test):
    """Whether there is a module, or a room, of this name in the same place; or it is the contract of a room's seam."""
    room, name = ROOT / test.parent, test.stem.removeprefix("test_")
    if name == "contract":
        return room.is_dir()
    return (room / f"{name}.py").is_file() or (room / name / "__init__.py").is_file() or room.name == name


def test_tests_stand_where_what_they_test_stands():
    tests = [
        path.relative_to(ROOT / "tests")
        for package in PACKAGES
        for path in (ROOT / "tests" / package).rglob("test_*.py")
    ]
    assert {path.as_posix() for path in tests if not mirrored(path)} == TOGETHER.keys()
    assert mirrored(Path("privacy/mechanisms/test_counts.py"))
    assert not mirrored(Path("privacy/mechanisms/test_budget.py"))
