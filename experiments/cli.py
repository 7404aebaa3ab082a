"""``fedmm``: run, verify, attack, audit, report, data.

Exit status: 0 on success, 1 on a finding (a failed verification, a refused release), 2 on bad usage or input.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib import metadata
from typing import Annotated, ClassVar

import typer

from experiments.commands.interruption import InterruptibleGroup
from experiments.commands.lazy import CommandEntry, LazyGroup
from experiments.commands.mistakes import PlainSpokenGroup
from experiments.commands.options import FINDING, USAGE
from experiments.presentation.console import one_line, say
from privacy.errors import InputError, StoppedError

_HERE = "experiments.commands"


class Commands(PlainSpokenGroup, InterruptibleGroup, LazyGroup):
    """What ``fedmm`` can do; a command's own module says the rest."""

    entries: ClassVar = {
        "init": CommandEntry(f"{_HERE}.init", "init", "From market files to a configuration that runs."),
        "run": CommandEntry(f"{_HERE}.run", "run", "Run the pipeline on markets; by default on synthetic ones."),
        "data": CommandEntry(f"{_HERE}.data", "data_app", "Look at market data before running."),
        "budget": CommandEntry(f"{_HERE}.budget", "budget", "What a configuration spends, before anything is trained."),
        "verify": CommandEntry(f"{_HERE}.verify", "verify", "Check a run, or a compliance report."),
        "recommend": CommandEntry(f"{_HERE}.recommend", "recommend", "The top items for users, from a run."),
        "join": CommandEntry(f"{_HERE}.join", "join", "Let a market start from a run of others."),
        "attack": CommandEntry(f"{_HERE}.attack", "attack", "Attack a run and see what an adversary gets."),
        "audit": CommandEntry(f"{_HERE}.audit", "audit", "Try to refute that the code keeps a guarantee."),
        "report": CommandEntry(f"{_HERE}.report", "report", "A run's page again, or its compliance report."),
        "runs": CommandEntry(f"{_HERE}.list_runs", "runs", "List the runs and sweeps in a folder."),
        "compare": CommandEntry(f"{_HERE}.compare", "compare", "Runs side by side, with intervals."),
        "sweep": CommandEntry(f"{_HERE}.sweep", "sweep", "Run a grid of configurations and seeds."),
        "keys": CommandEntry(
            f"{_HERE}.keys", "keys_app", "Keys of a federation: who its parties are, what they share."
        ),
        "deploy": CommandEntry(f"{_HERE}.deploy", "deploy_app", "A federation as separate processes, over TLS."),
        "bench": CommandEntry(f"{_HERE}.bench", "bench_app", "Measure speed and size side by side."),
    }


app = typer.Typer(
    cls=Commands,
    help="Privacy-hardened federated recommendation: train, verify, attack, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click does
)


def _show_version(asked: bool) -> None:
    if asked:
        say(f"fedmm {metadata.version('fedmm-secure')}")
        raise typer.Exit


@app.callback()
def fedmm(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What all commands share: nothing."""


def main() -> None:
    """Entry point of the ``fedmm`` command."""
    os.umask(0o077)  # what a run leaves is private, whatever the shell says
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|opacus)\.")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        app(prog_name="fedmm")
    except InputError as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(USAGE)
    except StoppedError as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(FINDING)
