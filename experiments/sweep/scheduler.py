"""Run the cells of a sweep on several processes, or machines; what was done before is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.runs.configuration import locate, shipped
from experiments.sweep.cells import (
    Failure,
    Status,
    StrayCellError,
    bring_home,
    cell_findings,
    cell_status,
    leaves,
    note_failure,
    read_failure,
    run_elsewhere,
    run_here,
)
from experiments.sweep.grid import Cell, SweepGrid, grid_from_data
from fedmm_secure.config import load_yaml
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.executors.base import Executor, WorkerLostError
from fedmm_secure.executors.processes import WorkerProcesses
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
    elsewhere: Executor | None = None,
    cache: Path | None = None,
    retry: bool = False,
    report: CellProgress = lambda cell, status, done, total: None,
) -> None:
    """Run what is missing of a sweep.

    **Spending is never less than what workers drew.** What is drawn from somebody's rows is entered in the account
    of this machine's user, whole as it is planned, before the first draw (``fedmm_secure.federation.account``), and
    nothing takes it out again. So a cell that reads files is computed by a process here, that has this account: if it
    dies after a draw, the plan stays entered, and who goes on draws nothing twice. ``elsewhere``, which has no account,
    gets cells of generated markets alone: these are nobody's rows, and nothing is spent on them. There is no third kind
    of cell, and ``run_elsewhere`` refuses one.

    Args:
        sweep: the sweep.
        workers: processes; each runs one cell at a time.
        elsewhere: who runs cells on generated markets instead; they begin anew where a worker is lost.
        cache: folder of what cells share; by default one of the sweep's own.
        retry: run cells again that failed before.
        report: told of each cell that ends, with the number of those that ended and of all that were to be run.
    """
    wanted = {"open", "failed"} if retry else {"open"}
    missing = [cell for cell in sweep.cells if cell_status(sweep.path(cell), cell) in wanted]
    leaving = [cell for cell in missing if elsewhere is not None and leaves(cell)]
    staying = [cell for cell in missing if cell not in leaving]
    ended = 0

    def note(cell: Cell, error: BaseException | None) -> None:
        nonlocal ended
        ended += 1
        if isinstance(error, WorkerLostError):  # it could not say why itself
            note_failure(sweep.path(cell), RuntimeError(str(error)))
        report(cell, cell_status(sweep.path(cell), cell), ended, len(missing))

    if elsewhere is not None:
        for packed in elsewhere.run(run_elsewhere, None, [(cell,) for cell in leaving]):
            cell = leaving[packed.index]
            if packed.error is None:
                try:
                    bring_home(packed.result(), sweep.path(cell), cell)
                except StrayCellError as error:
                    note_failure(sweep.path(cell), error)
            elif not isinstance(packed.error, WorkerLostError):
                raise packed.error
            note(cell, packed.error)
    folder = cache or sweep.directory / CACHE
    private_folder(folder)
    # a cell whose process died is told of, and is run again by who asks for it
    here = WorkerProcesses(workers, apart=True)
    for done in here.run(run_here, folder, [(sweep.path(cell), cell) for cell in staying], tries=1):
        note(staying[done.index], done.error)
