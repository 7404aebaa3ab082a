"""How much memory a process and those that it started take, as far as the kernel tells."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROC = Path("/proc")
INTERVAL = 0.5  # seconds between two looks, or more
_SHARE = 0.02  # of the time, at most, that goes into looking: the kernel adds up all pages of large processes


def memory_of_tree(pid: int) -> int:
    """Bytes of a process and its descendants; what several of them share counts once. 0 where the kernel tells nothing.

    Linux alone tells: "proportional set size", in which a page that n processes share counts 1/n in each.
    """
    return sum(_bytes(one, "smaps_rollup", "Pss:") for one in _tree(pid))


def own_peak() -> int:
    """The most bytes that this process alone has had at any time."""
    found = _bytes(os.getpid(), "status", "VmHWM:")
    if found:  # of this program; what getrusage says may be that of the one which started it
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """The largest sum that was seen of this process and its descendants, by what was going on.

    Args:
        largest: what was seen before; it is kept up to date.
    """

    def __init__(self, largest: dict[str, int]) -> None:
        self.largest = largest

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Look now and then while something of this name goes on, and once at its end."""
        over = threading.Event()

        def look() -> None:
            took = 0.0
            while not over.wait(max(INTERVAL, took / _SHARE)):
                start = time.thread_time()
                self._see(name)
                took = time.thread_time() - start

        watch = threading.Thread(target=look, name="memory", daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
            self._see(name)

    def _see(self, name: str) -> None:
        self.largest[name] = max(self.largest.get(name, 0), memory_of_tree(os.getpid()) or own_peak())


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for listed in _PROC.glob(f"{pid}/task/*/children"):
        for child in _text(listed).split():
            yield from _tree(int(child))


def _bytes(pid: int, file: str, field: str) -> int:
    for line in _text(_PROC / str(pid) / file).splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended, or belongs to somebody else
        return ""
