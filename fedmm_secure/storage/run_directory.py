"""A run directory: created once, resumed only with the configuration that it was created with; its files by name."""

from __future__ import annotations

import fcntl
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from fedmm_secure.config import Config, config_from_data, foreign_config, load_yaml
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.storage.layout import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, RunDirectory
from fedmm_secure.storage.provenance import environment
from privacy.errors import InputError, StoppedError
from privacy.files import open_private, private_folder, write_atomic, write_json
from privacy.foreign import ForeignDirectory
from privacy.json_text import finite, json_text

# What a reader may stumble over in a directory that somebody made up; each is a finding or one line, never a traceback.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    InputError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def default_directory(label: str) -> Path:
    """``runs/<time>-<label>`` below the current folder."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{label}"


def create(directory: Path, config: Config, *, quickstart: bool = False) -> None:
    """Start a run directory; raises ``RunDirectoryError`` if one is there already, or none can be made.

    Args:
        directory: new, or empty.
        config: of the run.
        quickstart: mark the run as part of a quickstart.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RunDirectoryError(f"{directory}: not empty; use --resume to go on with it, or another --out")
        if quickstart:
            write_atomic(RunDirectory(directory).quickstart, b"")
        begin(directory, config)
    except OSError as error:
        raise RunDirectoryError(f"{directory}: cannot be written: {error.strerror}; choose another --out") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run directory; two processes that append to one ledger would break its chain.

    Raises:
        RunDirectoryError: another process holds it.
    """
    path = RunDirectory(directory).lock
    private_folder(path.parent)
    with os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{directory}: another process is running in it") from error
        yield


def read_config(directory: Path) -> Config:
    """The configuration of a run that goes on: with the paths that its own user gave it."""
    _refuse_other(directory)
    return config_from_data(load_yaml(directory / CONFIG_FILE), source=str(directory / CONFIG_FILE))


def read_foreign_config(directory: Path) -> Config:
    """The configuration of a run, whoever made it: without the paths of its account and its data."""
    _refuse_other(directory)
    return foreign_config(directory, CONFIG_FILE)


def _refuse_other(directory: Path) -> None:
    if not (directory / CONFIG_FILE).is_file():
        raise RunDirectoryError(f"{directory}: no config.yaml; is this a run directory?")


def read_environment(directory: Path) -> dict[str, Any]:
    """Versions, commit and machine that a run began with."""
    return ForeignDirectory(directory).json(ENVIRONMENT_FILE)


@contextmanager
def examining(directory: Path) -> Iterator[None]:
    """Read a run or a sweep that anyone may have made, and write results beside what it holds.

    Nothing in it may be a link or a device, so that no name in it leads elsewhere; and what its files say that no run
    says ends in one line.

    Raises:
        InputError: the directory cannot be used.
    """
    ForeignDirectory(directory).refuse_irregular()
    with judging(directory):
        yield


@contextmanager
def judging(path: Path) -> Iterator[None]:
    """Read, judge and show what anyone may have written: what none of our writers says ends in one line.

    Raises:
        InputError: the file or directory cannot be used.
    """
    try:
        yield
    except (InputError, StoppedError):
        raise
    except MALFORMED as error:
        what = " ".join(f"{type(error).__name__}: {str(error)[:1000]}".split())[:200]
        raise RunDirectoryError(f"{path}: holds what no run writes: {what}") from error


def read_noise(directory: Path, market: str) -> dict[str, float]:
    """The noise multipliers that a market's ledger was opened with, by stage; empty without DP."""
    from privacy.accounting.ledger import read_ledger  # brings the accountants, which few who open a run need

    return dict(read_ledger(RunDirectory(directory).ledger(market)).opening.get("noise", {}))


def begin(directory: Path, config: Config) -> None:
    """Write what every run directory starts with; the configuration last, for with it a run has begun."""
    write_json(directory / ENVIRONMENT_FILE, environment(config.device))
    write_atomic(directory / CONFIG_FILE, to_yaml(config).encode())


def read_metrics(directory: Path) -> dict[str, Any]:
    """The metrics of a finished run, whoever made it; raises ``RunDirectoryError`` where there are none."""
    if not (directory / METRICS_FILE).is_file():
        raise RunDirectoryError(f"{directory}: no metrics.json; the run has not finished (fedmm run --resume)")
    return ForeignDirectory(directory).json(METRICS_FILE)


def to_yaml(config: Config) -> str:
    """The resolved configuration; reading it back gives an equal one."""
    return yaml_text(config.model_dump(mode="json"))


def yaml_text(value: Any) -> str:
    """The one spelling of a value in a configuration of a run."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def published_models(directory: Path, config: Config, market: str) -> list[Path]:
    """Models that are published; all others are computed from private rows, and stay in the market."""
    if not config.private_ctr:
        return []
    layout = RunDirectory(directory)
    return [path(market, seed) for seed in config.seed for path in (layout.quantizer, layout.ctr)]


class Log:
    """``log.jsonl``: one line per event. It holds private values and stays with the run's owner.

    Nothing depends on it, so it never raises: what a full disk does not take is lost, and the next line says how much.
    """

    def __init__(self, directory: Path) -> None:
        self._path = RunDirectory(directory).log
        self.lost = 0  # lines since the last one that was written

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append an event, with the time."""
        line = {"time": round(time.time(), 3), "event": event, **fields}
        if self.lost:
            line["lost"] = self.lost
        try:
            self._append((json_text(finite(line), sort_keys=True) + "\n").encode())
            self.lost = 0
        except (OSError, ValueError):
            self.lost += 1

    def _append(self, data: bytes) -> None:
        """All of it, or nothing."""
        descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            before = os.fstat(descriptor).st_size
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError("the disk is full")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
