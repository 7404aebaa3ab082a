"""What the commands have in common: exit status, and options that mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments.presentation.console import NULL

FINDING, USAGE = 1, 2

JsonFlag = Annotated[bool, typer.Option("--json", help=f"Print JSON for machines; {NULL}.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: as configured.")]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="HOST:PORT",
        help="Workers of this Ray cluster, of which this machine is a node, in place of processes here.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated.")
]
