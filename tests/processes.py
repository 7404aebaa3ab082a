"""Processes for tests, forked from one that has imported the packages: a start takes a tenth of a second, not six.

That one is itself a fork of the process that runs the tests, made before it runs any: what is imported there need not
be imported twice. It runs nothing itself, so no thread of torch or OpenMP is lost in a fork.
"""

import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fedmm_secure.storage import memory


def keep_a_fork() -> None:
    """Make the process that others are forked from; it imports what is still missing once it is asked for one."""
    resource_tracker.ensure_running()
    server, address = forkserver._forkserver, connection.arbitrary_address("AF_UNIX")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive, held = os.pipe()  # as in ``ForkServer.ensure_running``: it ends with whoever holds the other end
        process = os.fork()
        if process == 0:
            try:
                os.close(held)
                _fork_others(listener.detach(), alive)
            finally:
                os._exit(0)
        os.close(alive)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, held, process


def _fork_others(listener: int, alive: int) -> None:
    if alive not in select.select([listener, alive], [], [])[0]:
        forkserver.main(listener, alive, ["tests.preloaded"])


def forks() -> ForkServerContext:
    return multiprocessing.get_context("forkserver")


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
