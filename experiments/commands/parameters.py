"""Arguments and options of the commands, whose help says what they are for.

Typer escapes brackets for rich where rich is installed, printed by rich or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import typer.main
from typer.core import TyperArgument, TyperOption


class Argument(TyperArgument):
    """An argument whose help is as it is to be read."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Name and help, with brackets as they were written."""
        name, text = super().get_help_record(ctx) or ("", "")
        return name, _unescaped(text)


class Option(TyperOption):
    """An option whose help is as it is to be read."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Name and help, with brackets as they were written; None for a hidden one."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], _unescaped(record[1]))


def _unescaped(text: str) -> str:
    return text.replace("\\[", "[")


@contextmanager
def readable_parameters() -> Iterator[None]:
    """Commands that Typer makes inside have these arguments and options; Typer has no setting for them."""
    classes = {"TyperArgument": Argument, "TyperOption": Option}
    before = {name: getattr(typer.main, name) for name in classes}
    try:
        for name, found in classes.items():
            setattr(typer.main, name, found)
        yield
    finally:
        for name, found in before.items():
            setattr(typer.main, name, found)
