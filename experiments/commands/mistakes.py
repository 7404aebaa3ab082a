"""Wrong usage takes one line on the terminal, as every other mistake does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from click.exceptions import NoArgsIsHelpError
from typer.core import TyperGroup

from experiments.commands.options import USAGE
from experiments.presentation.console import one_line, say


class Misuse(click.ClickException):
    """What was wrong with a command line, and which help says more."""

    exit_code = USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the mistake as one line."""
        say(one_line(f"fedmm: {self.message}"), error=True)


class PlainSpokenGroup(TyperGroup):
    """The commands; a misuse of any is told on one line."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click's; a mistake in the arguments is a ``Misuse``."""
        with _in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's; a mistake of the user's is a ``Misuse``."""
        with _in_one_line():
            return super().invoke(ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except NoArgsIsHelpError:  # the help was asked for, in a way
        raise
    except click.UsageError as error:
        found = " ".join(error.format_message().split()).rstrip(".")
        where = "fedmm" if error.ctx is None else error.ctx.command_path
        raise Misuse(f"{found[:1].lower()}{found[1:]} ({where} --help)") from error
