"""Where the privacy account of a run is, unless its configuration says so."""

from __future__ import annotations

import os
from pathlib import Path

from fedmm_secure.provenance import CELLS, GRID_FILE
from privacy.accounting.places import ACCOUNT_FILE, ACCOUNT_VARIABLE, users_account


def default_account(directory: Path) -> Path:
    """Where a run enters its spending unless it is configured otherwise, and where its reader looks for it.

    That of the user on this machine, outside of all runs, so that it is neither copied nor deleted with them, and
    every run on the same data enters the same one. Where an account stands beside the run directory already, as in the
    home of a deployed market, or beside the sweep of a cell, it is that one: it may know of runs on the same data.
    Nothing inside a run says where its account is: who reads the run does.
    """
    if os.environ.get(ACCOUNT_VARIABLE):
        return users_account()
    beside = account_beside(directory)
    return beside if beside.exists() else users_account()


def account_beside(directory: Path) -> Path:
    """Beside a run directory; of a cell, beside its sweep."""
    parent = directory.resolve().parent
    if parent.name == CELLS and (parent.parent / GRID_FILE).is_file():
        parent = parent.parent.parent
    return parent / ACCOUNT_FILE
