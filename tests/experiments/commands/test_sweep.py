import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from experiments.reports.methods import method_tables
from experiments.reports.sweep import open_sweep
from experiments.runs.comparison import compare_runs
from experiments.sweep.cells import cell_status
from experiments.sweep.summary import macro_summary
from experiments.sweep.table import collect
from fedmm_secure.ctr.metrics import seed_interval
from fedmm_secure.executors import processes
from fedmm_secure.executors.worker import start_worker
from fedmm_secure.federation.account import spent_on_same_data
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.events import gaussian_steps
from tests.command_line import call, fedmm
from tests.conftest import TINY
from tests.people import as_files
from tests.processes import dies_once_there_is

SMALLEST = {
    **TINY,
    "federation": {"rounds": 1, "local_epochs": 1},
    "ctr": {"model": "logistic", "refit": False, "baselines": ["popularity"], "max_epochs": 2},
}
GRID = {"blocks": [{"axes": {"privacy.epsilon": [4, None]}}], "seeds": [0, 1]}


def write_grid(folder, **fields):
    # named, for cells run in processes that may have been started before anything was set for this test
    private = {**SMALLEST.get("privacy", {}), "account": str(folder / "privacy.account")}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(as_files(folder / "markets", **{**SMALLEST, "privacy": private})))
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"base": str(folder / "tiny.yaml"), **GRID, **fields}))
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    grid = write_grid(folder, attacks={"names": ["inversion"], "seeds": [0]})
    assert call("sweep", grid, "--out", folder / "out", "--workers", 2, "--quiet") == 0
    return folder / "out"


def test_a_sweep_leaves_runs_a_table_figures_and_a_report(swept):
    assert {path.name for path in swept.iterdir()} >= {
        "sweep.yaml",
        "cells",
        "results.parquet",
        "figures",
        "report.html",
    }
    cells = sorted(path.name for path in (swept / "cells").iterdir() if path.is_dir())
    assert len(cells) == 4
    for name in ("pareto", "pareto-by-market"):
        for suffix in ("svg", "png", "csv"):
            assert (swept / "figures" / f"{name}.{suffix}").stat().st_size > 100
    assert call("verify", swept / "cells" / cells[0]) == 0


def test_the_table_says_what_the_runs_say(swept):
    table = pd.read_parquet(swept / "results.parquet")
    for cell, rows in table.groupby("cell"):
        metrics = json.loads((swept / "cells" / cell / "metrics.json").read_text())
        auc = rows[(rows.metric == "auc") & (rows.model == "fedmm")].set_index("market")["value"]
        assert auc["macro"] == metrics["macro"]["auc"]
        assert auc["m1"] == metrics["markets"]["m1"]["auc"]
        epsilon = rows[(rows.metric == "epsilon") & (rows.view == "market")].set_index("market")["value"]
        said = metrics["privacy"]["markets"]["m1"]["market"]["epsilon"]
        assert epsilon["m1"] == (np.inf if said is None else said)
        assert rows["privacy.epsilon"].isna().all() == (said is None)
        attacked = (rows.metric == "inversion_exact_share").any()
        assert attacked == (rows.seed.iloc[0] == 0)


def test_the_summary_is_the_mean_over_seeds(swept):
    sweep = open_sweep(swept)
    (row,) = [r for r in macro_summary(sweep).to_dict("records") if r["privacy.epsilon"] == "4"]
    table = collect(sweep)
    wanted = (table.metric == "auc") & (table.market == "macro") & (table.model == "fedmm")
    values = table[wanted & (table["privacy.epsilon"] == 4)].value.tolist()
    assert len(values) == 2
    interval = seed_interval(values)
    assert (row["auc"], row["low"], row["high"]) == (interval.mean, interval.low, interval.high)


