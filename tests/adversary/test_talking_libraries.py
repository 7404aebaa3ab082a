"""Libraries that tell their makers how they are used, from runs that "stay on the machine".

``--track mlflow`` looked up MLflow's own collector, under an id of the installation that it kept in the home.
"""

import ast
import os
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.runs import tracking
from experiments.silence import SILENCE, silence

ROOT = Path(__file__).parents[2]
TALKING = {"flwr", "ray", "mlflow", "huggingface_hub", "tensorboard", "wandb"}


@pytest.fixture
def talkative(monkeypatch):
    """A user's machine, where nothing has told the libraries to be silent, and neither CI nor a test hides it."""
    for name in (*SILENCE, "CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def mlflow_client(talkative, tmp_path):
    """Whether MLflow would make a client of its collector now, asked as it asks itself."""
    utils, client = (pytest.importorskip(f"mlflow.telemetry.{name}") for name in ("utils", "client"))
    talkative.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    talkative.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)
    made = []
    talkative.setattr(client, "TelemetryClient", lambda: made.append("a client of the collector"))
    talkative.setattr(client, "_warm_up_databricks_sdk", lambda: None)
    talkative.setattr(client, "_set_telemetry_client", lambda value: None)

    def asked():
        made.clear()
        client.set_telemetry_client()
        return list(made)

    return asked


def test_without_a_word_mlflow_talks(mlflow_client):
    assert mlflow_client() == ["a client of the collector"]


@pytest.mark.parametrize("name", ["mlflow", "mlflow-remote"])
def test_a_tracker_of_this_machine_asks_nobody_else(mlflow_client, talkative, tmp_path, name):
    silence()
    seen = []
    talkative.setattr("mlflow.start_run", lambda **_: seen.append(mlflow_client()) or nullcontext())
    with tracking.TRACKERS[name].follow(tmp_path):
        pass
    assert seen == [[]]


def test_flower_and_ray_read_what_is_set():
    """Their switches are those, and both are off in this process, whoever imported them."""
    flower = pytest.importorskip("flwr.supercore.telemetry")
    assert flower.FLWR_TELEMETRY_ENABLED == "0"
    assert {name: os.environ[name] for name in SILENCE} == SILENCE
    ray = find_spec("ray")
    if ray is None:
        pytest.skip("Ray's own switch: the extra simulation is not installed")
    constants = Path(ray.origin).parent / "_common" / "usage" / "usage_constants.py"
    assert 'USAGE_STATS_ENABLED_ENV_VAR = "RAY_USAGE_STATS_ENABLED"' in constants.read_text()


def test_it_is_said_whatever_the_environment_says(monkeypatch):
    for name in SILENCE:
        monkeypatch.setenv(name, "anything else")
    silence()
    assert {name: os.environ[name] for name in SILENCE} == SILENCE


def imported(path):
    """Names of the packages that a module imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def test_no_library_that_talks_is_imported_outside_of_what_silences_it():
    """``experiments/__init__.py`` comes before every module of it; Flower's app is started by processes of it."""
    found = {
        path.relative_to(ROOT).parts[0]
        for package in ("attacks", "experiments", "fedmm_secure", "privacy")
        for path in (ROOT / package).rglob("*.py")
        if TALKING & set(imported(path))
    }
    assert found == {"experiments"}
    package = (ROOT / "experiments" / "__init__.py").read_text(encoding="utf-8")
    assert [
        node.value.func.id for node in ast.parse(package).body if hasattr(node, "value") and hasattr(node.value, "func")
    ] == ["silence"]
    assert not TALKING & set(imported(Path(import_module("experiments.silence").__file__)))
