"""The results of a sweep as one tidy table: a row for each cell, market, model, view and metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.assessment.record import Verdict, verdict_of
from experiments.assessment.records import ATTACKS
from experiments.assessment.statements import Results, read_attacks
from experiments.presentation.text import PERSON
from experiments.sweep.grid import axis_text
from experiments.sweep.scheduler import Sweep
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.guarantee.stages import ALL_VIEWS
from fedmm_secure.storage.files import write_parquet
from fedmm_secure.storage.run_directory import read_metrics

RESULTS_TABLE = "results.parquet"
MACRO = "macro"
ATTACKED = {"market": "market", "target": "model", "unit": "unit"}  # keys of a result, and columns
ACCURACY = ("auc", "logloss", "gauc", "ndcg10")
SCHEMA = {
    "market": "string",
    "model": "string",
    "view": "string",
    "unit": "string",
    "metric": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
}
_Row = dict[str, Any]


def collect(sweep: Sweep) -> pd.DataFrame:
    """Results of all finished cells.

    Columns: ``cell``, the axes, ``seed``; then ``market`` (``macro`` for means over markets, empty for the whole run),
    ``model``, ``view``, ``unit``, ``metric``, ``value``, and ``low`` and ``high`` where there is a 95 % interval. An ε
    without bound is infinite. Times are not part of it: the same cells give the same table.
    """
    rows = []
    for cell in sweep.finished():
        head = {"cell": cell.name, **_axis_columns(cell.axes), "seed": cell.seed}
        rows += [head | row for row in _rows(sweep.path(cell))]
    axes = dict.fromkeys(sweep.grid.axes, "string")
    frame = pd.DataFrame(rows, columns=["cell", *axes, "seed", *SCHEMA])
    numeric = {key: "float64" for key in axes if _is_numeric(frame[key])}
    return frame.astype({"cell": "string", **axes, **numeric, "seed": "int64", **SCHEMA})


def write_table(sweep: Sweep) -> pd.DataFrame:
    """Write ``results.parquet`` of a sweep; returns its content."""
    frame = collect(sweep)
    write_parquet(sweep.directory / RESULTS_TABLE, frame, compression="zstd")
    return frame


def _axis_columns(axes: Mapping[str, Any]) -> _Row:
    return {key: value if value is None or _is_number(value) else axis_text(value) for key, value in axes.items()}


def _is_numeric(column: pd.Series) -> bool:
    known = column.dropna()
    return len(known) > 0 and all(_is_number(value) for value in known)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(run: Path) -> Iterator[_Row]:
    metrics = read_metrics(run)
    for market, found in (*metrics["markets"].items(), (MACRO, metrics["macro"])):
        for model, values in ((CONFIGURED, found), *found["baselines"].items()):
            for metric in ACCURACY:
                if values.get(metric) is not None:  # noisy figures are AUC and LogLoss alone, and may drown
                    yield {"market": market, "model": model, "metric": metric, "value": values[metric]}
            for metric, value in (values.get("communication") or {}).items():
                yield {"market": market, "model": model, "metric": metric, "value": value}
        further = {f"pool_{key}": value for key, value in (found.get("ranking") or {}).items()}
        further |= {f"auc_of_{n}_rows": value for n, value in (found.get("short_histories") or {}).items()}
        for metric, value in further.items():
            if value is not None:
                yield {"market": market, "model": CONFIGURED, "metric": metric, "value": value}
        for metric, value in found.get("quantizer", {}).items():
            yield {"market": market, "model": CONFIGURED, "metric": metric, "value": value}
    for market, views in metrics["privacy"]["markets"].items():
        for view in ALL_VIEWS:
            guarantee = views[view]
            epsilon = math.inf if guarantee["epsilon"] is None else guarantee["epsilon"]
            about = {"market": market, "view": view, "unit": guarantee["unit"]}
            yield {**about, "metric": "epsilon", "value": epsilon}
            yield {**about, "metric": "delta", "value": guarantee["delta"]}
    persons = metrics["privacy"].get("across_markets", {"epsilon": {}})
    for view, epsilon in persons["epsilon"].items():
        about = {"market": MACRO, "view": view, "unit": PERSON}
        yield {**about, "metric": "epsilon", "value": math.inf if epsilon is None else epsilon}
    for metric in ("bytes_up", "bytes_down", "rounds"):
        yield {"metric": metric, "value": metrics["communication"][metric]}
    yield from attack_metrics(read_attacks(run))


def attack_metrics(found: Results) -> Iterator[_Row]:
    """The strongest attack of each kind on each market, model, unit and view: what the table has columns for.

    ``<attack>_beyond``: how many of all attacks there did better than the view's guarantee admits.
    """
    for name, attack in ATTACKS.items():
        results = found.get(name, [])
        for strongest in attack.strongest(results, (*ATTACKED, "view")):
            about = {column: strongest.get(key) for key, column in ATTACKED.items()} | {"view": strongest["view"]}
            for metric in filter(None, (attack.success, attack.tpr)):
                yield {**about, "metric": f"{name}_{metric}", **strongest[metric]}
            keys = (*ATTACKED, "view")
            same = [result for result in results if all(result.get(key) == strongest.get(key) for key in keys)]
            verdicts = [verdict for result in same if (verdict := verdict_of(result)) is not None]
            if verdicts:
                yield {**about, "metric": f"{name}_beyond", "value": float(verdicts.count(Verdict.BEYOND))}
