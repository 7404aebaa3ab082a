"""``fedmm runs``: what lies in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.options import JsonFlag
from experiments.commands.progress import TaskProgress
from experiments.compliance.evidence import read_attacks, read_audits
from experiments.console import say_json, wide_console
from experiments.reports.text import figure_text, largest_epsilon
from experiments.run_directory import examining, read_environment, read_foreign_config
from experiments.steps import track
from experiments.sweep.cells import DONE_FILE
from experiments.sweep.scheduler import is_sweep
from experiments.tables import Table
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.closing import read_metrics
from fedmm_secure.provenance import CONFIG_FILE, METRICS_FILE
from privacy.accounting.text import epsilon_text
from privacy.errors import InputError

RUNS_HELP = "List the runs and sweeps in a folder.\n\nExample: fedmm runs runs"


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Runs and sweeps directly in a folder, oldest first.

    Raises:
        RunDirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder}: no such folder; runs go to ./runs unless --out says otherwise")
    paths = [path for path in folder.iterdir() if (path / CONFIG_FILE).is_file() or is_sweep(path)]
    found = [_described(path) for path in track("runs read", paths)]
    return sorted(found, key=lambda row: (row["created"], row["name"]))


def _described(path: Path) -> dict[str, Any]:
    """One that cannot be read is listed with why, and hides no other."""
    try:
        with examining(path):
            return _describe(path)
    except InputError as error:
        why = str(error).removeprefix(f"{path}/").removeprefix(f"{path}: ")
        return {"name": path.name, "created": "", "status": f"unreadable: {why}"}


def _describe(path: Path) -> dict[str, Any]:
    if is_sweep(path):
        cells = sorted(path.glob(f"cells/*/{CONFIG_FILE}"))
        finished = sum((cell.parent / DONE_FILE).exists() for cell in cells)
        created = min((_created(cell.parent) for cell in cells), default="")
        return {"name": path.name, "created": created, "status": f"sweep, {finished} of {len(cells)} cells begun"}
    config = read_foreign_config(path)
    row: dict[str, Any] = {
        "name": path.name,
        "created": _created(path),
        "status": "unfinished",
        "markets": config.data.n_markets,
        "seeds": len(config.seed),
        "protect": config.privacy.protect if config.privacy.epsilon is not None else "-",
    }
    if not (path / METRICS_FILE).is_file():
        return row
    metrics = read_metrics(path)
    made = [name for name, there in (("attacked", read_attacks(path)), ("audited", read_audits(path))) if there]
    return row | {
        "status": ", ".join(["finished", *made]),
        "markets": len(metrics["markets"]),
        "auc": metrics["macro"]["auc"],
        "epsilon_market": largest_epsilon(metrics, "market"),
        "epsilon_release": largest_epsilon(metrics, "release"),
    }


def _created(path: Path) -> str:
    try:
        return str(read_environment(path)["created"])
    except (InputError, KeyError):
        return ""


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run directories.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
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