def test_the_report_says_what_all_cells_together_spend(swept, monkeypatch):
    from experiments.reports.sweep import _spent

    sweep = open_sweep(swept)
    single = max(
        json.loads((sweep.path(cell) / "metrics.json").read_text())["privacy"]["markets"]["m0"]["market"]["epsilon"]
        or 0
        for cell in sweep.cells
    )
    account = swept.parent / "privacy.account"
    known_runs = spent_on_same_data(PrivacyAccount(account), sweep.path(sweep.cells[0]), "m0")
    assert len(known_runs) == 4
    spent = _spent(sweep, account)
    assert set(spent) == {"market"}  # no guarantee is claimed against the release view
    assert spent["market"] == {"runs": 4, "unbounded": 2, "epsilon": math.inf}  # whoever chose among them saw all
    known = [run for run in known_runs if gaussian_steps(run.events["market"]) is not None]
    monkeypatch.setattr("experiments.reports.sweep.spent_on_same_data", lambda *_: known)
    spent = _spent(sweep, account)
    assert (spent["market"]["runs"], spent["market"]["unbounded"]) == (2, 0)
    assert single < spent["market"]["epsilon"] < 2 * single


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    """Two methods at two points, one run each."""
    folder = tmp_path_factory.mktemp("methods")
    negatives = {"data.negatives": ["uniform", "popularity"]}
    blocks = [
        {"method": "codes", "against": "counts", "axes": negatives},
        {"method": "counts", "against": "codes", "set": {"ctr.features": ["counts"]}, "axes": negatives},
        {"method": "by count", "model": "popularity", "set": {"ctr.features": ["counts"]}, "axes": negatives},
    ]
    grid = write_grid(folder, title="Two methods", blocks=blocks, seeds=[0], set={"ctr.model": "logistic"})
    assert call("sweep", grid, "--out", folder / "out", "--quiet") == 0
    return folder / "out"


def test_blocks_with_names_are_methods_of_which_a_page_has_tables(methods):
    sweep = open_sweep(methods)
    tables = method_tables(sweep, collect(sweep))
    assert [table.title for table in tables] == ["data.negatives uniform", "data.negatives popularity"]
    cells = {(cell.axes["method"], cell.axes["data.negatives"]): sweep.path(cell) for cell in sweep.cells}
    for table, negatives in zip(tables, ("uniform", "popularity"), strict=True):
        assert [row.name for row in table.rows] == ["codes", "popularity", "counts", "by count"]
        first, popularity, counts, same = table.rows
        assert (same.auc, same.against) == (popularity.auc, "codes")
        run = cells["codes", negatives]
        metrics = json.loads((run / "metrics.json").read_text())
        assert first.auc == {market: values["auc"] for market, values in metrics["markets"].items()}
        assert first.macro.mean == metrics["macro"]["auc"]
        assert popularity.auc["m1"] == metrics["markets"]["m1"]["baselines"]["popularity"]["auc"]
        sent = metrics["communication"]
        assert first.traffic["up"] == sent["bytes_up"] / sent["rounds"]
        assert (popularity.traffic, first.epsilon["market"], popularity.against) == (None, "∞", "counts")
        assert first.differences["m1"].mean == -counts.differences["m1"].mean
        (compared,) = [
            row for row in compare_runs([run, cells["counts", negatives]]) if row.market == "m2" and row.difference
        ]
        assert counts.differences["m2"].mean == pytest.approx(compared.difference.mean)
        means = [counts.differences[market].mean for market in ("m0", "m1", "m2")]
        assert counts.differences["macro"].mean == pytest.approx(np.mean(means))
    by_count = [row for row in macro_summary(sweep).to_dict("records") if row["method"] == "by count"]
    assert [row["auc"] for row in by_count] == [table.rows[-1].macro.mean for table in tables]
    page = (methods / "report.html").read_text()
    assert "<td>counts</td><td>codes</td>" in page
    assert f"{tables[0].rows[0].macro.mean:.3f}" in page


def test_of_one_seed_nothing_is_certain_whatever_the_difference(methods):
    sweep = open_sweep(methods)
    rows = [row for table in method_tables(sweep, collect(sweep)) for row in table.rows if row.differences]
    assert min(found.p for row in rows for found in row.differences.values()) < 0.05 / 3  # bold, over users alone
    assert [row.certain for row in rows] == [frozenset()] * len(rows)
    assert "<td><b>" not in (methods / "report.html").read_text()


def test_differences_of_methods_are_over_the_trainings_of_all_seeds(tmp_path):
    blocks = [{"method": "codes"}, {"method": "less", "set": {"ctr.features": ["counts"]}}]
    shared = {"ctr.model": "logistic", "ctr.baselines": ["popularity", "svd"]}
    grid = write_grid(tmp_path, title="Two seeds", blocks=blocks, seeds=[0, 1], set=shared)
    assert call("sweep", grid, "--out", tmp_path / "out", "--quiet") == 0
    sweep = open_sweep(tmp_path / "out")
    ((_, popularity, svd, less),) = (table.rows for table in method_tables(sweep, collect(sweep)))
    by_seed = {market: [] for market in ("m0", "m1", "m2")}
    for seed in (0, 1):
        runs = {str(cell.axes["method"]): sweep.path(cell) for cell in sweep.cells if cell.seed == seed}
        for row in compare_runs([runs["codes"], runs["less"]]):
            if row.difference is not None:
                by_seed[row.market].append(row.difference.mean)
    for market, values in by_seed.items():
        found = less.differences[market]
        assert (found.mean, found.trained) == (pytest.approx(np.mean(values)), pytest.approx(stats.sem(values)))
    macro = np.mean(list(by_seed.values()), axis=0)
    assert less.differences["macro"].trained == pytest.approx(stats.sem(macro))
    assert {found.trainings for row in (popularity, svd, less) for found in row.differences.values()} == {2}


