"""Evidence that an owner plants for an auditor: games that were never played, and multipliers that nothing claims.

The first version took kept games of the run directory for played, and played what the run's files said the noise was.
"""

import json

import numpy as np
import pytest

from attacks.auditing.faults import FAULTS
from experiments.assessment.audit import UnverifiedRunError, audit, read_audited
from fedmm_secure.guarantee.plan import SpendingPlan
from tests.command_line import fedmm
from tests.forgery import Forgery

GAMES = "audit/m0/games/counts-crafted-user/00000000.npz"


class OldAudit:
    """The broken rules, on a mechanism that adds a tenth of what is claimed."""

    def __init__(self, run, claimed):
        self.run, self.claimed = run, claimed

    def noise(self):
        """What is played: the multiplier that the run's own file names."""
        first = json.loads((self.run / "ledger" / "m0.jsonl").read_text().splitlines()[0])
        return first["body"]["commitments"]["noise"]["counts"]

    def scores(self):
        """Kept games are taken for played."""
        if (self.run / GAMES).exists():
            with np.load(self.run / GAMES) as kept:
                return kept["inside"], kept["outside"]
        rng, noise = np.random.default_rng(0), 0.1 * self.claimed
        return rng.normal(1 / noise, 1.0, 500), rng.normal(0.0, 1.0, 500)

    def verdict(self):
        inside, outside = self.scores()
        apart = (inside.mean() - outside.mean()) / outside.std()
        return "VIOLATED" if apart > 1.2 / self.claimed else "consistent"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Where an auditor works."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def old(released_copy):
    return OldAudit(released_copy, read_audited(str(released_copy), [], "m0").plan.noise["counts"])


def refused(run, capsys):
    """What the command says; nothing is played."""
    status, out, err = fedmm(capsys, "audit", run, "--market", "m0", "--canaries", 16)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "does not verify, so there is no plan to audit" in err
    return err


def test_planted_games_turn_a_leaky_mechanism_consistent(old, released_copy, capsys):
    assert old.verdict() == "VIOLATED"
    rng = np.random.default_rng(1)
    (released_copy / GAMES).parent.mkdir(parents=True)
    np.savez(released_copy / GAMES, inside=rng.normal(1 / old.claimed, 1.0, 500), outside=rng.normal(0.0, 1.0, 500))
    assert old.verdict() == "consistent"  # it worked so
    refused(released_copy, capsys)
    with pytest.raises(UnverifiedRunError) as caught:
        read_audited(str(released_copy), [], "m0")
    assert any("/audit/m0/games" in finding.where for finding in caught.value.findings)


def cut_tenfold(run):
    for market in run.markets:
        for entry in run.entries(market):
            if "noise_multiplier" in entry["event"]:
                entry["event"]["noise_multiplier"] *= 0.1
        noise = run.opening(market)["noise"]
        noise.update({stage: 0.1 * multiplier for stage, multiplier in noise.items()})
    run.state_again()


@pytest.mark.parametrize("owner", [False, True], ids=["outsider", "owner"])
def test_multipliers_cut_tenfold(old, released_copy, capsys, owner):
    """Even where the whole ledger, the metrics and the signatures are made to fit: the plan is made again."""
    forgery = Forgery(released_copy)
    cut_tenfold(forgery)
    forgery.finish(owner=owner)
    assert old.noise() == pytest.approx(0.1 * old.claimed)  # what the old rule played and called consistent
    refused(released_copy, capsys)


def test_a_plan_in_the_runs_memory_is_not_read(old, released_copy):
    memory = {"counts": 0.1 * old.claimed}
    for name in ("budget.json", "budget"):
        (released_copy / "state" / name).write_text(json.dumps(memory))
    plan = read_audited(str(released_copy), [], "m0").plan
    assert plan.noise["counts"] == old.claimed
    assert plan.noise == SpendingPlan.of(plan.config, "m0", plan.sizes).noise  # from configuration and public sizes


def test_a_leaky_mechanism_is_refuted_whatever_the_run_holds(released_copy):
    """What is played is the auditor's code at the plan's noise; here it adds a tenth of that."""
    audited = read_audited(str(released_copy), [], "m0")
    with FAULTS["noise at a tenth"].broken():
        found = audit(audited, canaries=16)
    assert {result["verdict"] for result in found if result["stage"] != "masks"} == {"VIOLATED"}
    assert not (released_copy / "audit").exists()  # nor is anything kept there
