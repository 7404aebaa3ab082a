import itertools
import json
import random
import signal
import time

import pytest

from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from privacy.accounting.ledger import read_ledger
from tests.conftest import alone, tiny
from tests.faults import LEAST
from tests.processes import exit_status, kill_when, start
from tests.smaller import fewer_trees

pytestmark = pytest.mark.usefixtures("few_trees")

NEURAL = tiny(ctr={"baselines": ["popularity", "local-ids"]})  # trees are what a market's own model is without a word


def run(directory, config):
    return run_pipeline(alone(config, directory), prepare_markets(config.data), directory)


def comparable(metrics):
    """Everything but what stages took, and what is keyed by the account that a run is entered in."""
    markets = {
        name: {key: value for key, value in values.items() if key != "candidates"}
        for name, values in metrics["markets"].items()
    }
    return {key: value for key, value in metrics.items() if key not in ("seconds", "memory")} | {"markets": markets}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    return run(directory, NEURAL), directory


def test_the_run_directory_keeps_the_contract(finished):
    metrics, directory = finished
    for name in ("m0", "m1", "m2"):
        assert (directory / "ledger" / f"{name}.jsonl").is_file()
        assert (directory / "codes" / f"{name}.parquet").is_file()
        assert (directory / "models" / name / "quantizer-0.pt").is_file()
        values = metrics["markets"][name]
        assert {"auc", "logloss", "gauc", "n_test", "n_users", "n_items", "baselines"} <= set(values)
        assert 0.5 < values["auc"] < 1
        views = metrics["privacy"]["markets"][name]
        assert set(views) == {
            "server",
            "market",
            "collusion",
            "consumer",
            "release",
            "profile",
            "stages",
            "with_earlier_runs",
            "seeded",
        }
    assert metrics["communication"]["bytes_up"] > 0
    assert json.loads((directory / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_without_dp_every_view_but_the_ciphertexts_reads_unbounded(finished):
    views = finished[0]["privacy"]["markets"]["m0"]
    for view in ("market", "collusion", "consumer", "release", "profile"):
        assert views[view]["epsilon"] is None
    assert views["server"]["epsilon"] == 0.0
    assert "computational" in views["server"]["basis"]


def test_with_plaintext_the_server_reads_unbounded_and_metrics_are_the_same(finished, tmp_path):
    plain = run(
        tmp_path / "run", NEURAL.model_copy(update={"aggregation": tiny(aggregation={"kind": "plaintext"}).aggregation})
    )
    assert plain["privacy"]["markets"]["m0"]["server"]["epsilon"] is None
    assert comparable(plain)["markets"] == comparable(finished[0])["markets"]
    assert plain["macro"] == finished[0]["macro"]


def test_the_same_configuration_gives_the_same_metrics(finished, tmp_path):
    assert comparable(run(tmp_path / "run", NEURAL)) == comparable(finished[0])


def test_dp_sgd_is_reported_as_what_it_is(tmp_path):
    config = tiny(embedding={"kind": "svd"}, privacy={"epsilon": 3.0, "noise_seed": 1}, seed=[0, 1])
    metrics = run(tmp_path / "run", config)
    for name, views in metrics["privacy"]["markets"].items():
        # with embeddings fitted on raw rows there is no user-level guarantee
        assert views["market"]["epsilon"] is None
        alone = views["stages"]["quantizer"]
        assert 2.8 < alone["epsilon"] <= 3.0  # over both repetitions
        assert alone["basis"] == "conditional on the outputs of: embedding"
        ledger = read_ledger(tmp_path / "run" / "ledger" / f"{name}.jsonl")
        assert all(charge.entry.seeded for charge in ledger.charges)
        assert len([charge for charge in ledger.charges if charge.entry.stage.startswith("quantizer")]) == 6


OPTIONS = {
    "lightgcn": {"embedding": {"kind": "lightgcn", "epochs": 5}},
    "global date": {"data": {"split": "global-date"}},
    "like": {"data": {"label": "like", "min_item_train": 3}},
    "popularity negatives": {"data": {"negatives": "popularity"}},
    "deepfm on ids and item codes": {
        "ctr": {"model": "deepfm", "training": "in-sample", "features": ["user_id", "item_id", "item_codes"]}
    },
    "dcnv2, random rows held out": {"ctr": {"model": "dcnv2", "cross_fit": {"last": 0, "random": 2}}},
    "logistic, no refit": {"ctr": {"model": "logistic", "refit": False}},
    "entropy, tuning": {"quantizer": {"entropy": 0.05},
                        "ctr": {"model": "logistic", "tune": True, "baselines": ["local-codes"]}},
    "free latents": {"quantizer": {"normalise_latent": False}},
    "more codes than items": {"quantizer": {"global_codes": 200, "local_codes": 100}},
    "two markets, forced": {"data": {"synthetic": {"markets": 2, "users": 80, "items": 40}},
                            "federation": {"allow_small_cohort": True}, "aggregation": {"kind": "ckks"}},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_runs_to_sensible_metrics(tmp_path, name):
    metrics = run(tmp_path / "run", tiny(**OPTIONS[name]))
    for values in metrics["markets"].values():
        assert 0.3 < values["auc"] <= 1
        assert 0 < values["logloss"] < 2
        assert values["quantizer"]["global_used"] >= 2
    ledger = read_ledger(tmp_path / "run" / "ledger" / "m0.jsonl")
    remarks = {charge.entry.remark for charge in ledger.charges}
    assert remarks == {None} if name != "two markets, forced" else "cohort of 2, forced" in remarks.pop()


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("protect", ["federation", "release"])
def test_seeded_noise_is_the_same_wherever_a_run_was_interrupted(tmp_path, protect):
    """It would not be if noise began anew with each process: rounds would get that of the first once more."""
    config = tiny(privacy={"epsilon": 8, "protect": protect, "noise_seed": 1}, ctr={"baselines": ["popularity"]})
    whole = run(tmp_path / "whole" / "run", config)

    def stop(event, fields):
        if event == "round" and fields["round"] == 2:
            raise InterruptedRunError

    directory = tmp_path / "interrupted" / "run"
    with pytest.raises(InterruptedRunError):
        run_pipeline(alone(config, directory), prepare_markets(config.data), directory, stop)
    assert comparable(run(directory, config)) == comparable(whole)


def test_noise_from_entropy_is_fresh_after_an_interruption(tmp_path):
    sums, config = [], tiny(privacy={"epsilon": 4.0, "protect": "federation"}, ctr=LEAST)
    for name in ("a", "b"):
        run(tmp_path / name / "run", config)
        sums.append([path.read_bytes() for path in sorted((tmp_path / name / "run").rglob("*-sum-*.bin"))])
    assert len(sums[0]) == 3
    assert all(one != other for one, other in zip(*sums, strict=True))


def go_on(directory):
    config = run_directory.read_config(directory)
    with fewer_trees():  # as in this process
        run_pipeline(alone(config, directory), prepare_markets(config.data), directory)


def sent_without_a_line(directory):
    """Updates in the transcript that no ledger holds."""
    index = directory / "transcript" / "index.jsonl"
    if not index.exists():
        return []
    known = set()
    for ledger in (directory / "ledger").glob("*.jsonl"):
        lines = [json.loads(line) for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]
        known |= {line["body"]["digest"] for line in lines if line["kind"] == "seal"}
    records = [json.loads(line) for line in index.read_text().splitlines(keepends=True) if line.endswith("\n")]
    outgoing = ("update", "publication")
    return [record for record in records if record["kind"] in outgoing and record["sha256"] not in known]


MOMENTS = ["ledger/m0.jsonl", "transcript/quantizer/0/0000-update-m1.bin", "state/quantizer/0/m2.pt",
           "transcript/quantizer/0/0001-aggregate-server.bin", "models/m0/quantizer-0.pt", "state/ctr/m1/fedmm-0.npz",
           "predictions/m0.parquet"]  # fmt: skip


def killed_at_each(directory, moments):
    """A run that is killed at one moment after the other, each time by a process that went on from the last."""
    for moment in moments:
        kill_when(start(go_on, directory), (directory / moment).exists)
        assert (directory / moment).exists()
        yield moment


@pytest.mark.parametrize("turn", range(2))  # every other moment: what two processes in a row write is in between
def test_killed_and_resumed_gives_the_same_metrics(finished, tmp_path, turn):
    directory = tmp_path / "run"
    run_directory.create(directory, NEURAL)
    for moment in killed_at_each(directory, MOMENTS[turn::2]):
        assert not (directory / "metrics.json").exists() or moment == MOMENTS[-1]
        assert sent_without_a_line(directory) == []
    assert exit_status(start(go_on, directory)) == 0
    assert comparable(json.loads((directory / "metrics.json").read_text())) == comparable(
        json.loads(json.dumps(finished[0]))
    )


PRIVATE_MOMENTS = ["ledger/m0.jsonl", "state/private/m0/counts.npz", "transcript/embedding/0000-publication-m1.bin",
                   "state/quantizer/0/m2.pt", "transcript/item-codes/0/0000-publication-m0.bin",
                   "models/m1/ctr-0.pt", "transcript/ctr/0/0000-publication-m0.bin"]  # fmt: skip


def released_config(**more):
    private = {"epsilon": 4.0, "protect": "release", "ctr": {"steps": 5}}
    return tiny(privacy={**private, **more}, embedding={"private": {"dim": 4}}, ctr={"baselines": ["popularity"]})


@pytest.mark.parametrize("turn", range(2))
def test_killed_under_protect_release_nothing_is_out_that_the_ledger_lacks_and_nothing_is_charged_twice(tmp_path, turn):
    directory = tmp_path / "run"
    run_directory.create(directory, released_config())
    for _ in killed_at_each(directory, PRIVATE_MOMENTS[turn::2]):
        assert sent_without_a_line(directory) == []
    assert exit_status(start(go_on, directory)) == 0
    assert sent_without_a_line(directory) == []
    metrics = json.loads((directory / "metrics.json").read_text())
    for name, views in metrics["privacy"]["markets"].items():
        assert views["release"]["epsilon"] <= 4.0
        ledger = read_ledger(directory / "ledger" / f"{name}.jsonl")
        charged = [charge.entry.identity for charge in ledger.charges]
        assert len(charged) == len(set(charged)) == len(ledger.seals)


@pytest.mark.slow
@pytest.mark.parametrize("protect", ["federation", "release"])
def test_killed_at_many_random_moments_no_release_is_missing_from_the_ledger(tmp_path, protect):
    """Fifty kills for each protection level, one after the other; every run is finished in the end."""
    chooser, kills, runs = random.Random(0), 0, itertools.count()
    while kills < 50:
        directory = tmp_path / str(next(runs))
        run_directory.create(directory, released_config(protect=protect))
        for _ in range(5):
            process, until = start(go_on, directory), time.monotonic() + chooser.uniform(0.1, 3.0)
            kill_when(process, lambda until=until: time.monotonic() > until)
            kills += process.exitcode == -signal.SIGKILL
            assert sent_without_a_line(directory) == []
        assert exit_status(start(go_on, directory)) == 0
        assert sent_without_a_line(directory) == []
