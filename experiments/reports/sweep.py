"""The page and the figures of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.assessment.records import ATTACKS
from experiments.presentation.console import command_text
from experiments.presentation.drawing import write_drawing
from experiments.presentation.page import write_page
from experiments.presentation.steps import track
from experiments.presentation.text import WHO
from experiments.reports.methods import cells_of, method_tables, write_tables
from experiments.reports.run import Figures
from experiments.reports.sweep_figures import sweep_drawings
from experiments.sweep.files import DONE_FILE, FAILURE_FILE
from experiments.sweep.grid import MOST_READ, Cell, expand, planned_cells
from experiments.sweep.scheduler import Sweep, read_grid
from experiments.sweep.summary import accuracy, as_methods, grouped, macro_summary, markets_of, value_text
from experiments.sweep.table import collect
from fedmm_secure.ctr.metrics import seed_interval
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.account import readers_account, spent_on_same_data
from fedmm_secure.guarantee.stages import CLAIMS
from fedmm_secure.storage.layout import CELLS, PAGE_FILE
from fedmm_secure.storage.run_directory import read_environment, read_metrics
from privacy.accounting.events import gaussian_steps
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.errors import InputError

FIGURES = "figures"


def open_sweep(directory: Path) -> Sweep:
    """The cells of a sweep that have ended, from its directory: whatever it asks for, no other is made.

    Raises:
        RunDirectoryError: not a sweep's directory, or more cells than are read.
    """
    asked = read_grid(directory)
    ended = [path.parent.name for name in (DONE_FILE, FAILURE_FILE) for path in directory.glob(f"{CELLS}/*/{name}")]
    there = frozenset(ended)
    if len(there) > MOST_READ:
        raise RunDirectoryError(f"{directory}: {len(there)} cells; at most {MOST_READ} are read for a report")
    cells = expand(asked.grid, asked.overrides, bases=asked.bases, there=there)
    return Sweep(directory, asked.grid, asked.overrides, tuple(cells))


def write_sweep_report(sweep: Sweep, frame: pd.DataFrame | None = None, account: Path | None = None) -> Path:
    """Write ``report.html``, and ``figures/`` as SVG, PNG and CSV.

    Args:
        sweep: the sweep.
        frame: its table, where it is known.
        account: the privacy account that holds its runs; by default the reader's own on this machine.

    Raises:
        RunDirectoryError: not a sweep, or none of its cells has finished.
    """
    directory, finished = sweep.directory, sweep.finished()
    if not finished:
        again = command_text("sweep", "--resume", "--out", directory)
        raise RunDirectoryError(f"{directory}: no cell has finished ({again})")
    frame = collect(sweep) if frame is None else frame
    drawings = sweep_drawings(as_methods(sweep, frame), sweep.grid.axes)
    for drawing in drawings:
        write_drawing(directory / FIGURES, drawing)
    tables = method_tables(sweep, frame)
    write_tables(directory, sweep.grid.title or directory.resolve().name, tables)
    checks = {cell.name: sweep.findings(cell) for cell in track("cells read", finished)}
    return write_page(
        directory / PAGE_FILE,
        "sweep.html.j2",
        title=sweep.grid.title or f"Sweep {directory.resolve().name}",
        name=directory.resolve().name,
        sweep=sweep,
        axes=sweep.grid.axes,
        finished=finished,
        planned=max(planned_cells(sweep.grid), len(sweep.cells)),
        checks=checks,
        findings=[finding for found in checks.values() for finding in found],
        failures=sweep.failures(),
        other_code=sweep.other_code(),
        summary=macro_summary(sweep, frame).to_dict("records"),
        by_market=_by_market(sweep, as_methods(sweep, frame)),
        markets=markets_of(frame),
        methods=tables,
        cells_of=cells_of,
        attacks=_attacks(frame, sweep.grid.axes),
        spent=_spent(sweep, account),
        who=WHO,
        seeded=any(c.config.privacy.epsilon and c.config.privacy.noise_seed is not None for c in finished),
        reports={cell.name: _link(directory, sweep.path(cell) / PAGE_FILE) for cell in sweep.cells},
        drawings=drawings,
        figures=Figures({drawing.name: drawing for drawing in drawings}),
        environment=read_environment(sweep.path(finished[0])),
    )


def _by_market(sweep: Sweep, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean test AUC of each market at each point."""
    axes, rows = sweep.grid.axes, []
    for point, cells in grouped(frame, axes):
        values = {market: accuracy(cells, market=market)["value"].tolist() for market in markets_of(cells)}
        known = {market: seed_interval(found).mean for market, found in values.items() if found}
        rows.append({"point": point, "auc": known})
    return rows


def _attacks(frame: pd.DataFrame, axes: list[str]) -> list[dict[str, Any]]:
    kinds = {f"{name}_{attack.success}": attack for name, attack in ATTACKS.items()}
    found = frame[frame["metric"].isin(kinds)]
    return [
        {
            "point": [value_text(row[axis]) for axis in axes],
            "seed": row["seed"],
            "kind": kinds[row["metric"]].name,
            "attack": f"{kinds[row['metric']].title}, {kinds[row['metric']].measure}",
            "market": "" if pd.isna(row["market"]) else row["market"],
            "target": "" if pd.isna(row["model"]) else f"{row['model']}, {row['unit']}",
            "view": row["view"],
            "success": {"value": row["value"], "low": row["low"], "high": row["high"]},
        }
        for row in found.to_dict("records")
    ]


def _spent(sweep: Sweep, account: Path | None = None) -> dict[str, dict[str, Any]]:
    """By view that some cell claims: how many runs the privacy account holds on the data, how many of them without a
    budget for it, and ε of all, worst market, at the smallest δ that a cell states.

    Whoever chooses among the cells has looked at all of them.
    """
    latest: dict[str, Cell] = {}  # by market: cells need not have the same ones
    deltas: dict[str, float] = {}
    claimed: dict[str, set[str]] = {}
    for cell in sweep.finished():
        if cell.config.privacy.epsilon is not None:
            markets = read_metrics(sweep.path(cell))["privacy"]["markets"]
            latest |= dict.fromkeys(markets, cell)
            for market, values in markets.items():
                deltas[market] = min(values["market"]["delta"], deltas.get(market, 1.0))
                claimed.setdefault(market, set()).update(CLAIMS[cell.config.privacy.protect])
    known_runs = readers_account(account)
    found: dict[str, dict[str, Any]] = {}
    for market, cell in latest.items():
        try:
            spendings = spent_on_same_data(known_runs, sweep.path(cell), market)
        except InputError:
            return {}
        for view in {"market", "release"} & claimed[market]:
            events = [run.observed(view) for run in spendings]
            unbounded = sum(gaussian_steps(event) is None for event in events)
            epsilon = several_runs_epsilon(spendings, view, deltas[market])
            known = found.setdefault(view, {"runs": 0, "unbounded": 0, "epsilon": 0.0})
            most = {"runs": len(events), "unbounded": unbounded, "epsilon": epsilon}
            known |= {name: max(known[name], value) for name, value in most.items()}
    return dict(sorted(found.items()))


def _link(directory: Path, report: Path) -> str | None:
    return os.path.relpath(report, directory) if report.is_file() else None
