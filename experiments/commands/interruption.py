"""Ctrl-C, SIGTERM and SIGHUP: how to go on is said, whatever was interrupted, and its workers end; exit status 130."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from click import Context
from typer.core import TyperGroup

from experiments.deploy.processes import interruptible
from experiments.presentation.console import command_text, one_line, say

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
GoOn = Callable[[], str | None]


@contextmanager
def resumable(go_on: GoOn) -> Iterator[None]:
    """What is interrupted inside goes on by a command of its own; ``None`` where there is nothing yet to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interruption(go_on()) from None


class Interruption(KeyboardInterrupt):
    """An interruption of which is known how to go on."""

    def __init__(self, command: str | None) -> None:
        super().__init__()
        self.command = command


class InterruptibleGroup(TyperGroup):
    """The commands; an interruption of any ends with how to go on."""

    def invoke(self, ctx: Context) -> Any:
        """As click's, with signals that end it as an interrupt does."""
        try:
            with interruptible():
                return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            command = interruption.command if isinstance(interruption, Interruption) else None
            text = f"go on with: {command}" if command else f"run it again with: {command_text(*sys.argv[1:])}"
            say(one_line(f"fedmm: stopped; {text}"), error=True)
            raise typer.Exit(INTERRUPTED) from None
