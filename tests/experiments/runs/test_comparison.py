import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from sklearn.metrics import roc_auc_score

from experiments.runs.comparison import compare_runs
from tests.command_line import call, fedmm
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("few_trees")

WITH_IDS = {**TINY["ctr"], "baselines": ["popularity", "local-ids"]}
BRIEF = {**TINY, "seed": [0, 1], "ctr": WITH_IDS, "federation": {"rounds": 1}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(BRIEF))
    made = {
        "first": [],
        "more-codes": ["quantizer.global_codes=16"],
        "others": ["data.candidate_seed=1", "ctr.baselines=[popularity]"],
        "single": ["seed=3", "ctr.baselines=[popularity]"],
    }
    for name, changes in made.items():
        sets = [part for change in changes for part in ("--set", change)]
        assert call("run", folder / "tiny.yaml", "--out", folder / name, "--quiet", *sets) == 0
    return folder


def auc(run, market, column):
    frame = pd.read_parquet(run / "predictions" / f"{market}.parquet")
    return roc_auc_score(frame.label, frame[column])


def test_a_paired_difference_is_that_of_the_predictions(runs):
    found = compare_runs([runs / "first", runs / "more-codes"])
    row = next(row for row in found if (row.run, row.market) == ("more-codes", "m1"))
    first, more = (
        np.mean([auc(runs / name, "m1", f"fedmm/{seed}") for seed in (0, 1)]) for name in ("first", "more-codes")
    )
    assert row.paired
    assert row.difference.mean == pytest.approx(more - first, abs=1e-12)
    assert row.difference.low <= row.difference.mean <= row.difference.high
    assert row.auc == pytest.approx(more)


def test_a_run_does_not_differ_from_itself(runs):
    found = compare_runs([runs / "first", runs / "first"])
    assert [row.difference.mean for row in found if row.difference is not None] == [0.0] * 3


def test_other_candidates_are_not_paired(runs):
    found = compare_runs([runs / "first", runs / "others"])
    row = next(row for row in found if (row.run, row.market) == ("others", "m0"))
    values = [[auc(runs / name, "m0", f"fedmm/{seed}") for seed in (0, 1)] for name in ("others", "first")]
    expected = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert not row.paired
    assert (row.difference.low, row.difference.high) == pytest.approx((expected.low, expected.high))


def test_runs_of_different_numbers_of_seeds_compare(runs):
    (row,) = [
        row for row in compare_runs([runs / "first", runs / "single"]) if (row.run, row.market) == ("single", "m0")
    ]
    first = np.mean([auc(runs / "first", "m0", f"fedmm/{seed}") for seed in (0, 1)])
    assert row.paired
    assert row.difference.mean == pytest.approx(auc(runs / "single", "m0", "fedmm/0") - first)


def test_the_command_prints_and_writes(runs, tmp_path, capsys):
    out = tmp_path / "out"
    status, text, _ = fedmm(capsys, "compare", runs / "first", runs / "more-codes", runs / "others", "--out", out)
    assert status == 0
    assert "not paired" in text
    assert {path.name for path in out.iterdir()} == {
        "comparison.parquet", "comparison.json", "differences.svg", "differences.png", "differences.csv",
    }  # fmt: skip
    table = pd.read_parquet(out / "comparison.parquet")
    assert len(table) == 9
    assert table["difference"].isna().sum() == 3
    status, text, _ = fedmm(capsys, "compare", runs / "first", runs / "more-codes", "--model", "local-ids", "--json")
    rows = json.loads(text)
    assert all(row["difference"] in (None, 0.0) for row in rows)  # ids know nothing of codes


def test_runs_are_listed(runs, tmp_path, capsys):
    status, text, _ = fedmm(capsys, "runs", runs, "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert status == 0
    assert rows.keys() == {"first", "more-codes", "others", "single"}
    assert rows["first"]["auc"] == json.loads((runs / "first" / "metrics.json").read_text())["macro"]["auc"]
    assert rows["single"]["seeds"] == 1
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((runs / "first" / "config.yaml").read_text())
    status, text, _ = fedmm(capsys, "runs", tmp_path)
    assert (status, "unfinished" in text) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{first}"], "at least two runs"),
        (["compare", "{first}", "nowhere"], "nowhere: no metrics.json"),
        (["compare", "{first}", "{first}", "--model", "dcn"], "has fedmm, local-ids, popularity"),
        (["runs", "nowhere"], "no such folder"),
    ],
)
def test_mistakes_are_named(runs, capsys, arguments, message):
    status, _, err = fedmm(capsys, *(part.replace("{first}", str(runs / "first")) for part in arguments))
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
