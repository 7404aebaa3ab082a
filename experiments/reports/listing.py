"""What lies in a folder: runs and sweeps, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.assessment.statements import read_attacks, read_audits
from experiments.presentation.steps import track
from experiments.presentation.text import epsilon_over_markets
from experiments.sweep.files import DONE_FILE, is_sweep
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.storage.layout import CONFIG_FILE, METRICS_FILE
from fedmm_secure.storage.run_directory import examining, read_environment, read_foreign_config, read_metrics
from privacy.errors import InputError


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
    made = [name for name, there in (("attacked", read_attacks(path)), ("code audited", read_audits(path))) if there]
    return row | {
        "status": ", ".join(["finished", *made]),
        "markets": len(metrics["markets"]),
        "auc": metrics["macro"]["auc"],
        "epsilon_market": epsilon_over_markets(metrics, "market"),
        "epsilon_release": epsilon_over_markets(metrics, "release"),
    }


def _created(path: Path) -> str:
    try:
        return str(read_environment(path)["created"])
    except (InputError, KeyError):
        return ""
