"""Run the cells of a sweep on several processes; what was done before is not done again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pebble import ProcessExpired, ProcessPool

from experiments.runs.configuration import locate, shipped
from experiments.sweep.cells import (
    Failure,
    Status,
    cell_findings,
    cell_status,
    note_failure,
    read_failure,
    run_cell,
    start_worker,
)
from experiments.sweep.grid import Cell, SweepGrid, grid_from_data
from fedmm_secure.config import load_yaml
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.foreign.yaml_text import MAX_YAML_BYTES, parse_yaml
from fedmm_secure.storage.layout import CELLS, GRID_FILE
from fedmm_secure.storage.provenance import code_version
from fedmm_secure.storage.run_directory import read_environment
from privacy.files import private_folder, write_atomic
from privacy.foreign import ForeignDirectory

CACHE = "cache"
MOST_OVERRIDES = 200
CellProgress = Callable[[Cell, Status, int, int], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep and where it is kept.

    Attributes:
        directory: of the sweep.
        grid: what was asked.
        overrides: ``key=value`` of the command line.
        cells: in the grid's order.
    """

    directory: Path
    grid: SweepGrid
    overrides: tuple[str, ...]
    cells: tuple[Cell, ...]

    def path(self, cell: Cell) -> Path:
        """Run directory of a cell."""
        return self.directory / CELLS / cell.name

    def finished(self) -> list[Cell]:
        """Cells that have all their results."""
        return [cell for cell in self.cells if cell_status(self.path(cell), cell) == "done"]

    def failures(self) -> list[Failure]:
        """Cells that failed, and why."""
        return [
            Failure(cell.name, read_failure(self.path(cell)))
            for cell in self.cells
            if cell_status(self.path(cell), cell) == "failed"
        ]

    def findings(self, cell: Cell) -> list[str]:
        """What verification of a finished cell found; empty if everything holds."""
        return cell_findings(self.path(cell))

    def other_code(self) -> list[str]:
        """Finished cells that another version of the code computed."""
        return [
            cell.name for cell in self.finished() if read_environment(self.path(cell)).get("code") != code_version()
        ]


def write_grid(sweep: Sweep) -> None:
    """Keep what was asked, for a resume and for reports; and the configurations that it names by their files, so that
    who reads a sweep opens no file that it names."""
    named = {sweep.grid.base, *(block.base for block in sweep.grid.blocks if block.base is not None)}
    bases = {name: load_yaml(locate(name)) for name in sorted(named - set(shipped()))}
    data = {"grid": sweep.grid.model_dump(mode="json"), "set": list(sweep.overrides), "bases": bases}
    write_atomic(sweep.directory / GRID_FILE, yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode())


@dataclass(frozen=True)
class Asked:
    """What a sweep's directory says was asked.

    Attributes:
        grid: the grid.
        overrides: ``key=value`` of the command line.
        bases: configurations by the name of their file.
    """

    grid: SweepGrid
    overrides: tuple[str, ...]
    bases: Mapping[str, Any]


def read_grid(directory: Path) -> Asked:
    """What was asked of a sweep, whoever made it.

    Raises:
        RunDirectoryError: not a sweep's directory.
    """
    path = directory / GRID_FILE
    if not path.is_file():
        raise RunDirectoryError(f"{directory}: no {GRID_FILE}; is this a sweep?")
    data = parse_yaml(ForeignDirectory(directory).bytes(GRID_FILE, MAX_YAML_BYTES), path)
    if not isinstance(data, Mapping) or not isinstance(data.get("set"), list):
        raise RunDirectoryError(f"{path}: not the grid of a sweep")
    if len(data["set"]) > MOST_OVERRIDES:
        raise RunDirectoryError(f"{path}: more than {MOST_OVERRIDES} values that were set")
    bases = data.get("bases") or {}
    return Asked(grid_from_data(data.get("grid"), source=str(path)), tuple(map(str, data["set"])), dict(bases))


def run_cells(
    sweep: Sweep,
    *,
    workers: int,
    cache: Path | None = None,
    retry: bool = False,
    report: CellProgress = lambda cell, status, done, total: None,
) -> None:
    """Run what is missing of a sweep.

    Args:
        sweep: the sweep.
        workers: processes; each runs one cell at a time.
        cache: folder of what cells share; by default one of the sweep's own.
        retry: run cells again that failed before.
        report: told of each cell that ends, with the number of those that ended and of all that were to be run.
    """
    wanted = {"open", "failed"} if retry else {"open"}
    missing = [cell for cell in sweep.cells if cell_status(sweep.path(cell), cell) in wanted]
    folder = cache or sweep.directory / CACHE
    private_folder(folder)
    context = multiprocessing.get_context("spawn")  # torch's and OpenMP's threads do not survive a fork
    with ProcessPool(max_workers=workers, context=context, initializer=start_worker) as pool:
        futures = {pool.schedule(run_cell, args=[sweep.path(cell), cell, folder]): cell for cell in missing}
        try:
            _collect(sweep, futures, report)
        except BaseException:  # an interrupt too: cells go on another time
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _collect(sweep: Sweep, futures: dict[Any, Cell], report: CellProgress) -> None:
    waiting, total = set(futures), len(futures)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ended:
            cell, error = futures[future], future.exception()
            if isinstance(error, ProcessExpired):  # killed, out of memory: it could not say why itself
                note_failure(sweep.path(cell), RuntimeError(f"its process died with exit code {error.exitcode}"))
            report(cell, "done" if error is None else "failed", total - len(waiting), total)
