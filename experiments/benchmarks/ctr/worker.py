"""A process in another interpreter, which trains what this one does not have."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeGuard

from attacks.handlers.handler import bare_environment, end_group
from experiments.benchmarks.ctr import elsewhere
from fedmm_secure.errors import ConfigError
from privacy.foreign import ForeignFileError, json_object
from privacy.json_text import json_text

FUXICTR, LIGHTGBM = "FuxiCTR", "LightGBM"
_MOST_ANSWERED = 10_000  # characters of one answer


@dataclass(frozen=True)
class TrainingRun:
    """What one training came to.

    Attributes:
        seconds: processor time of fitting, validation and early stopping included.
        auc: of the test candidates.
        passes: over the training examples, or trees.
    """

    seconds: float
    auc: float
    passes: int


class MissingLibraryError(Exception):
    """The interpreter has no such library."""


class Worker:
    """Trains with libraries of another interpreter, one order after the other, in one process on one thread.

    Args:
        python: the interpreter.
        folder: where what it writes to its standard error goes.

    Raises:
        ConfigError: it cannot be started.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        self._python, self._log = python, folder / "worker.log"
        # isolated: neither this package's modules nor paths of this environment are found there
        try:
            with self._log.open("wb") as log:
                self._process: subprocess.Popen[str] = subprocess.Popen(
                    [python, "-I", elsewhere.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    env=bare_environment(folder),
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(f"--python {python}: cannot be started: {error.strerror}") from error

    def version(self, library: str) -> str:
        """Of a library; raises ``MissingLibraryError`` where the interpreter does not have it."""
        found = self._ask(library, {"do": "version"})
        if not isinstance(found.get("version"), str):
            raise self._unexpected(library, found)
        return str(found["version"])

    def train(self, library: str, data: Path, order: Mapping[str, object], seed: int) -> TrainingRun:
        """Train a library's model on a folder of examples, as an order says.

        Raises:
            ConfigError: the process ended without an answer, or answered something else.
        """
        found = self._ask(library, {"do": "train", "data": str(data), "seed": seed, **order})
        seconds, auc, passes = (found.get(name) for name in ("seconds", "auc", "passes"))
        if not (_is_positive(seconds) and _is_positive(passes) and isinstance(auc, float) and 0 <= auc <= 1):
            raise self._unexpected(library, found)
        return TrainingRun(float(seconds), float(auc), int(passes))

    def _ask(self, library: str, order: Mapping[str, object]) -> dict[str, Any]:
        try:
            orders = _open(self._process.stdin)
            orders.write(json_text({"library": library, **order}) + "\n")
            orders.flush()
            answer = _open(self._process.stdout).readline(_MOST_ANSWERED)
        except BrokenPipeError:
            answer = ""
        if not answer:
            last = (self._log.read_text(errors="replace").strip().splitlines() or ["no word why"])[-1]
            raise ConfigError(f"--python {self._python}: {library} ended without an answer: {last[:200]}")
        try:
            found = json_object(answer, "answer")
        except ForeignFileError:
            raise self._unexpected(library, answer) from None
        if "missing" in found:
            raise MissingLibraryError(str(found["missing"])[:200])
        return found

    def _unexpected(self, library: str, answer: object) -> ConfigError:
        return ConfigError(f"--python {self._python}: asked about {library} it answered {answer!a:.100}; is it Python?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_group(self._process.pid)  # and what it started; it holds nothing that would have to be written
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what it did not read any more
                _open(stream).close()


def _is_positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream
