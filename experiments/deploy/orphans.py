"""Ends what a killed process had started: run beside it as a script, with nothing but the standard library.

SIGKILL leaves a process no time to end its children, and some of them leave its group and start others: nothing of the
kernel's bounds them. But it closes the process's end of a pipe. Whoever reads the other end then ends everything that
carries the process's mark in its environment, and all that descends from it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE, PAUSE = 60.0, 0.2
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_QUIET = 5  # looks that have to find nothing: one that was just started may not carry its mark yet


def marked(text: bytes) -> dict[int, int]:
    """Living processes with such a line in their environment, and what they started, each with the time of its start.

    A process may write over its own environment, as those do that change their title: whatever descends from a marked
    one belongs to it.
    """
    found: dict[int, int] = {}
    started, children = dict[int, int](), dict[int, list[int]]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # gone meanwhile, or somebody else's
            pid = int(folder.name)
            state, parent, start = _stat(folder)
            if state == "Z":
                continue
            started[pid] = start
            children.setdefault(parent, []).append(pid)
            if text in (folder / "environ").read_bytes().split(b"\0"):
                found[pid] = start
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found[child] = started[child]
                waiting.append(child)
    return found


def living(known: dict[int, int]) -> dict[int, int]:
    """Those of known processes that still live: the same number and time of start."""
    found = {}
    for pid, start in known.items():
        with suppress(OSError, ValueError):
            state, _, since = _stat(Path("/proc") / str(pid))
            if state != "Z" and since == start:
                found[pid] = start
    return found


def _stat(folder: Path) -> tuple[str, int, int]:
    """State, parent, and start in ticks since the machine's; of proc(5), behind a name that may hold anything."""
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def sweep(
    text: bytes,
    known: dict[int, int] | None = None,
    *,
    grace: float = _GRACE,
    patience: float = PATIENCE,
    looks: int = _QUIET,
) -> None:
    """End known processes, all that carry the mark, and what they start meanwhile.

    Args:
        text: the mark, a line of their environment.
        known: processes, each with the time of its start, that belong to them whatever they carry.
        grace: seconds between SIGTERM and SIGKILL; none where SIGTERM was sent before.
        patience: seconds after which whatever still lives is left.
        looks: how many in a row have to find nothing.
    """
    start, quiet, left = time.monotonic(), 0, known or {}
    while time.monotonic() - start < patience:
        left = living(left) | marked(text)
        quiet = 0 if left else quiet + 1
        if quiet >= looks:
            return
        how = signal.SIGTERM if time.monotonic() - start < grace else signal.SIGKILL
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, how)
        time.sleep(PAUSE)


def main() -> None:
    """Read the mark, then wait: a second line says that all is tidied up, the end of the pipe that it never will be."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever ends a group of processes must not end this one
    text = sys.stdin.buffer.readline().rstrip(b"\n")
    if not sys.stdin.buffer.readline() and text:
        sweep(text)


if __name__ == "__main__":
    main()
