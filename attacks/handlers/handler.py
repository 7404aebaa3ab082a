"""Fits and asks a model that somebody else wrote, in a process of its own with limits.

The handler is a Python file with two functions or three::

    def fit(rows): ...                    # rows.user, rows.item, rows.time (n,), rows.n_users, rows.n_items; a model
    def score(model, users, items): ...   # (k,) numbers, larger where a click is likelier
    def embed(model, users): ...          # optional: (k, dim)

Users and items are numbers from 0; some have no row. What runs is the author's code with the rights of whoever starts
it: limits keep an accident small, they are no sandbox.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attacks.handlers import worker
from fedmm_secure.data.market import FloatArray, IntArray, Market
from privacy.errors import InputError
from privacy.foreign import read_bytes

_MISTAKE = 3  # exit status of the worker
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_HEADER = 4096  # bytes of a file beside its numbers


class HandlerError(InputError):
    """A handler that cannot be used, or took more than it may; names file and function."""


@dataclass(frozen=True)
class Limits:
    """Of each model: seconds of wall clock and of processor time, and bytes of address space."""

    seconds: int = 300
    memory: int = 8 * 2**30


@dataclass(frozen=True)
class HandlerAnswers:
    """What a fitted model said: a score of each pair ``(k,)``, and embeddings of all users, if it has any."""

    scores: FloatArray
    embeddings: FloatArray | None


@dataclass(frozen=True)
class Handler:
    """Somebody else's model.

    Attributes:
        path: of the Python file.
        limits: of each model.
    """

    path: Path
    limits: Limits = Limits()

    @property
    def warning(self) -> str:
        """What to tell whoever starts it."""
        return (
            f"{self.path} is run, once for each model: its code can do whatever you can do on this machine. It gets a "
            f"process of its own, {self.limits.seconds} s and {self.limits.memory / 2**30:g} GiB; that is no sandbox."
        )

    def ask(self, market: Market, rows: IntArray, users: IntArray, items: IntArray) -> HandlerAnswers:
        """Fit on some rows of a market, score pairs, embed all users.

        Raises:
            HandlerError: it cannot be run, makes a mistake, or exceeds a limit.
        """
        if not self.path.is_file():
            raise HandlerError(f"{self.path}: no such file; --model wants a Python file with fit and score")
        with tempfile.TemporaryDirectory(prefix="fedmm-handler-") as job:
            folder = Path(job)
            np.savez(
                folder / "rows.npz",
                user=market.user[rows],
                item=market.item[rows],
                time=market.time[rows],
                n_users=market.n_users,
                n_items=market.n_items,
            )
            np.savez(folder / "pairs.npz", user=users, item=items)
            self._run(folder)
            scores = _read(folder / "scores.npy", len(users) * 8)
            if scores is None or scores.shape != users.shape:
                raise HandlerError(f"{self.path}: ended without a score of each pair")
            embeddings = _read(folder / "embeddings.npy", self.limits.memory)
            if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != market.n_users):
                raise HandlerError(f"{self.path}: ended without an embedding of each user")
            return HandlerAnswers(scores, embeddings)

    def _run(self, job: Path) -> None:
        limits = self.limits
        command = [sys.executable, worker.__file__, str(self.path.absolute()), str(job)]
        with subprocess.Popen(
            [*command, str(limits.seconds), str(limits.memory)],
            cwd=job,
            env=bare_environment(job),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                said = process.communicate(timeout=limits.seconds)[1]
            except subprocess.TimeoutExpired:
                said = b""
            finally:
                end_group(process.pid)  # and what it started
        status = process.returncode
        if status == _MISTAKE:
            raise HandlerError(f"{self.path}: {_last_line(said)}")
        if status in (-signal.SIGKILL, -signal.SIGXCPU):
            raise HandlerError(
                f"{self.path}: more than {limits.seconds} s for one model; --model-seconds gives it more"
            )
        if status:
            raise HandlerError(f"{self.path}: ended with status {status}: {_last_line(said)}")


def bare_environment(home: Path) -> dict[str, str]:
    """What a process of somebody else's code has of this one's environment, which may hold passphrases; one thread."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**passed_on, "HOME": str(home), **one}


def end_group(group: int) -> None:
    """Kill a process that leads a group, and what it started in it."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _read(path: Path, most: int) -> NDArray[np.float64] | None:
    """An array of double precision that the worker left; None where it did not."""
    if not path.is_file():
        return None
    found = np.load(io.BytesIO(read_bytes(path, most + _HEADER, below=path.parent)), allow_pickle=False)
    return np.asarray(found, dtype=np.float64)
