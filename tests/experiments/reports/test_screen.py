"""What a run ends with on the terminal."""

import re
import shlex
import sys

import pytest
from rich.console import Console

from experiments.reports.screen import Finished, next_commands, program, screen, show
from experiments.verification.closing import ClosingSignature
from experiments.verification.run import Examination
from fedmm_secure.config import config_from_data
from privacy.accounting.ledger_check import Finding
from tests.conftest import tiny

GAIN = {"mean": 0.105, "low": 0.088, "high": 0.126}
STATEMENT = {"epsilon": 7.96, "delta": 5e-4, "unit": "user", "basis": "", "earlier_runs": 0}
UNBOUNDED = {**STATEMENT, "epsilon": None}
MEMBERSHIP = {"market": "m0", "target": "fedmm", "attack": "LiRA", "unit": "user", "view": "release", "targets": 8,
              "bound": {"epsilon": 7.96, "delta": 5e-4, "verdict": "within", "detects": 12.0, "targets": 960},
              "auc": {"value": 0.615, "low": 0.6, "high": 0.629}}  # fmt: skip


def statement(epsilon, earlier=0):
    of = {**STATEMENT, "epsilon": epsilon}
    views = dict.fromkeys(("market", "collusion", "consumer", "release"), of)
    together = {**views, "earlier_runs": earlier}
    return {"server": {**of, "epsilon": 0.0}, **views, "profile": UNBOUNDED, "stages": {"quantizer": None},
            "with_earlier_runs": together}  # fmt: skip


def metrics(epsilon=7.96, baselines=("noisy-popularity",), earlier=0):
    others = {name: {"auc": 0.64 + 0.1 * place, "auc_gain_over_it": GAIN} for place, name in enumerate(baselines)}
    market = {"auc": 0.75, "n_users": 1000, "baselines": others}
    macro = {"auc": 0.75, "baselines": {name: {"auc": found["auc"]} for name, found in others.items()}}
    return {"markets": {"m0": market, "a-longer-name": market}, "macro": macro,
            "privacy": {"markets": dict.fromkeys(("m0", "a-longer-name"), statement(epsilon, earlier))}}  # fmt: skip


PRIVATE = tiny(privacy={"epsilon": 8, "protect": "release"}, ctr={"baselines": ["noisy-popularity"]})


def finished(tmp_path, config=PRIVATE, found=None, **more):
    return Finished(
        tmp_path / "run", config, metrics() if found is None else found, **{"examined": Examination({}), **more}
    )


def text(run, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen(run))
    return console.export_text()


def words(run):
    return " ".join(text(run).split())


def test_a_private_run_is_held_against_noisy_counts_and_against_no_dp(tmp_path):
    found = metrics(baselines=("noisy-popularity", "boosted-scores"))
    run = finished(tmp_path, found=found, without_dp=metrics(), attacks={"membership": [MEMBERSHIP]})
    lines = text(run).splitlines()
    assert re.split(r"  +", lines[0].strip()) == [
        "test AUC", "without DP", "ε = 8", "noisy counts", "ε = 8 minus noisy counts, 95 %"
    ]  # fmt: skip
    assert lines[2].split() == ["m0", "0.750", "0.750", "0.640", "+0.105", "[+0.088,", "+0.126]"]
    assert max(map(len, lines)) <= 80
    assert "within; would have detected ε ≥ 12.0 with 95 % power" in words(run)
    assert "no bound: who sees a user's own codes" in words(run)


def test_a_run_that_is_no_model_to_publish_is_held_against_the_best_baseline(tmp_path):
    config = tiny(privacy={"epsilon": 4}, ctr={"baselines": ["popularity", "local-ids"]})
    run = finished(tmp_path, config, metrics(4.0, ("popularity", "local-ids")))
    assert "fedmm minus local-ids, 95 %" in text(run)


def test_a_run_without_a_budget_says_what_that_means(tmp_path):
    run = finished(tmp_path, tiny(), metrics(None, ("popularity", "local-ids")))
    assert "∞" not in text(run)
    assert "no DP nothing bounds what other markets, and whoever gets scores or models, learn of a user" in words(run)
    plaintext = tiny(aggregation={"kind": "plaintext"})
    assert "nothing bounds what the server, other markets" in words(finished(tmp_path, plaintext, metrics(None)))


def test_private_figures_have_nothing_beside_them(tmp_path):
    found = metrics(baselines=())
    found["macro"]["auc"] = found["markets"]["m0"]["auc"] = None
    assert "m0             –" in text(finished(tmp_path, found=found))


def test_noisy_figures_have_their_interval(tmp_path):
    found = metrics()
    found["macro"]["auc_interval"] = {"mean": 0.75, "low": 0.6, "high": 0.9}
    assert re.search(r"mean +0.750 \[0.600, 0.900\] +0.640", text(finished(tmp_path, found=found)))


def test_it_says_whose_signature_was_verified(tmp_path):
    own = dict.fromkeys(("m0", "a-longer-name"), ClosingSignature("run", "f" * 39, own=True))
    run = finished(tmp_path, examined=Examination({}, signatures=own))
    assert "verified every charge, message and model against the plan; ε by two accountants self-signed" in words(run)
    assert "not signed: m0, a-longer-name" in words(finished(tmp_path))


def test_earlier_runs_are_added_up(tmp_path):
    assert "with 2 earlier 7.96: another market" in words(finished(tmp_path, found=metrics(earlier=2)))


def test_what_is_beyond_its_bound_and_what_does_not_verify_is_told(tmp_path):
    beyond = {**MEMBERSHIP, "bound": {**MEMBERSHIP["bound"], "verdict": "BEYOND"}}
    run = finished(
        tmp_path,
        attacks={"membership": [beyond]},
        examined=Examination({"plan": (Finding("ledger/m0.jsonl:3", "edited"),)}),
    )
    assert "BEYOND ε" in words(run)
    assert "NOT verified 1 finding: edited" in words(run)


@pytest.mark.parametrize("width", [40, 80])
def test_it_fits_the_terminal_and_cuts_no_command(tmp_path, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    run = Finished(tmp_path / "a run's folder" / ("x" * 60), PRIVATE, metrics(), Examination({}))
    show(run, next_commands(run, None))
    out = capsys.readouterr().out
    table, rest = out.split("report    ")
    assert all(len(line.rstrip()) <= 80 for line in table.splitlines())
    assert rest.splitlines()[0] == f"a run's folder/{'x' * 60}/report.html"
    assert len(rest.splitlines()) == 3
    own = config_from_data({"data": {"root": tmp_path / "my files", "markets": FILES}}, source="test")
    for command in next_commands(Finished(run.directory, own, metrics(None), Examination({})), None):
        assert shlex.split(shlex.join(command))[2] == f"a run's folder/{'x' * 60}"


FILES = {f"m{n}": {"path": f"{n}.csv", "user": "u", "item": "i"} for n in range(3)}


def test_the_next_commands_name_the_data_and_the_signer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = config_from_data(
        {"data": {"root": tmp_path / "files", "markets": FILES}, "privacy": {"epsilon": 8}}, source="test"
    )
    attack, report = next_commands(finished(tmp_path, own), tmp_path / "keys")
    assert attack == ["fedmm", "attack", "run", "--data", "files", "--sign", "keys"]
    assert report == ["fedmm", "report", "run", "--compliance", "--sign", "keys", "--max-epsilon", "8"]


def test_the_program_is_called_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin" / "fedmm"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(own)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == "bin/fedmm"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert program() == "fedmm"
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == "./fedmm"
