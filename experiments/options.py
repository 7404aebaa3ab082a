"""What the commands have in common: exit status, and options that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from fedmm_secure.errors import ConfigError

FINDING, USAGE = 1, 2

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option(help="No progress bars.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: as configured.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated.")
]


def choose_market(market: str | None, users: Mapping[str, int]) -> str:
    """The market of ``--market``; by default the one with the fewest users.

    Raises:
        ConfigError: there is no such market.
    """
    name = market or min(users, key=lambda found: users[found])
    if name not in users:
        raise ConfigError(f"--market {name}: the markets are {', '.join(users)}")
    return name
