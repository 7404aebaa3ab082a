"""Training of CTR models beside other libraries: what is measured without them, and how their interpreter is asked."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from experiments.benchmarks.ctr import elsewhere
from experiments.benchmarks.ctr.measure import ALL, IDS, OURS, READY, DrawnExamples, measure_training
from experiments.benchmarks.ctr.worker import FUXICTR, LIGHTGBM, MissingLibraryError, Worker
from fedmm_secure.ctr.dataset import Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.errors import ConfigError
from tests.command_line import fedmm
from tests.conftest import TINY, tiny

CONFIG = tiny(ctr={"baselines": [], "max_epochs": 2})
OTHERS = os.environ.get("FEDMM_BENCH_PYTHON")
ANSWERS = """#!{python}
import json, sys
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "version":
        there = order["library"] == "FuxiCTR"
        print(json.dumps({{"version": "0.1"}} if there else {{"missing": "no lightgbm"}}), flush=True)
        continue
    assert order["choices"]["batch"] > 0 and order["kind"] == "deepfm", order
    print(json.dumps({{"seconds": 1.0 + order["ready"], "auc": 0.5, "passes": 2}}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path):
    """An interpreter that answers whatever it is asked, and trains nothing."""
    path = tmp_path / "python"
    path.write_text(ANSWERS.format(python=sys.executable))
    path.chmod(0o700)
    return path


def test_ways_are_held_against_the_library_that_is_there(stand_in):
    found = measure_training(CONFIG, "deepfm", stand_in, 2)
    assert (found.versions, found.missing) == ({FUXICTR: "0.1"}, {LIGHTGBM: "no lightgbm"})
    rows = {(row.market, row.model, row.what): row for row in found.rows}
    markets = ["m0", "m1", "m2", ALL]
    networks = {(market, "deepfm", what) for market in markets for what in (OURS, FUXICTR, READY)}
    assert rows.keys() == networks | {(market, "boosted", OURS) for market in markets}
    for market in markets:
        theirs, ready, ours = (rows[market, "deepfm", what] for what in (FUXICTR, READY, OURS))
        assert (theirs.ratio, ready.ratio) == (1.0, 0.5)
        assert ours.ratio == pytest.approx(ours.rate.value / theirs.rate.value)
        assert ours.low <= ours.ratio <= ours.high
        assert ours.ahead.mean == pytest.approx(ours.auc.mean - 0.5)
        assert rows[market, "boosted", OURS].ratio is None
        assert rows[market, "boosted", OURS].auc.mean > 0.5


def test_without_another_interpreter_it_says_what_was_left_out(tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "ctr": {"baselines": [], "max_epochs": 1}}))
    status, out, _ = fedmm(capsys, "bench", "ctr", str(path), "--repeat=2", "--json")
    found = json.loads(out)
    assert (status, found["bench"], set(found["missing"])) == (0, "ctr", {FUXICTR, LIGHTGBM})
    assert {row["what"] for row in found["rows"]} == {OURS}
    status, _, err = fedmm(capsys, "bench", "ctr", str(path), "--model=forest")
    assert (status, "deepfm, dcnv2, autoint, finalmlp" in err) == (2, True)


def test_an_interpreter_without_a_library_is_no_mistake_and_one_that_fails_is(tmp_path):
    with Worker(Path(sys.executable), tmp_path) as worker:
        with pytest.raises(MissingLibraryError, match="fuxictr"):
            worker.version(FUXICTR)
        with pytest.raises(ConfigError, match="FuxiCTR ended without an answer: KeyError"):
            worker.train(FUXICTR, tmp_path, {"do": "nothing"}, 0)
        with pytest.raises(ConfigError, match="ended without an answer"):
            worker.version(FUXICTR)
    with pytest.raises(ConfigError, match="cannot be started: No such file"):
        Worker(tmp_path / "none", tmp_path)


def test_what_is_written_is_what_is_read(tmp_path):
    part = Labelled(Features(np.array([[1, 2], [0, 3]]), np.array([[0.5], [1.5]])), np.array([1.0, 0.0]))
    examples = DrawnExamples(FeatureSchema(IDS, (2, 4), ("age",)), part, part, part)
    examples.write(tmp_path / "m0")
    fields = elsewhere._fields(tmp_path / "m0")
    assert [(name, field["type"]) for name, field in fields.items()] == [
        ("user_id", "categorical"), ("item_id", "categorical"), ("age", "numeric")
    ]  # fmt: skip
    assert [fields[name]["vocab_size"] for name in IDS] == [2, 4]
    with np.load(tmp_path / "m0" / "valid.npz") as found:
        np.testing.assert_array_equal(np.column_stack([found[name] for name in fields]), [[1, 2, 0.5], [0, 3, 1.5]])


def test_batches_that_lie_ready_are_all_examples():
    rows = np.arange(14.0).reshape(7, 2)
    loader = SimpleNamespace(
        dataset=SimpleNamespace(darray=rows),
        batch_size=3,
        collate_fn=lambda array: dict(zip(("a", "label"), torch.from_numpy(array.T), strict=True)),
    )
    ready = elsewhere._Ready(loader, shuffle=True)
    assert len(ready) == 3
    assert sorted(np.concatenate([batch["a"] for batch in ready]).tolist()) == rows[:, 0].tolist()


@pytest.mark.skipif(OTHERS is None, reason="FEDMM_BENCH_PYTHON names no interpreter that has fuxictr")
@pytest.mark.parametrize("kind", ["deepfm", "dcnv2", "autoint", "finalmlp"])
def test_fuxictr_trains_on_them(kind):
    found = measure_training(CONFIG, kind, Path(OTHERS), 2)
    assert FUXICTR in found.versions
    (theirs,) = [row for row in found.rows if (row.market, row.what) == (ALL, FUXICTR)]
    assert theirs.ratio == 1.0
    assert 0.4 < theirs.auc.mean < 1.0
