"""``fedmm compare``: runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.options import JsonFlag
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import difference_text, epsilon_over_markets, figure_text
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import examining, read_metrics
from privacy.accounting.text import epsilon_text
from privacy.files import write_json

if TYPE_CHECKING:
    from experiments.runs.comparison import AUCDifference

COMPARE_HELP = (
    "Runs side by side: test AUC, and the differences from the first with 95 % intervals, paired where the runs ranked "
    "the same candidates.\n\n"
    "Example: fedmm compare runs/a runs/b runs/c --out runs/comparison"
)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories; the first is compared with.")],
    model: Annotated[str, typer.Option(help="Model to compare: fedmm (as configured), or a baseline.")] = CONFIGURED,
    out: Annotated[Path | None, typer.Option(help="Write the table and a figure here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm compare``."""
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    from experiments.presentation.drawing import write_drawing
    from experiments.runs.comparison import (
        COMPARISON_TABLE,
        compare_runs,
        comparison_table,
        draw_comparison,
        records_of,
    )
    from fedmm_secure.storage.files import write_parquet

    with TaskProgress("comparing", quiet=as_json), ExitStack() as stack:
        for run in runs:
            stack.enter_context(examining(run))
        found = compare_runs(runs, model)
        metrics = [read_metrics(run) for run in runs]
        epsilons = {
            view: [epsilon_text(epsilon_over_markets(own, view)) for own in metrics] for view in ("market", "release")
        }
    table = comparison_table(found)
    if out is not None:
        write_parquet(out / COMPARISON_TABLE, table)
        write_json(out / "comparison.json", records_of(table))
        write_drawing(out, draw_comparison(table))
    if as_json:
        say_json(records_of(table))
        return
    _print_comparison(found, epsilons)
    if out is not None:
        say(f"\ntable and figure  {out}")


def _print_comparison(found: Sequence[AUCDifference], epsilons: Mapping[str, Sequence[str]]) -> None:
    names = list(dict.fromkeys(row.run for row in found))
    by_place = {(row.run, row.market): row for row in found}
    table = Table("test AUC", *names)
    for market in dict.fromkeys(row.market for row in found):
        table.add_row(market, *(_cell(by_place.get((name, market))) for name in names))
    macro = [_macro(found, name, names[0]) for name in names]
    table.add_row("macro", *macro)
    for view, texts in epsilons.items():
        table.add_row(f"ε {view}", *texts)
    wide_console().print(table)
    if any(row.difference is not None and not row.paired for row in found):
        say("~ not paired: other candidates; the interval is Welch's t over seeds, and there is none with one seed")
    say("macro: over the markets that all runs have")


def _cell(row: AUCDifference | None) -> str:
    if row is None:
        return "–"
    if row.difference is None:
        return figure_text(row.auc)
    return f"{figure_text(row.auc)}  {'' if row.paired else '~'}{difference_text(vars(row.difference))}"


def _macro(found: Sequence[AUCDifference], name: str, first: str) -> str:
    runs = {row.run for row in found}
    shared = set.intersection(*({row.market for row in found if row.run == run} for run in runs))

    def mean(run: str) -> float:
        own = [row.auc for row in found if row.run == run and row.market in shared]
        return fmean(math.nan if auc is None else auc for auc in own) if own else math.nan

    difference = mean(name) - mean(first)
    told = name != first and math.isfinite(difference)
    return figure_text(mean(name)) + (f"  {difference:+.3f}" if told else "")
