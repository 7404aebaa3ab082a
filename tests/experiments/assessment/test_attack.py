"""``fedmm attack`` as a user types it."""

import json
import shutil
from unittest.mock import patch

import pandas as pd
import pytest
import yaml

from attacks.membership.scores import SCORES
from attacks.metrics import Estimate
from attacks.poisoning.evaluate import Damage
from experiments.assessment.findings import attack_rows
from experiments.assessment.records import ATTACKS
from experiments.assessment.statements import read_attacks
from experiments.compliance.evidence import examine
from tests.command_line import call, fedmm
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("few_trees")

PRIVATE = {
    **TINY,
    "embedding": {"private": {"dim": 4}},
    "privacy": {**TINY["privacy"], "epsilon": 8.0, "protect": "release", "ctr": {"steps": 4}},
    "federation": {"rounds": 1},
    "ctr": {"baselines": []},
    "aggregation": {"kind": "masked-ckks"},
}


def made(tmp_path_factory, name, settings):
    folder = tmp_path_factory.mktemp(name)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert call("run", folder / "config.yaml", "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return made(tmp_path_factory, "plain", {**TINY, "ctr": {"baselines": ["popularity"]}})


@pytest.fixture(scope="module")
def private_run(tmp_path_factory):
    return made(tmp_path_factory, "private", PRIVATE)


@pytest.fixture
def copied(tmp_path):
    def copy(run):
        shutil.copytree(run, tmp_path / "run")
        return tmp_path / "run"

    return copy


def test_attack_makes_every_attack_and_keeps_its_results(plain_run, copied, capsys):
    run = copied(plain_run)
    status, out, err = fedmm(capsys, "attack", run, "--market", "m0", "--shadows", 4, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found == read_attacks(run)
    assert set(found) == set(ATTACKS)
    assert set(SCORES) < {result["attack"] for result in found["membership"]}
    assert {result["view"]: result["exact_share"]["value"] for result in found["inversion"]} == {
        "server": 0.0,
        "market": 0.0,
        "collusion": 0.0,  # masked
    }
    assert fedmm(capsys, "attack", run, "--attack", "inversion")[0] == 0  # keeps the other attacks' results
    assert read_attacks(run) == found
    table = pd.read_parquet(run / "attacks" / "results.parquet")
    assert len(table) == sum(map(len, found.values()))
    scores = pd.read_parquet(run / "attacks" / "scores" / "m0-user-fedmm.parquet")
    assert {"model", "user", "member", "profile: LiRA", "release: white box"} <= set(scores.columns)
    assert (run / "attacks" / "roc-m0-user-fedmm.svg").read_text().startswith("<?xml")
    assert {row.kind for row in attack_rows(found)} == set(ATTACKS)
    page = (run / "report.html").read_text()  # written again
    for shown in ("LiRA", "how many users of m0 have each code", "accuracy of the others damaged by m0"):
        assert shown in page
    for risk in (
        "singling out in m0, from codes",
        "linkability in m0, from scores",
        "inference in m0, from embeddings",
    ):
        assert risk in page
    assert "beyond users left out, of whom the same finds" in page
    stated = [attack.attack for evidence in examine(run) for attack in evidence.attacks]
    assert sorted(stated) == sorted(row.attack for row in attack_rows(found))  # in a compliance report too
    assert fedmm(capsys, "verify", run)[0] == 0  # every file that attacks leave has its place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "svd"], "choose from fedmm, local-ids, local-dcnv2, local-autoint"),
        (["--market", "mars"], "--market mars"),
        (["--attack", "guess"], "choose from inversion"),
        (["--unit", "household"], "choose from interaction, user"),
    ],
)
def test_a_mistake_gets_one_line(plain_run, arguments, message, capsys):
    status, out, err = fedmm(capsys, "attack", plain_run, *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert not (plain_run / "attacks").exists()


def test_risks_are_the_three_that_regulators_name(plain_run, capsys):
    attacking = patch("experiments.assessment.attack.attack_run", return_value={})
    with attacking as made, patch("experiments.reports.run.write_report"):
        assert fedmm(capsys, "attack", plain_run, "--risks", "--attack", "usage")[0] == 0
    assert made.call_args.kwargs["attacks"] == ["usage", "singling-out", "linkability", "inference"]


def test_poisoning_a_private_run_has_no_defence(private_run, copied, capsys):
    run = copied(private_run)
    damage = Damage("collapse", "sum under masks", *[Estimate(0.5, 0.4, 0.6)] * 2, 3.0, 0.1, 2)
    with patch("experiments.assessment.poisoning.poison_under_masks", return_value=[damage]) as played:
        status, out, _ = fedmm(capsys, "attack", run, "--attack", "poisoning", "--market", "m0")
    assert status == 0
    assert "collapse" in out
    config, _, attacker, noise = played.call_args.args
    assert (config.privacy.noise_seed, attacker) == (None, "m0")
    assert all(multipliers["quantizer"] > 0 for multipliers in noise.values())


def test_an_attack_beyond_its_bound_fails_the_command(private_run, copied, capsys):
    """A guarantee that the models do not have: the metrics claim next to nothing for a model that memorised."""
    run = copied(private_run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["privacy"]["markets"]["m0"]["release"] |= {"epsilon": 1e-6, "delta": 0.0}
    (run / "metrics.json").write_text(json.dumps(metrics))
    found = {
        "membership": [],
        **json.loads(fedmm(capsys, "attack", run, "--attack", "inversion", "--json")[1]),
    }
    assert not found["membership"]
    with patch("attacks.membership.evaluate.multi_query", lambda evidence, member, known: member + 0.0):
        status, out, _ = fedmm(
            capsys, "attack", run, "--attack", "membership", "--market", "m0", "--shadows", 4, "--unit", "user"
        )
    assert status == 1
    assert "BEYOND ε" in out
