"""Runs that a server announced to a market and that have not begun: a bounded place that costs the market nothing.

What stands here is the beginning of a run directory: the order to start, hellos, the mask key, and the first statement.
It becomes one, by one rename, once all markets have agreed on the first round. Before that nothing is counted as a run,
no row is read, and nothing is charged.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from privacy.files import erase, sync_directory

FOLDER = ".announced"
MOST = 16


@dataclass(frozen=True)
class Lobby:
    """The announced runs of one market.

    Attributes:
        runs: folder of the run directories.
        most: announced runs that are kept; a further one takes the place of the oldest.
    """

    runs: Path
    most: int = MOST

    def __contains__(self, run: str) -> bool:
        return self.path(run).is_dir()

    def path(self, run: str) -> Path:
        """Where an announced run stands."""
        return self.runs / FOLDER / run

    def enter(self, run: str) -> Path:
        """The place of a run that is announced, or was."""
        path = self.path(run)
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

    @staticmethod
    def _forget(path: Path) -> None:
        for key in path.rglob("*.key"):
            erase(key)
        shutil.rmtree(path)
