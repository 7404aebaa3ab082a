"""A run directory: created once, resumed only with the configuration that it was created with."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config, config_from_data, load_yaml
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.provenance import CONFIG_FILE, ENVIRONMENT_FILE, begin
from privacy.accounting.ledger import read_ledger


def default_directory(label: str) -> Path:
    """``runs/<time>-<label>`` below the current folder."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{label}"


def create(directory: Path, config: Config) -> None:
    """Start a run directory; raises ``RunDirectoryError`` if one is there already."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunDirectoryError(f"{directory}: not empty; use --resume to go on with it, or another --out")
    begin(directory, config)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run directory; two processes that append to one ledger would break its chain.

    Raises:
        RunDirectoryError: another process holds it.
    """
    path = directory / "state" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{directory}: another process is running in it") from error
        yield


def read_config(directory: Path) -> Config:
    """The configuration of a run."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise RunDirectoryError(f"{directory}: no config.yaml; is this a run directory?")
    return config_from_data(load_yaml(path), source=str(path))


def read_environment(directory: Path) -> dict[str, Any]:
    """Versions, commit and machine that a run began with."""
    return dict(json.loads((directory / ENVIRONMENT_FILE).read_text(encoding="utf-8")))


def read_noise(directory: Path, market: str) -> dict[str, float]:
    """The noise multipliers that a market's ledger was opened with, by stage; empty without DP."""
    return dict(read_ledger(directory / "ledger" / f"{market}.jsonl").opening.get("noise", {}))


class Log:
    """``log.jsonl``: one line per event. It holds private values and stays with the run's owner."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "log.jsonl"

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        line = {"time": round(time.time(), 3), "event": event, **fields}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line), sort_keys=True) + "\n")


def finite(value: Any) -> Any:
    """A value for JSON, which has no infinity: null stands for unbounded."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