def test_tables_go_into_a_page_between_their_marks(methods, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables of: Two methods -->\nold\n<!-- end of tables -->\nafter\n")
    assert call("report", methods, "--into", page) == 0
    text = page.read_text()
    assert text.startswith(
        "before\n<!-- tables of: Two methods -->\n| test AUC, data.negatives uniform | m0 | m1 | m2 |"
    )
    assert text.endswith("\n<!-- end of tables -->\nafter\n")
    assert "old" not in text
    assert "| difference, data.negatives popularity | from |" in text
    assert "| popularity | counts |" in text
    before = page.read_text()
    assert call("report", methods, "--into", page) == 0
    assert page.read_text() == before
    page.write_text("no marks")
    status, _, err = fedmm(capsys, "report", methods, "--into", page)
    assert (status, "has no place for the tables" in err) == (2, True)


def test_a_sweep_without_methods_has_no_tables(swept, tmp_path, capsys):
    assert method_tables(open_sweep(swept), collect(open_sweep(swept))) == []
    status, _, err = fedmm(capsys, "report", swept, "--into", tmp_path / "page.md")
    assert (status, "where the grid's blocks have names" in err) == (2, True)


def test_resuming_a_finished_sweep_runs_nothing(swept, capsys):
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("metrics.json")}
    table = (swept / "results.parquet").read_bytes()
    status, _, err = fedmm(capsys, "sweep", "--resume", "--out", swept)
    assert (status, "done" in err) == (0, False)
    assert before == {path: path.stat().st_mtime_ns for path in swept.rglob("metrics.json")}
    assert (swept / "results.parquet").read_bytes() == table


def test_a_grid_that_grew_keeps_its_cells(swept, tmp_path, capsys):
    swept = shutil.copytree(swept, tmp_path / "copy")
    config = yaml.safe_load((swept / "sweep.yaml").read_text())["grid"]
    config["seeds"] = [0, 1, 2]
    config["blocks"] = [{"axes": {"privacy.epsilon": [None]}}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(config))
    status, out, _ = fedmm(capsys, "sweep", tmp_path / "more.yaml", "--resume", "--out", swept, "--json", "--quiet")
    found = json.loads(out)
    assert (status, found["cells"], found["finished"]) == (0, 3, 3)
    assert pd.read_parquet(swept / "results.parquet")["seed"].nunique() == 3


def test_failed_cells_are_named_kept_and_retried_on_request(tmp_path, capsys):
    data = tmp_path / "data"
    assert call("data", "synthesize", data, "--users", 80, "--items", 40) == 0
    markets = {
        m: {"path": str(data / f"{m}.csv"), "user": "user", "item": "item", "time": "time"} for m in ("m0", "m1", "m2")
    }
    base = {**SMALLEST, "data": {"markets": markets}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        yaml.safe_dump(
            {"base": str(tmp_path / "base.yaml"), "blocks": [{"axes": {"data.min_item_train": [5, 10_000]}}]}
        )
    )
    out = tmp_path / "out"
    status, _, err = fedmm(capsys, "sweep", grid, "--out", out)
    assert status == 1
    assert "min_item_train-10000" in err
    assert "interactions" in err
    assert pd.read_parquet(out / "results.parquet")["data.min_item_train"].unique().tolist() == [5]
    (failed,) = out.glob("cells/*/failure.json")
    when = failed.stat().st_mtime_ns
    assert fedmm(capsys, "sweep", "--resume", "--out", out)[0] == 1
    assert failed.stat().st_mtime_ns == when  # not tried again unasked
    assert fedmm(capsys, "sweep", "--resume", "--retry", "--out", out)[0] == 1
    assert failed.stat().st_mtime_ns > when


@pytest.mark.slow
def test_killed_twice_and_resumed_gives_the_same_table(tmp_path):
    """SIGKILL of the sweep alone: its workers have to end by themselves."""
    grid = write_grid(tmp_path, set={"privacy.noise_seed": 1}, seeds=[0, 1, 2])
    assert call("sweep", grid, "--out", tmp_path / "whole", "--quiet") == 0
    command = [sys.executable, "-c", "from experiments.cli import main; main()", "sweep"]
    out = tmp_path / "killed"
    for kill, arguments in enumerate(([grid, "--out", out], ["--resume", "--out", out])):
        sweep = subprocess.Popen([*command, *map(str, arguments), "--workers", "2"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(list(out.glob("cells/*/cell.json"))) <= 2 * kill and time.monotonic() < deadline:
            time.sleep(0.05)
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        while _alive(out) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(list(out.glob("cells/*/cell.json"))) < 6
    assert call("sweep", "--resume", "--out", out, "--quiet") == 0
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(folder / "results.parquet") for folder in (tmp_path / "whole", out))
    )


