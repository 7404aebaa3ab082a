"""Where a privacy account may stand beside runs."""

from __future__ import annotations

from pathlib import Path

from fedmm_secure.storage.layout import CELLS, GRID_FILE
from privacy.accounting.places import ACCOUNT_FILE


def account_beside(directory: Path) -> Path:
    """Beside a run directory; of a cell, beside its sweep."""
    parent = directory.resolve().parent
    if parent.name == CELLS and (parent.parent / GRID_FILE).is_file():
        parent = parent.parent.parent
    return parent / ACCOUNT_FILE
