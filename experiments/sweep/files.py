"""Names of the files of a sweep and of its cells."""

from __future__ import annotations

from pathlib import Path

from fedmm_secure.storage.layout import GRID_FILE

DONE_FILE, FAILURE_FILE = "cell.json", "failure.json"


def is_sweep(directory: Path) -> bool:
    """Whether a directory is a sweep's."""
    return (directory / GRID_FILE).is_file()
