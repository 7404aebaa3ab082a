"""Processes for tests, forked from one that has imported the packages: a start takes a tenth of a second, not six.

That one process runs nothing itself, so no thread of torch or OpenMP is lost in a fork.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from fedmm_secure.storage import memory


@cache
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):  # from wherever pytest was started
        forkserver.ensure_running()
    return context


def skip_syncs() -> None:
    """No test cuts the power, and what a killed process wrote is there all the same."""

    def sync(file: Any) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())  # which must be open

    os.fsync = sync


measured = memory.memory_of_tree  # as the product measures


def measure_less() -> None:
    """At every stage the kernel would walk all pages of this process, and of the one that others are forked from."""
    memory.memory_of_tree = lambda pid: memory._bytes(pid, "status", "VmRSS:")


def as_multiprocessing() -> SimpleNamespace:
    """Stands in for the module ``multiprocessing`` where the product asks it for fresh processes."""
    return SimpleNamespace(get_context=lambda method: forks())


def start(task: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process, in a group of its own, that runs ``task``."""
    process = forks().Process(target=_in_a_group, args=(task, *arguments), daemon=True)
    process.start()
    return process


def _in_a_group(task: Callable[..., None], *arguments: object) -> None:
    os.setsid()
    task(*arguments)


def exit_status(process: BaseProcess) -> int | None:
    """Waits for the end."""
    process.join()
    return process.exitcode


def dies_once_there_is(file: Path, dead: Path, start: Callable[[], None]) -> None:
    """Starts a worker that is gone, with exit code 9, as soon as ``file`` is there, unless one has died before."""

    def watch() -> None:
        while not file.exists():
            time.sleep(0.01)
        if not dead.exists():
            dead.touch()
            os._exit(9)

    threading.Thread(target=watch, daemon=True).start()
    start()


def kill_when(process: BaseProcess, condition: Callable[[], bool], limit: float = 120.0) -> None:
    """SIGKILL to the whole group as soon as ``condition`` holds, unless it ends before by itself."""
    deadline = time.monotonic() + limit
    while process.is_alive() and not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet, or has ended since
            process.kill()
    process.join()
