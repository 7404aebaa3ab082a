"""Progress of whatever takes long: bars on a terminal, elsewhere a line every half minute; both with the time left.

A command opens one display; whatever runs inside tells it of its steps (``experiments.presentation.steps``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.presentation.console import PlainConsole, one_line
from experiments.presentation.steps import shown_on
from privacy.accounting.text import epsilon_text

if TYPE_CHECKING:  # nothing of a sweep is loaded to show another command's progress
    from experiments.sweep.cells import Status
    from experiments.sweep.grid import Cell

LINE_SECONDS = 30.0
HEAD_STEP, CTR_STEP = "levels of the head", "CTR models"
_NARROW = 72  # columns of a terminal below which only what matters is shown


@dataclass
class _Step:
    """What is known of a step that takes long.

    Attributes:
        start: when it began, in seconds.
        first: how much of it was done then.
        done: how much is.
        total: how much there is; None where nobody knows.
        reached: when ``done`` last rose.
        note: what else there is to say.
        task: its bar.
    """

    start: float
    first: int
    done: int
    total: int | None
    reached: float = 0.0
    note: str = ""
    task: TaskID | None = None

    def line(self, label: str, now: float) -> str:
        """The step in one line."""
        elapsed = now - self.start
        parts = [f"{self.done} of {self.total}"] if self.total is not None else []
        parts.append(f"{duration_text(elapsed)} so far")
        left = self.left(now)
        if left is not None:
            parts.append(f"about {duration_text(left)} left")
        if self.note:
            parts.append(self.note)
        return f"{label}: {', '.join(parts)}"

    def left(self, now: float) -> float | None:
        """Seconds, if each of the rest takes as long as those that are done; None once one takes longer than all."""
        made = self.done - self.first
        if self.total is None or made <= 0:
            return None
        each, waited = (self.reached - self.start) / made, now - self.reached
        rest = each * (self.total - self.done)
        return rest - min(waited, each) if waited < rest else None

    @property
    def is_over(self) -> bool:
        """Whether all of it is done."""
        return self.total is not None and self.done >= self.total


class TaskProgress:
    """The display of one command, there while its ``with`` block runs."""

    def __init__(self, label: str = "working", *, quiet: bool = False) -> None:
        self._label, self._quiet = label, quiet
        self._console = PlainConsole(stderr=True)
        self._shown = self._console.is_terminal and not quiet
        self._progress = Progress(
            *_columns(self._console.width), console=self._console, disable=not self._shown, transient=True
        )
        self._steps: dict[str, _Step] = {}
        self._latest = label
        self._over = threading.Event()
        self._teller: threading.Thread | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(shown_on(self))
        self._begin(self._label, 0, None)
        self._progress.start()
        if self._shown:
            self._steps[self._label].task = self._progress.add_task(self._label, total=None, note="")
        elif not self._quiet:
            self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)
            self._teller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._progress.stop()
        if self._teller is not None:
            self._teller.join()
        self._open.close()

    def update(self, label: str, done: int, total: int | None, note: str = "") -> None:
        """Move one step on; it begins with its first update, and again where less is done than before."""
        label = one_line(label)
        step, now = self._steps.get(label), time.monotonic()
        if step is None or done < step.done:
            step = self._begin(label, done, total)
        if done > step.done:
            step.reached = now
        step.done, step.total, step.note = done, total, one_line(note)
        self._latest = label
        if self._shown and step.task is None:
            self._hide_unmeasured()
            step.task = self._progress.add_task(label, total=total, note="")
        if step.task is not None:
            self._progress.update(step.task, completed=done, total=total, note=step.note)

    def begin(self, label: str) -> None:
        """A step begins, for the first time or again; how much there is of it may be told later."""
        self._begin(one_line(label), 0, None)
        self.update(label, 0, None)

    def _begin(self, label: str, done: int, total: int | None) -> _Step:
        before, now = self._steps.get(label), time.monotonic()
        if before is not None:
            self._hide(before)
        step = _Step(now, done, done, total, now)
        # the last that began is the last of them; whoever reads them meanwhile has all of the old ones or of the new
        self._steps = {**{name: known for name, known in self._steps.items() if name != label}, label: step}
        return step

    def _hide_unmeasured(self) -> None:
        """Bars without an end say nothing once another step has one."""
        for step in self._steps.values():
            if step.total is None:
                self._hide(step)

    def _hide(self, step: _Step) -> None:
        if step.task is not None:
            self._progress.remove_task(step.task)
            step.task = None

    def _tell(self) -> None:
        while not self._over.wait(LINE_SECONDS):
            label = self._running()
            self._say(self._steps[label].line(label, time.monotonic()))

    def _running(self) -> str:
        """The step that was told of last; once it is done, the last that began and is not: what it was a part of."""
        steps, latest = self._steps, self._latest
        if not steps[latest].is_over:
            return latest
        return next((label for label, step in reversed(steps.items()) if not step.is_over), latest)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def duration_text(seconds: float) -> str:
    """A duration as a clock shows it, ``m:ss`` or ``h:mm:ss``: of two moments the texts differ."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns(width: int) -> list[ProgressColumn]:
    name: ProgressColumn = TextColumn("{task.description}", markup=False)
    if width < _NARROW:
        return [name, MofNCompleteColumn(), TimeRemainingColumn(compact=True)]
    note = TextColumn("{task.fields[note]}", markup=False)
    return [name, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), note]


_STAGES = {  # of the pipeline, as its stopwatch names them; where steps are told later, by the steps' own name
    "budget": "budget",
    "catalogue": "catalogue",
    "sums": "sums over markets",
    "embedding": "embeddings",
    "quantizer": "codebook",
    "head": HEAD_STEP,
    "refinement": "codes of each market",
    "field": "baselines that markets train together",
    "ctr": CTR_STEP,
    "evaluation": "evaluation figures",
    "tasks": "further tasks",
    "metrics": "metrics",
}


class RunProgress(TaskProgress):
    """The stages of a run as they begin, with loss and the ε spent so far."""

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Show an event of the run's log."""
        run = f"{fields['run']}: " if "run" in fields else ""
        if event == "stage":
            self.begin(run + _STAGES[fields["stage"]])
        elif event == "head":
            self.update(run + HEAD_STEP, fields["round"], fields["rounds"])
        elif event == "round":
            notes = []
            if fields["loss"] is not None:
                notes.append(f"loss {fields['loss']:.3f}")
            if fields["epsilon"] is not None:
                notes.append(f"ε so far {epsilon_text(fields['epsilon'])}")
            self.update(f"{run}rounds, seed {fields['seed']}", fields["round"], fields["rounds"], ", ".join(notes))
        elif event == "ctr":
            self.update(run + CTR_STEP, fields["done"], fields["markets"], f"market {fields['market']}")


class SweepProgress(TaskProgress):
    """The cells of a sweep, a line each besides."""

    def __call__(self, cell: Cell, status: Status, done: int, total: int) -> None:
        """A cell ended."""
        self.update("cells", done, total)
        if self._quiet:
            return
        step, now = self._steps["cells"], time.monotonic()
        left = (now - self._steps[self._label].start) / done * (total - done)
        remaining = f", about {duration_text(left)} left" if done < total else ""
        self._say(f"[{step.done}/{total}] {cell.name}: {status}{remaining}")
