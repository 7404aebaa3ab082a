"""``fedmm sweep``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.interruption import resumable
from experiments.commands.options import FINDING, JsonFlag, Quiet, SetOption
from experiments.commands.progress import SweepProgress
from experiments.presentation.console import command_text, one_line, say, say_json, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import figure_text
from experiments.sweep.grid import SweepGrid, expand, load_grid, shipped_grids
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.layout import CELLS

if TYPE_CHECKING:
    import pandas as pd

    from experiments.sweep.scheduler import Sweep

SWEEP_HELP = (
    "Run a grid of configurations and seeds, on several processes; results are one table, figures and a report.\n\n"
    f"Shipped grids: {', '.join(shipped_grids())}. Exit status 1 if a cell failed or does not verify.\n\n"
    "Example: fedmm sweep accuracy-vs-epsilon --out runs/epsilon; killed, it goes on with: fedmm sweep --resume --out "
    "runs/epsilon"
)


def sweep(
    grid_argument: Annotated[
        str | None, typer.Argument(metavar="[GRID]", help="Shipped grid or YAML file; with --resume, that of --out.")
    ] = None,
    overrides: SetOption = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Instead of the grid's seeds; repeat.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory; default: runs/<time>-<grid>.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; default: one a core.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="HOST:PORT",
            help="Run cells on generated markets on this Ray cluster, of which this machine is a node. Cells that read "
            "files run here: so does the privacy account of their rows.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of stages that cells share; default: <out>/cache. Private values.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out; finished cells are kept.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="With --resume: run cells that failed again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and run nothing.")] = False,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm sweep``."""
    if retry and not resume:
        raise ConfigError("--retry goes with --resume --out DIR")
    grid, changes = _asked(grid_argument, overrides or [], seeds, out, resume)
    directory = out or run_directory.default_directory(Path(grid_argument or "sweep").stem)
    cells = tuple(expand(grid, changes))
    if dry_run:
        say("\n".join(cell.name for cell in cells))
        return
    if not resume and directory.exists() and any(directory.iterdir()):
        raise RunDirectoryError(f"{directory}: not empty; use --resume to go on with it, or another --out")
    from experiments.runs.cluster import Cluster
    from experiments.sweep.scheduler import Sweep, run_cells, write_grid  # what trains, and what attacks
    from experiments.sweep.table import write_table

    elsewhere = None if cluster is None else Cluster(cluster)
    found = Sweep(directory, grid, changes, cells)
    with (
        resumable(lambda: command_text("sweep", "--resume", "--out", directory)),
        run_directory.locked(directory),
        SweepProgress(quiet=quiet or as_json) as progress,
    ):
        write_grid(found)
        processes = workers or os.cpu_count() or 1
        try:
            run_cells(found, workers=processes, elsewhere=elsewhere, cache=cache, retry=retry, report=progress)
        finally:
            table = write_table(found)
    _conclude(found, table, as_json)


def _asked(
    name: str | None, overrides: list[str], seeds: list[int] | None, out: Path | None, resume: bool
) -> tuple[SweepGrid, tuple[str, ...]]:
    if resume and out is None:
        raise RunDirectoryError("--resume needs --out: the sweep to go on with")
    if resume and overrides and name is None:
        raise ConfigError("--resume with --set: name the grid too, or leave out --set")
    if name is not None:  # with --resume: a grid that has grown; cells that are equal are kept
        grid, changes = load_grid(name), tuple(overrides)
    elif resume and out is not None:
        from experiments.sweep.scheduler import read_grid  # what trains, and what attacks

        asked = read_grid(out)
        grid, changes = asked.grid, asked.overrides
    else:
        raise ConfigError(f"which grid? shipped: {', '.join(shipped_grids())}; or a YAML file")
    return (grid.model_copy(update={"seeds": tuple(seeds)}) if seeds else grid), changes


def _conclude(found: Sweep, results: pd.DataFrame, as_json: bool) -> None:
    from experiments.reports.sweep import write_sweep_report
    from experiments.sweep.table import RESULTS_TABLE

    failures, foreign = found.failures(), found.other_code()
    findings = [(cell.name, finding) for cell in found.finished() for finding in found.findings(cell)]
    report = write_sweep_report(found, results) if found.finished() else None
    table = found.directory / RESULTS_TABLE
    if as_json:
        say_json(
            {
                "directory": str(found.directory),
                "table": str(table),
                "cells": len(found.cells),
                "finished": len(found.finished()),
                "failed": [vars(failure) for failure in failures],
                "findings": [f"{name}: {finding}" for name, finding in findings],
            },
        )
    else:
        _print(found, results)
        say(f"\ncells          {found.directory / CELLS}\ntable          {table}")
        if report is not None:
            say(f"report         {report}")
    for failure in failures:
        say(one_line(f"cell {failure.cell}: {failure.error}"), error=True)
    for name, finding in findings:
        say(one_line(f"cell {name}: {finding}"), error=True)
    if foreign:
        say(f"{len(foreign)} cells were run by another version of the code, e.g. {foreign[0]}", error=True)
    raise typer.Exit(FINDING if failures or findings else 0)


def _print(found: Sweep, results: pd.DataFrame) -> None:
    from experiments.sweep.summary import macro_summary

    summary = macro_summary(found, results)
    if not len(summary):
        return
    table = Table(*found.grid.axes, "runs", "macro AUC", "95 %", "ε market", "ε release")
    for row in summary.to_dict("records"):
        interval = "" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
        axes = (row[key] for key in found.grid.axes)
        table.add_row(*axes, str(row["runs"]), figure_text(row["auc"]), interval, row["market"], row["release"])
    wide_console().print(table)
