"""``fedmm runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.options import JsonFlag
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say_json, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import figure_text
from experiments.reports.listing import list_runs
from privacy.accounting.text import epsilon_text

RUNS_HELP = "List the runs and sweeps in a folder.\n\nExample: fedmm runs runs"


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run directories.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """``fedmm runs``."""
    with TaskProgress("reading runs", quiet=as_json):
        found = list_runs(folder)
    if as_json:
        say_json(found)
        return
    table = Table("name", "created", "status", "markets", "seeds", "protect", "macro AUC", "ε market", "ε release")
    for row in found:
        auc = figure_text(row["auc"]) if "auc" in row else ""
        epsilons = (epsilon_text(row[key]) if key in row else "" for key in ("epsilon_market", "epsilon_release"))
        cells = (str(row.get(key, "")) for key in ("name", "created", "status", "markets", "seeds", "protect"))
        table.add_row(*cells, auc, *epsilons)
    wide_console().print(table)
