"""Processes for tests, forked from one that has imported the packages: a start takes a tenth of a second, not six.

That one process runs nothing itself, so no thread of torch or OpenMP is lost in a fork.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from unittest.mock import patch


@cache
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):  # from wherever pytest was started
        forkserver.ensure_running()
    return context


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
