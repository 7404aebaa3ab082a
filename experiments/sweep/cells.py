"""One cell of a sweep: a run directory, its attacks, and the note that it is done or why it failed."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib
from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.assessment.attack import attack_run
from experiments.runs.execution import execute
from experiments.sweep.files import DONE_FILE, FAILURE_FILE
from experiments.sweep.grid import Cell
from experiments.verification import verify_run
from experiments.verification.schemas import metrics_problems
from fedmm_secure.config import Config
from fedmm_secure.foreign.archives import ArchiveError
from fedmm_secure.storage.cache import Cache
from fedmm_secure.storage.files import new_directory
from fedmm_secure.storage.layout import CONFIG_FILE, METRICS_FILE
from fedmm_secure.storage.packed import pack_directory, unpack_directory
from fedmm_secure.storage.run_directory import read_metrics, to_yaml
from privacy.errors import InputError
from privacy.files import write_json
from privacy.foreign import MAX_TEXT_BYTES, ForeignFileError, json_object, read_bytes

Status = Literal["done", "failed", "open"]


class StrayCellError(InputError):
    """What a worker sent is not the cell that it was asked for."""


class _Done(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    attacks: dict[str, Any] | None
    findings: list[str]


class _Failed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    error: str
    traceback: str | None


_Note = TypeVar("_Note", _Done, _Failed)


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result."""

    cell: str
    error: str


def cell_status(directory: Path, cell: Cell) -> Status:
    """Whether a cell has all its results, failed, or is still to be run."""
    if (directory / FAILURE_FILE).exists():
        return "failed"
    done = directory / DONE_FILE
    if done.exists() and (directory / METRICS_FILE).exists() and _note_of(done, _Done).attacks == _plan(cell):
        return "done"
    return "open"


def cell_findings(directory: Path) -> list[str]:
    """What ``fedmm verify`` found when the cell ended; empty if everything holds."""
    return _note_of(directory / DONE_FILE, _Done).findings


def run_cell(directory: Path, cell: Cell, cache: Path) -> None:
    """Run a cell, or go on with it; its exceptions are kept in its directory and raised again."""
    config = _alone(cell)
    (directory / FAILURE_FILE).unlink(missing_ok=True)
    if not (directory / CONFIG_FILE).exists():
        shutil.rmtree(directory, ignore_errors=True)  # killed before the run began: nothing was drawn or sent
    try:
        if not (directory / METRICS_FILE).exists():
            execute(directory, config, resume=(directory / CONFIG_FILE).exists(), cache=Cache(cache))
        if cell.attacks is not None:
            plan = cell.attacks
            attack_run(
                directory,
                attacks=plan.names,
                market=plan.market,
                targets=plan.targets,
                units=plan.units,
                n_shadows=plan.shadows,
                workers=1,
                data=config.data,
            )
        findings = [f"{found.where}: {found.what}" for found in verify_run(directory)]
    except Exception as error:
        note_failure(directory, error)
        raise
    write_json(directory / DONE_FILE, {"attacks": _plan(cell), "findings": findings})


def _alone(cell: Cell) -> Config:
    """What is run: cells run side by side."""
    return cell.config.model_copy(update={"workers": 1})


def _plan(cell: Cell) -> dict[str, Any] | None:
    return None if cell.attacks is None else cell.attacks.model_dump(mode="json")


def _note_of(path: Path, kind: type[_Note]) -> _Note:
    """A note that a cell left; raises ``ForeignFileError`` where it is none."""
    found = json_object(read_bytes(path, MAX_TEXT_BYTES, below=path.parent), path)
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise ForeignFileError(f"{path}: no note of a cell: {error.errors()[0]['msg'][:100]}") from error


def note_failure(directory: Path, error: BaseException) -> None:
    """Keep why a cell failed: one line for a user's mistake, the traceback for ours."""
    trace = None if isinstance(error, InputError) else "".join(traceback.format_exception(error))
    write_json(directory / FAILURE_FILE, {"error": error_text(error), "traceback": trace})


def read_failure(directory: Path) -> str:
    """The line that ``note_failure`` kept."""
    return _note_of(directory / FAILURE_FILE, _Failed).error


def error_text(error: BaseException) -> str:
    """What is kept of why a cell failed; a mistake of the user's is its own text."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def run_here(cache: Path, directory: Path, cell: Cell) -> None:
    """``run_cell`` in a worker of this machine, which writes the cell's directory itself."""
    matplotlib.use("agg")
    run_cell(directory, cell, cache)


def run_elsewhere(shared: None, cell: Cell) -> bytes:
    """A cell on generated markets, from the beginning, in a folder of the worker; its directory as an archive.

    Raises:
        ValueError: the cell reads files: rows of somebody, and an account that is not there.
    """
    if not leaves(cell):
        raise ValueError(f"{cell.name}: reads rows, and runs where their account is")
    matplotlib.use("agg")
    with tempfile.TemporaryDirectory(prefix="fedmm-cell-") as folder:
        directory = Path(folder) / cell.name
        with suppress(Exception):  # why it failed is kept in its directory
            run_cell(directory, cell, Path(folder) / "cache")
        return pack_directory(directory)


def bring_home(packed: bytes, directory: Path, cell: Cell) -> None:
    """Put a cell that ran elsewhere into its place, all of it or nothing.

    Raises:
        StrayCellError: what came is no cell, or another one.
    """
    shutil.rmtree(directory, ignore_errors=True)
    try:
        with new_directory(directory) as unfinished:
            unpack_directory(packed, unfinished)
            _hold(unfinished, cell)
    except (ArchiveError, ForeignFileError) as error:
        raise StrayCellError(f"{cell.name}: a worker sent what is no cell: {error!s:.200}") from error


def _hold(directory: Path, cell: Cell) -> None:
    """Raises ``StrayCellError`` or ``ForeignFileError`` unless a directory is of a cell that is done, or has failed."""
    kept, asked = directory / CONFIG_FILE, to_yaml(_alone(cell)).encode()
    if kept.exists() and read_bytes(kept, MAX_TEXT_BYTES, below=directory) != asked:
        raise StrayCellError(f"{cell.name}: a worker sent a run of another configuration")
    match cell_status(directory, cell):
        case "failed":
            read_failure(directory)
        case "done":
            cell_findings(directory)
            for problem in metrics_problems(cell.config, read_metrics(directory)):
                raise StrayCellError(f"{cell.name}: a worker sent metrics that no run writes: {problem}")
        case "open":
            raise StrayCellError(f"{cell.name}: a worker sent a run that has not finished")


def leaves(cell: Cell) -> bool:
    """Whether a cell may run on another machine: its markets are generated, nobody's, and enter no account."""
    return cell.config.data.synthetic is not None
