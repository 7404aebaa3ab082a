"""Names of the files of a sweep and of its cells."""

from __future__ import annotations

from pathlib import Path

from fedmm_secure.storage.layout import GRID_FILE

DONE_FILE, FAILURE_FILE = "cell.json", "failure.json"


def is_sweep(directory: Path) -> bool:
    return (directory / GRID_FILE).is_file()
