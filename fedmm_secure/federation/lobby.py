"""Runs that a server announced to a market and that have not begun: a bounded place that costs the market nothing.

What stands here is the beginning of a run directory: the order to start, hellos, the mask key, and the first statement.
It becomes one, by one rename, once all markets have agreed on the first round. Before that nothing is counted as a run,
and nothing is charged.

A run that is pushed out takes along what the market has signed in it, so its name is kept: announced again, the market
would sign another hello, and another statement of the same attempt.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedmm_secure.federation.requests import RequestError
from privacy.accounting.lines import append_line, drop_torn_tail
from privacy.files import erase, sync_directory

FOLDER, FORGOTTEN = ".announced", ".forgotten"
MOST, MOST_FORGOTTEN = 16, 4096


class ForgottenRunError(RequestError):
    """A run that was announced before and pushed out, or one too many to remember."""


@dataclass(frozen=True)
class Lobby:
    """The announced runs of one market.

    Attributes:
        runs: folder of the run directories.
        most: announced runs that are kept; a further one takes the place of the oldest.
        most_forgotten: runs that may be pushed out; after them no further one is taken, until the operator looks.
    """

    runs: Path
    most: int = MOST
    most_forgotten: int = MOST_FORGOTTEN

    def __contains__(self, run: str) -> bool:
        return self.path(run).is_dir() and run not in self._forgotten()

    def path(self, run: str) -> Path:
        """Where an announced run stands."""
        return self.runs / FOLDER / run

    def enter(self, run: str) -> Path:
        """The place of a run that is announced, or was.

        Raises:
            ForgottenRunError: it was pushed out, or so many were that no further name can be kept.
        """
        path = self.path(run)
        if run in self._forgotten():
            raise ForgottenRunError("this run was announced before and pushed out by others; start another one")
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            others = sorted(path.parent.iterdir(), key=lambda other: other.stat().st_mtime_ns)
            for other in others[: max(0, len(others) - self.most + 1)]:
                self._forget(other)
            path.mkdir(mode=0o700)
        return path

    def leave(self, run: str) -> Path:
        """Make a run directory of an announced run; returns where it stands now."""
        directory = self.runs / run
        self.path(run).rename(directory)
        sync_directory(self.runs)
        return directory

    def _forgotten(self) -> set[str]:
        """Names of the runs that were pushed out."""
        path = self.runs / FORGOTTEN
        return set(path.read_text().splitlines()) if path.exists() else set()

    def _forget(self, path: Path) -> None:
        names, forgotten = self.runs / FORGOTTEN, self._forgotten()
        if path.name not in forgotten:  # else a crash left its folder
            if len(forgotten) >= self.most_forgotten:
                raise ForgottenRunError(
                    f"{len(forgotten)} announced runs came to nothing: rotate the keys, then its operator may delete "
                    f"runs/{FORGOTTEN}"
                )
            if names.exists():
                drop_torn_tail(names)
            append_line(names, path.name.encode() + b"\n")  # before what it stands for is gone
        for key in path.rglob("*.key"):
            erase(key)
        shutil.rmtree(path)
