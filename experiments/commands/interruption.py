"""Ctrl-C, SIGTERM and SIGHUP, memory and disks that run out: how to go on is said, whatever it was, and workers end.

The exit status is 130 where somebody stopped it, and 1 where memory or a disk did.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from click import Context
from typer.core import TyperGroup

from experiments.deploy.processes import interruptible
from experiments.presentation.console import command_text, one_line, say
from fedmm_secure.executors.base import WorkerLostError
from privacy.errors import StoppedError

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
GoOn = Callable[[], str | None]


@contextmanager
def resumable(go_on: GoOn) -> Iterator[None]:
    """What is interrupted inside goes on by a command of its own; ``None`` where there is nothing yet to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interruption(go_on()) from None
    except (MemoryError, RuntimeError, WorkerLostError) as error:
        if not lacks_memory(error):
            raise
        raise MemoryShortageError(error, go_on()) from error
    except OSError as error:
        if not lacks_space(error):
            raise
        raise FullDiskError(error, go_on()) from error


class Interruption(KeyboardInterrupt):
    """An interruption of which is known how to go on."""

    def __init__(self, command: str | None) -> None:
        super().__init__()
        self.command = command


class MemoryShortageError(StoppedError):
    """What a command or one of its processes asked for was more than the machine, or a limit, had left.

    Args:
        error: what was raised.
        command: that goes on; None where it is run again.
    """

    def __init__(self, error: BaseException, command: str | None) -> None:
        what = " ".join(str(error).split())[:200]
        told = f"out of memory{f' ({what})' if what else ''}: free some (a run with workers: 1 needs less)"
        super().__init__(f"{told}; {_next(command)}")


class FullDiskError(StoppedError):
    """A disk, or somebody's share of it, took no more.

    Args:
        error: what was raised.
        command: that goes on; None where it is run again.
    """

    def __init__(self, error: OSError, command: str | None) -> None:
        where = "" if error.filename is None else f"{error.filename}: "
        super().__init__(f"{where}the disk is full: free some, files are as they were before; {_next(command)}")


def lacks_space(error: OSError) -> bool:
    """Whether a disk, or a quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def lacks_memory(error: BaseException) -> bool:
    """Whether an allocation failed here, or a process that worked for this one was killed, as for want of memory."""
    if isinstance(error, MemoryError | WorkerLostError):
        return True
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, which nobody loads to ask
        return True
    told = "can't allocate memory", "CUDA out of memory"  # PyTorch's
    return isinstance(error, RuntimeError) and any(what in str(error) for what in told)


def _next(command: str | None) -> str:
    return f"go on with: {command}" if command else f"run it again with: {command_text(*sys.argv[1:])}"


class InterruptibleGroup(TyperGroup):
    """The commands; an interruption of any ends with how to go on."""

    def invoke(self, ctx: Context) -> Any:
        """As click's, with signals that end it as an interrupt does."""
        try:
            with interruptible():
                return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            command = interruption.command if isinstance(interruption, Interruption) else None
            say(one_line(f"fedmm: stopped; {_next(command)}"), error=True)
            raise typer.Exit(INTERRUPTED) from None
        except (MemoryError, RuntimeError, WorkerLostError) as error:
            if not lacks_memory(error):
                raise
            raise MemoryShortageError(error, None) from error
        except OSError as error:
            if not lacks_space(error):
                raise
            raise FullDiskError(error, None) from error
