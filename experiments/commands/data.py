"""``fedmm data``: look at market data before a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.options import USAGE, JsonFlag, SetOption
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import command_text, one_line, say, say_json, wide_console
from experiments.presentation.tables import Table, say_folded
from experiments.runs.configuration import QUICKSTART, resolve
from fedmm_secure.config import SyntheticSpec

data_app = typer.Typer(help="Look at market data before running.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command(
    "info",
    short_help="Sizes, pool and candidates of markets.",
    help="Sizes, pool and candidates of a configuration's markets.\n\nExample: fedmm data info xmarket",
)
def data_info(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")] = QUICKSTART,
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm data info``."""
    settings = resolve(config, overrides or [])
    from experiments.runs.markets import market_summary, reading_lines  # brings the readers of tables
    from fedmm_secure.data.prepare import prepare_markets

    with TaskProgress("reading markets", quiet=as_json):
        prepared = prepare_markets(settings.data)
    summary = market_summary(prepared)
    if as_json:
        for name, found in prepared.items():
            reading = found.whole.market.reading
            read = None if reading is None else {**asdict(reading), "outside_catalogue": found.rows_outside}
            summary[name]["reading"] = read
        say_json(summary)
        return
    columns = list(next(iter(summary.values())))
    table = Table("market", *columns)
    for name, values in summary.items():
        table.add_row(name, *map(_cell, values.values()))
    wide_console().print(table)
    for name, found in prepared.items():
        _print_lines(name, reading_lines(found))


@data_app.command(
    "check",
    short_help="Check every market for problems.",
    help="Load and check every market; report all problems.\n\nExample: fedmm data check my.yaml",
)
def data_check(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")],
    overrides: SetOption = None,
) -> None:
    """``fedmm data check``."""
    settings = resolve(config, overrides or [])
    from experiments.runs.markets import check_markets, reading_lines  # brings the readers of tables

    with TaskProgress("reading markets"):
        fit, problems = check_markets(settings.data)
    for name, found in fit.items():
        say_folded(f"{name}: catalogue of {len(found.catalogue)} items ({found.catalogue.kind})")
        _print_lines(name, reading_lines(found))
    for problem in problems:
        say(one_line(problem), error=True)
    if problems:
        raise typer.Exit(USAGE)
    advised = [name for name, found in fit.items() if found.whole.market.advice]
    look = f"; look at what is said of {', '.join(advised)}" if advised else ""
    say(f"{config}: all markets are fit to use{look}")


@data_app.command(
    "synthesize",
    short_help="Write synthetic markets as CSV files.",
    help="Write synthetic markets as CSV files, each with a file of its catalogue; other files of these names stay.\n\n"
    "Example: fedmm data synthesize markets/ --markets 3",
)
def data_synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to write <market>.csv and <market>.items.txt into.")],
    markets: Annotated[int, typer.Option(min=1, max=1000, help="Markets to generate.")] = 3,
    users: Annotated[int, typer.Option(min=20, help="Users of each market.")] = 1000,
    items: Annotated[int, typer.Option(min=20, help="Items of each market.")] = 120,
    seed: Annotated[int, typer.Option(help="Of the generator; the quickstart's is 0.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Write over files that hold something else.")] = False,
) -> None:
    """``fedmm data synthesize``."""
    from experiments.runs.markets import synthesize_files  # brings the writers of tables

    spec = SyntheticSpec(markets=markets, users=users, items=items, seed=seed)
    with TaskProgress("generating markets"):
        files = synthesize_files(spec, out, force=force)
    for file in files.values():
        say(*(out / path for path in (file.path, file.catalogue) if path is not None))


@data_app.command(
    "canaries",
    short_help="Put an auditor's canary users among a market's rows.",
    help="Put canary users among the rows of a market, each in or out by a coin of a fresh nonce: a copy of its file "
    "with the rows of those who are in, its catalogue with the items of all, and a configuration that commits to the "
    "auditor's file. To a run they are users like all others; fedmm audit RUN --users reads them through what it "
    "published. The auditor keeps canaries.json until then.\n\n"
    "Example: fedmm data canaries xmarket-release audit/jp --market jp",
)
def data_canaries(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")],
    out: Annotated[Path, typer.Argument(help="New folder for all of it.")],
    market: Annotated[str, typer.Option(help="Market that the canary users are of.")],
    count: Annotated[int, typer.Option(min=16, max=5000, help="Candidates; about half of them are in.")] = 100,
    overrides: SetOption = None,
) -> None:
    """``fedmm data canaries``."""
    settings = resolve(config, overrides or [])
    from experiments.runs.canary_files import write_canary_files  # brings the readers of tables

    with TaskProgress("reading markets"):
        written = write_canary_files(settings, market, count, out)
    say(f"{written.present} of {count} candidates are in; the auditor keeps {written.secret}")
    say(f"their rows alone: {written.rows}")
    say(f"a run on them: {command_text('run', written.config)}")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_lines(name: str, lines: Iterable[str]) -> None:
    for line in lines:
        say_folded(f"{name}: {line}")
