"""The quickstart; its whole flow runs, on smaller markets, in ``tests/test_docs_commands.py``."""

import json
import shutil

import pytest

from experiments.first_run.quickstart import plain, run_quickstart
from experiments.runs.configuration import QUICKSTART, resolve
from fedmm_secure.config import config_from_data
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.storage.run_directory import create
from tests.command_line import fedmm

OWN = {"markets": {f"m{n}": {"path": f"m{n}.csv", "user": "user", "item": "item"} for n in range(3)}}


def test_the_run_beside_it_has_the_same_rows_and_federation_and_no_budget():
    private = resolve(QUICKSTART, ["federation.rounds=7", "privacy.epsilon=2"])
    beside = plain(private)
    assert (beside.data, beside.federation, beside.aggregation) == (
        private.data,
        private.federation,
        private.aggregation,
    )
    assert (private.privacy.epsilon, private.privacy.protect) == (2.0, "release")
    assert private.aggregation.kind == "masked-ckks"
    assert beside.privacy.epsilon is None
    assert beside == config_from_data(json.loads(beside.model_dump_json()), source="test")  # a whole configuration


def test_rows_of_people_are_never_run_without_dp_beside(tmp_path):
    with pytest.raises(ConfigError, match="name a configuration to run others"):
        run_quickstart(tmp_path / "run", config_from_data({"data": OWN}, source="test"), print, shadows=print)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_named_before_anything_runs(tmp_path):
    (tmp_path / "run-without-dp").mkdir()
    with pytest.raises(RunDirectoryError, match="run-without-dp: is there already"):
        run_quickstart(tmp_path / "run", resolve(QUICKSTART), print, shadows=print)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """A quickstart that was stopped in its attack, what ran of it since, and what its screen then shows."""
    ran, shown = [], []

    def execute(directory, config, *_, resume, quickstart=False, **__):
        if not resume:
            create(directory, config, quickstart=quickstart)
        ran.append((directory.name, resume, config.privacy.epsilon))
        return {"of": directory.name}

    def attack_run(*_, **__):
        raise KeyboardInterrupt

    for room in ("first_run.quickstart", "runs.execution"):
        monkeypatch.setattr(f"experiments.{room}.execute", execute)
    for room in ("first_run.quickstart", "verification.run"):
        monkeypatch.setattr(f"experiments.{room}.examine_run", lambda _: None)
    monkeypatch.setattr("experiments.reports.run.write_report", lambda *_, **__: None)
    monkeypatch.setattr("experiments.reports.screen.show", lambda finished, _: shown.append(finished))
    monkeypatch.setattr("experiments.first_run.quickstart.attack_run", attack_run)
    status, _, err = fedmm(capsys, "run", "--out", tmp_path / "q", "--quiet")
    assert (status, "fedmm run --resume --out" in err) == (130, True)
    monkeypatch.setattr("experiments.first_run.quickstart.attack_run", lambda *_, **__: {"membership": []})
    ran.clear()
    return tmp_path / "q", ran, shown


def test_a_stopped_quickstart_goes_on_as_one(stopped, capsys):
    directory, ran, shown = stopped
    assert fedmm(capsys, "run", "--resume", "--out", directory, "--quiet")[0] == 0
    assert ran == [("q", True, 8.0), ("q-without-dp", True, None)]
    assert (shown[0].without_dp, shown[0].attacks) == ({"of": "q-without-dp"}, {"membership": []})


def test_a_quickstart_that_was_stopped_before_the_run_beside_makes_it(stopped, capsys):
    directory, ran, _ = stopped
    shutil.rmtree(directory.with_name("q-without-dp"))
    assert fedmm(capsys, "run", "--resume", "--out", directory, "--quiet")[0] == 0
    assert ran == [("q", True, 8.0), ("q-without-dp", False, None)]


def test_another_run_in_the_place_of_the_one_beside_is_not_taken_for_it(stopped, capsys):
    directory, ran, _ = stopped
    beside = directory.with_name("q-without-dp")
    shutil.rmtree(beside)
    create(beside, resolve(QUICKSTART))
    status, _, err = fedmm(capsys, "run", "--resume", "--out", directory, "--quiet")
    assert (status, ran) == (2, [])
    assert "q-without-dp: is not the run without DP of this quickstart" in err


def test_a_run_of_the_named_configuration_goes_on_as_what_it_was(stopped, tmp_path, capsys):
    _, ran, shown = stopped
    assert fedmm(capsys, "run", QUICKSTART, "--out", tmp_path / "x", "--quiet")[0] == 0
    assert fedmm(capsys, "run", "--resume", "--out", tmp_path / "x", "--quiet")[0] == 0
    assert [name for name, *_ in ran] == ["x", "x"]
    assert shown[1].without_dp is None


@pytest.mark.slow
def test_the_private_model_beats_noisy_counts_in_every_market_beyond_the_interval(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        status, out, err = fedmm(capsys, "run", "--out", name, "--quiet")
        assert (status, err) == (0, "")
        assert len(out.splitlines()) <= 25
        assert max(map(len, out.splitlines())) <= 80
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        for market, found in metrics["markets"].items():
            for baseline in ("noisy-popularity", "noisy-recent-popularity"):
                assert found["baselines"][baseline]["auc_gain_over_it"]["low"] > 0, (name, market, baseline)
            together = metrics["privacy"]["markets"][market]["with_earlier_runs"]
            assert together["earlier_runs"] == 0  # the second says what the first said
            assert metrics["privacy"]["markets"][market]["release"]["epsilon"] <= 8
        assert fedmm(capsys, "verify", name)[0] == 0
