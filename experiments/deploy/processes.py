"""The processes of a federation on one machine: started with a bound on their lives, and ended together."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from experiments.deploy import adopting, orphans
from privacy.errors import StoppedError

HOME_VARIABLE = "FEDMM_SERVER_HOME"
MARK_VARIABLE = "FEDMM_PROCESSES"
STARTUP_SECONDS = 90.0
_PAUSE = 0.2
_GRACE = 10.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class DeploymentError(StoppedError):
    """A process of the federation did not start, or ended early."""


@dataclass
class Processes:
    """Running processes by name, each the leader of a group of its own; their files are for their owner alone.

    All carry a mark in their environment, by which those that left their group are found: Flower detaches some. Those
    that lack it descend from one that has it: each command adopts what its descendants leave behind. If this process is
    killed, a watcher of its own finds and ends them by it.
    """

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    _watcher: subprocess.Popen[bytes] | None = None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a command in a group of its own, with its output in a log of its owner's; ``environment`` adds to this
        process's.
        """
        self._watch()
        self.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-I", adopting.__file__, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, MARK_VARIABLE: self.mark},
                start_new_session=True,
                umask=0o077,
            )

    def log(self, name: str) -> str:
        """What a process has written so far; empty before it begins."""
        path = self.logs / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait_for(self, name: str, text: str) -> None:
        """Until a process has written ``text``; raises ``DeploymentError`` if it ends or takes too long."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while text not in self.log(name):
            if self.running[name].poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.log(name).splitlines()[-5:])
                raise DeploymentError(f"{name} did not start; the end of {self.logs / name}.log:\n{last}")
            time.sleep(_PAUSE)

    def ended(self, name: str) -> bool:
        """Whether a process that was started here is over."""
        return self.running[name].poll() is not None

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process and what it started."""
        self._end([name], how)

    def stop_all(self) -> None:
        """End all processes that were started here, and what they started, whatever signal comes meanwhile."""
        with _deaf():
            known = self.survivors()  # before their parents are gone: some write over the mark
            self._end(list(self.running), signal.SIGTERM)
            orphans.sweep(self._line, known, grace=0.0, patience=_GRACE, looks=1)
            self._dismiss()

    def _end(self, names: Sequence[str], how: signal.Signals) -> None:
        """End processes and their groups, all at once; those that do not hear it, after a while."""
        ending = [self.running.pop(name) for name in names]
        for signalled in (how, signal.SIGKILL):
            for process in ending:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signalled)
            deadline = time.monotonic() + _GRACE
            for process in ending:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.0))
            ending = [process for process in ending if process.poll() is None or _group_lives(process.pid)]

    def survivors(self) -> dict[int, int]:
        """Living processes that carry the mark, and what they started, each with the time of its start."""
        return orphans.marked(self._line)

    @property
    def _line(self) -> bytes:
        return f"{MARK_VARIABLE}={self.mark}".encode()

    def _watch(self) -> None:
        """Start the watcher, whose pipe closes when this process ends, however it does."""
        if self._watcher is None:
            # -I: the standard library alone, whatever the environment names; its other end is inherited by nobody
            watcher = subprocess.Popen(
                [sys.executable, "-I", orphans.__file__], stdin=subprocess.PIPE, start_new_session=True, close_fds=True
            )
            assert watcher.stdin is not None  # asked for above
            watcher.stdin.write(self._line + b"\n")
            watcher.stdin.flush()
            self._watcher = watcher

    def _dismiss(self) -> None:
        if self._watcher is not None:
            with suppress(BrokenPipeError):
                self._watcher.communicate(b"done\n")
            self._watcher = None


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``KeyboardInterrupt`` as SIGINT does, so that ``finally`` ends what was started.

    The first one does: whoever ends a group of processes may reach one of them twice, and tidying up takes a while.
    What was ignored before stays so, as SIGHUP under ``nohup``. An interrupt that Python dropped is raised again.
    """
    heard = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(heard, _interrupt_once), _handled([signal.SIGALRM], signal.default_int_handler), _raised_again():
        yield


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    for ending in _ENDING:
        if signal.getsignal(ending) is _interrupt_once:
            signal.signal(ending, _hear_nothing)  # not SIG_IGN, which processes that are started now would inherit
    signal.default_int_handler(number, frame)


def _hear_nothing(number: int, frame: FrameType | None) -> None:
    """Stands for a signal that is not heard."""


@contextmanager
def _raised_again() -> Iterator[None]:
    """Set the alarm when an interrupt was dropped.

    Python goes on as if nothing had been where one is raised inside a finalizer, or inside the callback of a weak
    reference, which each import has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = sys.unraisablehook

    def hear(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _PAUSE)
        else:
            previous(dropped)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = previous


@contextmanager
def _deaf() -> Iterator[None]:
    with _handled((*_ENDING, signal.SIGINT, signal.SIGALRM), _hear_nothing):
        yield


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers, nor is interrupted
        yield
        return
    previous = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, was in previous.items():
            signal.signal(number, was)
