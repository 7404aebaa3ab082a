"""A group of commands that is listed without them: each is imported when it is called, or asked for its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperGroup

from experiments.commands.parameters import readable_parameters


@dataclass(frozen=True)
class CommandEntry:
    """A command, or a group of commands, that is not loaded yet.

    Attributes:
        module: that defines it.
        name: in the module, of a function that is the command and whose help stands beside it as ``<NAME>_HELP``;
            or of a ``Typer``, a group.
        summary: one line for the list of commands.
    """

    module: str
    name: str
    summary: str

    def load(self, name: str) -> click.Command:
        """The command, under the name that it is called by."""
        module = import_module(self.module)
        found = getattr(module, self.name)
        with readable_parameters():
            if isinstance(found, typer.Typer):
                group = typer.main.get_group(found)
                group.name, group.suggest_commands = name, False  # click does
                return group
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, help=getattr(module, f"{self.name.upper()}_HELP"))(found)
            return typer.main.get_command(alone)


class LazyGroup(TyperGroup):
    """A group whose commands are ``entries``, by name; a subclass says which."""

    entries: ClassVar[Mapping[str, CommandEntry]]

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        # by name and summary alone: what is listed, and what a misspelt name is compared with
        self.commands = {name: click.Command(name, short_help=entry.summary) for name, entry in self.entries.items()}
        self._loaded: dict[str, click.Command] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of ``entries``; nothing is imported."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, imported when it is asked for; None where there is none of this name."""
        if cmd_name in self.entries and cmd_name not in self._loaded:
            self._loaded[cmd_name] = self.entries[cmd_name].load(cmd_name)
        return self._loaded.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, of their summaries alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])
