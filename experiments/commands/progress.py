"""Progress on a terminal; silent elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from experiments.console import PlainConsole, one_line
from privacy.accounting.text import epsilon_text

if TYPE_CHECKING:  # nothing of a sweep is loaded to show another command's progress
    from experiments.sweep.cells import Status
    from experiments.sweep.grid import Cell


class _Shown:
    """A progress display that is there while its ``with`` block runs."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


class SweepProgress(_Shown):
    """One bar of cells on a terminal, one line a cell elsewhere, both with the time left."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = PlainConsole(stderr=True)
        self._quiet, self._start = quiet, time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
        disable = quiet or not self._console.is_terminal
        self._progress = Progress(TextColumn("cells"), *columns, console=self._console, disable=disable)
        self._task = self._progress.add_task("cells", total=None)

    def __call__(self, cell: Cell, status: Status, done: int, total: int) -> None:
        """A cell ended."""
        self._progress.update(self._task, completed=done, total=total)
        if self._quiet:
            return
        left = (time.monotonic() - self._start) / done * (total - done)
        remaining = f", about {_duration(left)} left" if done < total else ""
        self._console.print(f"[{done}/{total}] {cell.name}: {status}{remaining}", highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class RunProgress(_Shown):
    """One bar per stage, with loss and the ε spent so far."""

    def __init__(self, *, quiet: bool) -> None:
        console = PlainConsole(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "round":
            notes = []
            if fields["loss"] is not None:
                notes.append(f"loss {fields['loss']:.3f}")
            if fields["epsilon"] is not None:
                notes.append(f"ε so far {epsilon_text(fields['epsilon'])}")
            self.update(f"rounds, seed {fields['seed']}", fields["round"], fields["rounds"], ", ".join(notes))
        elif event == "ctr":
            self.update("CTR models", fields["done"], fields["markets"], f"market {fields['market']}")

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """Move one bar; it is made on first use."""
        label = one_line(label)
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total, note="")
        self._progress.update(self._tasks[label], completed=done, note=note)