def _alive(out):
    """Whether a process of a killed sweep still works in its directory."""
    for path in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(out) in os.readlink(file) for file in path.iterdir()):
                return True
        except OSError:
            continue
    return False


def test_a_sweep_of_failures_alone_still_says_so(tmp_path, capsys):
    grid = write_grid(tmp_path, set={"data.min_item_train": 10_000}, blocks=[{"axes": {"privacy.epsilon": [None]}}])
    status, _, err = fedmm(capsys, "sweep", grid, "--out", tmp_path / "out", "--seed", 0)
    assert status == 1
    assert "Traceback" not in err
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == 0
    assert "no cell has finished" in fedmm(capsys, "report", tmp_path / "out")[2]


def test_a_worker_that_dies_fails_its_cell_alone(tmp_path, capsys, monkeypatch):
    """A process that is killed, out of memory say, cannot tell why; the others go on."""
    sweeper = write_grid(tmp_path, blocks=[{"axes": {"privacy.epsilon": [None]}}], seeds=[0, 1])
    out = tmp_path / "out"
    victim = next(line for line in fedmm(capsys, "sweep", sweeper, "--dry-run")[1].splitlines() if "seed-0" in line)
    config = out / "cells" / victim / "config.yaml"
    dies = partial(dies_once_there_is, config, tmp_path / "dead", start_worker)
    monkeypatch.setattr(processes, "start_worker", dies)
    status, _, err = fedmm(capsys, "sweep", sweeper, "--out", out, "--workers", 1)
    assert status == 1
    assert "its process died with exit code" in err
    assert len(pd.read_parquet(out / "results.parquet")["seed"].unique()) == 1
    assert fedmm(capsys, "sweep", "--resume", "--retry", "--out", out)[0] == 0


def test_sweeps_share_a_cache_that_its_owner_alone_reads(tmp_path):
    baselines = {"ctr.baselines": ["popularity", "local-ids"]}
    grid = write_grid(tmp_path, blocks=[{"axes": {"aggregation.kind": ["plaintext"]}}], seeds=[0], set=baselines)
    shared = tmp_path / "cache"
    for name in ("a", "b"):
        assert call("sweep", grid, "--out", tmp_path / name, "--cache", shared, "--quiet") == 0
        if name == "a":
            kept = {path: path.stat().st_mtime_ns for path in shared.rglob("*.npz")}
    assert kept == {path: path.stat().st_mtime_ns for path in shared.rglob("*.npz")}
    assert len(kept) >= 2 * 3  # a configured model and a baseline of each market
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700
    tables = (pd.read_parquet(tmp_path / name / "results.parquet") for name in ("a", "b"))
    pd.testing.assert_frame_equal(*tables)


def test_a_cell_is_open_until_its_attacks_are_made(swept):
    cell = open_sweep(swept).cells[0]
    path = open_sweep(swept).path(cell)
    assert cell_status(path, cell) == "done"
    kept = (path / "cell.json").read_text()
    (path / "cell.json").write_text(json.dumps({**json.loads(kept), "attacks": {"names": ["usage"]}}))
    try:
        assert cell_status(path, cell) == "open"
    finally:
        (path / "cell.json").write_text(kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which grid?"),
        (["--resume"], "--resume needs --out"),
        (["negatives", "--retry"], "--retry goes with --resume"),
        (["negatves"], "did you mean 'negatives'"),
        (["negatives", "--set", "seed=3"], "takes its seeds from the grid"),
        (["accuracy-vs-epsilon", "--set", "privacy.epsilon=3"], "privacy.epsilon is an axis of the grid"),
        (["accuracy-vs-epsilon", "--set", "privacy={epsilon: 3}"], "is an axis of the grid"),
        (["--resume", "--out", "nowhere"], "is this a sweep?"),
    ],
)
def test_usage_errors_are_one_line(capsys, arguments, message):
    status, _, err = fedmm(capsys, "sweep", *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_cells_are_listed_without_running(capsys):
    status, out, _ = fedmm(capsys, "sweep", "aggregators", "--dry-run", "--seed", 3)
    assert status == 0
    assert [line.rsplit("_", 1)[0] for line in out.splitlines()] == [
        f"kind-{kind}_seed-3" for kind in ("plaintext", "ckks", "masked-ckks")
    ]
