import json
import math
from contextlib import ExitStack

import pytest
import yaml

from experiments.runs import tracking
from fedmm_secure import FedMM
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError
from tests.command_line import call, fedmm
from tests.conftest import TINY, tiny

pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def test_tensorboard_gets_the_curves_of_the_log(config_file, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert call("run", config_file, "--out", out, "--quiet", "--track", "tensorboard") == 0
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rounds = [event for event in logged if event["event"] == "round"]
    losses = found.Scalars("seed-0/m1/loss")
    assert [point.step for point in losses] == [1, 2, 3]
    assert [point.value for point in losses] == pytest.approx([r["markets"]["m1"]["loss"] for r in rounds], rel=1e-5)
    metrics = json.loads((out / "metrics.json").read_text())
    assert found.Scalars("macro/auc")[0].value == pytest.approx(metrics["macro"]["auc"])
    assert "m0/epsilon-market" not in found.Tags()["scalars"]  # no guarantee, no number


EVENTS = [
    ("started", {"config": {"quantizer": {"global_codes": 8}, "seed": [0]}}),
    ("stage", {"stage": "quantizer"}),
    ("round", {"seed": 0, "round": 1, "loss": 0.5, "epsilon": None, "markets": {"m0": {"loss": math.inf, "snr": 2.0}}}),
    ("round", {"seed": 0, "round": 2, "loss": 0.25, "epsilon": 3.5, "markets": {"m0": {"loss": 0.75, "snr": None}}}),
    (
        "finished",
        {
            "macro": {"auc": 0.75, "baselines": {"popularity": {"auc": None}}},
            "markets": {"m0": {"auc": 0.75, "logloss": 0.5}},
            "privacy": {"markets": {"m0": {"market": {"epsilon": 3.5}, "release": {"epsilon": None}}}},
        },
    ),
]


def in_tensorboard(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory / "tensorboard")).Reload()
    assert "quantizer.global_codes: 8" in str(found.Tensors("configuration/text_summary")[0].tensor_proto)
    return {(tag, point.value, point.step) for tag in found.Tags()["scalars"] for point in found.Scalars(tag)}


def in_mlflow(directory):
    import mlflow

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert (run.info.run_name, run.info.status) == (directory.name, "FINISHED")
    assert run.data.params["quantizer.global_codes"] == "8"
    history = (client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
    return {(point.key, point.value, point.step) for points in history for point in points}


READERS = {"mlflow": in_mlflow, "tensorboard": in_tensorboard}
ONE_NAME_EACH = sorted({tracker.follow: name for name, tracker in reversed(tracking.TRACKERS.items())}.values())


def test_every_tracker_is_read_back():
    assert READERS.keys() == set(ONE_NAME_EACH)


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_keeps_the_configuration_and_every_number_that_is_one(name, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    run = tmp_path / "run"
    with ExitStack() as stack:
        (listener,) = tracking.open_trackers([name, name], run, stack)
        for event, fields in EVENTS:
            listener(event, fields)
    assert READERS[name](run) == {
        ("seed-0/loss", 0.5, 1),
        ("seed-0/m0/snr", 2.0, 1),
        ("seed-0/loss", 0.25, 2),
        ("seed-0/epsilon", 3.5, 2),
        ("seed-0/m0/loss", 0.75, 2),
        ("macro/auc", 0.75, 0),
        ("m0/auc", 0.75, 0),
        ("m0/logloss", 0.5, 0),
        ("m0/epsilon-market", 3.5, 0),
    }


def test_callbacks_of_the_api_are_told_in_order(tmp_path):
    events = []
    sections = {key: value for key, value in TINY.items() if key != "data"}
    markets = {market.name: market for market in load_markets(tiny().data)}
    model = FedMM(**sections).fit(
        markets, tmp_path / "run", callbacks=[lambda event, fields: events.append((event, fields))]
    )
    names = [name for name, _ in events]
    assert names[0] == "started"
    assert names[-1] == "finished"
    assert names.count("round") == 3
    assert events[-1][1] == model.metrics_


def test_a_tracker_that_is_unknown_or_missing_is_named_before_anything_is_written(
    config_file, tmp_path, capsys, monkeypatch
):
    status, _, err = fedmm(capsys, "run", config_file, "--out", tmp_path / "a", "--track", "wandb")
    assert (status, "choose from mlflow, mlflow-remote, tensorboard" in err) == (2, True)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    status, _, err = fedmm(capsys, "run", config_file, "--out", tmp_path / "a", "--track", "mlflow")
    assert (status, "the extra tracking" in err) == (2, True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "address", ["https://who:secret@elsewhere.example:443/x", "postgresql://db.example/m", "databricks"]
)
def test_private_losses_leave_the_machine_only_where_the_owner_says_so(address, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(None)
    with pytest.raises(ConfigError, match="mlflow-remote") as refused:
        tracking.check_trackers(["tensorboard", "mlflow"])
    assert "secret" not in str(refused.value)
    tracking.check_trackers(["mlflow-remote"])


@pytest.mark.parametrize("address", ["sqlite:///mlflow.db", "file:///tmp/mlruns", "mlruns"])
def test_files_of_this_machine_need_no_yes(address, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(None)
    tracking.check_trackers(["mlflow"])
