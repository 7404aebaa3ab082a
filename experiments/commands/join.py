"""``fedmm join``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.options import JsonFlag, SetOption
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table, say_folded
from experiments.presentation.text import figure_text
from experiments.runs.configuration import resolve
from fedmm_secure.storage.run_directory import default_directory, examining, read_foreign_config

JOIN_HELP = (
    "Let a market start from a finished run of others: their head, which never saw its rows, and their frozen global "
    "codebook. Nothing leaves the market. What it then serves is chosen by its validation rows; it has no guarantee, "
    "and is entered in the privacy account as a run without a budget. "
    "Where the run grew no head (--set head.trees=80, without a budget alone), it is one of generated markets. To "
    "become a party of a deployed federation: fedmm keys rotate --with.\n\n"
    "Example: fedmm join runs/six-markets xmarket --market jp --out runs/jp"
)


def join(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file that says where the market's rows are.")],
    market: Annotated[str, typer.Option(help="The market that joins.")],
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Where the result goes; default: runs/<time>-<market>.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm join``."""
    settings = resolve(config, overrides or [])
    from experiments.runs.markets import reading_lines  # brings the readers of tables
    from fedmm_secure.joining.join import join_market  # what trains

    directory, read = out or default_directory(market), list[str]()
    with examining(run), TaskProgress("joining", quiet=as_json):
        found = join_market(
            run,
            read_foreign_config(run),
            settings.data,
            market,
            directory,
            settings.privacy.account,
            lambda prepared: read.extend(reading_lines(prepared)),
        )
    if as_json:
        say_json(asdict(found))
        return
    for line in read:
        say_folded(f"{market}: {line}")
    table = Table(f"market {found.market}, {found.users} users", "validation AUC", "test AUC")
    for name, auc in found.auc.items():
        table.add_row(name, figure_text(found.validation.get(name)), figure_text(auc))
    wide_console().print(table)
    say(f"chosen by validation: {found.chosen}", f"models and codes  {directory}")
    say(f"no guarantee: {found.epsilon_note}")
