"""``fedmm init``: from files to a configuration that runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from experiments.commands.dialog import SPELLED, Dialog
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import command_text, say
from experiments.presentation.tables import say_folded
from fedmm_secure.config import MIN_COHORT, MarketFile, config_from_data
from fedmm_secure.data.questions import NO, NONE, YES, Answers
from fedmm_secure.errors import ConfigError
from fedmm_secure.foreign.yaml_text import parse_yaml
from privacy.files import write_atomic

if TYPE_CHECKING:
    from experiments.first_run.configuration import FirstChoices
    from experiments.first_run.look import Looked
    from fedmm_secure.data.prepare import PreparedMarket

INIT_HELP = (
    "Look at the markets' files, and write a commented configuration that runs, private with a budget.\n\n"
    "What the files leave open is asked; without a terminal, exit status 1 says which option answers it, and nothing "
    "is written. A file of public item ids beside each, NAME.items.txt, is the market's catalogue.\n\n"
    "Example: fedmm init de.csv fr.csv uk.parquet --out my.yaml"
)


def _choices(*values: str, help: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(click_type=click.Choice(values), help=help)
    return found


def _column(what: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        metavar="COLUMN",
        help=f"Column of {what}: a name, or a position from 0 without a header; repeat where files differ.",
    )
    return found


def init(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="One of each market: CSV, TSV, text, Parquet.")],
    out: Annotated[Path, typer.Option(help="Configuration to write.")] = Path("fedmm.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    epsilon: Annotated[float, typer.Option(help="Budget of each market; smaller is more private.")] = 8.0,
    user: Annotated[list[str] | None, _column("user ids")] = None,
    item: Annotated[list[str] | None, _column("item ids")] = None,
    rating: Annotated[list[str] | None, _column("ratings, or none")] = None,
    time: Annotated[list[str] | None, _column("times, or none")] = None,
    time_unit: Annotated[
        str | None,
        _choices(
            "iso", "s", "ms", "us", "ns", "number", NONE, help="What times count from 1970; none leaves them out."
        ),
    ] = None,
    separator: Annotated[
        list[str] | None, typer.Option(metavar="CHARACTER", help="Between fields: a character, tab or blank; repeat.")
    ] = None,
    header: Annotated[bool | None, typer.Option(help="Whether first lines name the columns.")] = None,
    quoting: Annotated[bool | None, typer.Option(help="Whether quotation marks enclose fields.")] = None,
    on_bad_rows: Annotated[str | None, _choices("error", "skip", help="Refuse them, or leave them out.")] = None,
    shared_users: Annotated[
        str | None, _choices("composed", "distinct", help="User ids of several markets: one person each, or several.")
    ] = None,
    min_item_train: Annotated[
        int | None, typer.Option(min=1, help="Training rows that an item needs to be measured on.")
    ] = None,
    catalogue: Annotated[
        str | None,
        _choices("discovered", "declared", help="Public items without files: found privately, or you vouch for all."),
    ] = None,
) -> None:
    """``fedmm init``."""
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; --force writes over it, --out names another file")
    from experiments.first_run.configuration import FirstChoices, configuration_text, split_catalogues  # reads tables
    from experiments.first_run.look import decide_catalogue, decide_pool, decide_shared_users

    rows, catalogues = split_catalogues([path.absolute() for path in files])  # as every command names them
    if len(rows) < MIN_COHORT:
        raise ConfigError(
            f"{len(rows)} file{'s' * (len(rows) != 1)} of rows: give one of each market, {MIN_COHORT} at least; with "
            "fewer, one market's update shows through the sum"
        )
    given: dict[str, Sequence[str] | None] = {
        "user": user,
        "item": item,
        "rating": rating,
        "time": time,
        "time_unit": _one(time_unit),
        "separator": None if separator is None else [SPELLED.get(one, one) for one in separator],
        "header": _yes_or_no(header),
        "quoting": _yes_or_no(quoting),
        "on_bad_rows": _one(on_bad_rows),
        "shared_users": _one(shared_users),
        "min_item_train": _one(None if min_item_train is None else str(min_item_train)),
        "catalogue": _one(catalogue),
    }
    dialog = Dialog({key: values for key, values in given.items() if values})
    root = Path(os.path.commonpath([path.absolute().parent for path in rows]))
    markets = _guess(dialog, root, rows, catalogues)
    if dialog.is_open:
        raise dialog.refusal()
    looked = dialog.settle(partial(_read, root, markets))
    if looked is None:
        raise dialog.refusal()
    shared = dialog.settle(partial(decide_shared_users, looked.markets))
    pool = dialog.settle(partial(decide_pool, looked.markets))
    chosen = None if pool is None else dialog.settle(partial(decide_catalogue, pool[1], epsilon=epsilon))
    if shared is None or pool is None or chosen is None:
        raise dialog.refusal()
    choices, prepared = FirstChoices(epsilon, chosen, shared, looked.on_bad_rows, pool[0]), pool[1]
    text = configuration_text(root, markets, choices, shlex.quote(str(out)))
    config_from_data(parse_yaml(text.encode(), out), source=str(out))
    try:
        write_atomic(out, text.encode())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    _tell(root, markets, choices, prepared, out)


def _one(answer: str | None) -> list[str] | None:
    return None if answer is None else [answer]


def _yes_or_no(answer: bool | None) -> list[str] | None:
    return None if answer is None else [YES if answer else NO]


def _guess(dialog: Dialog, root: Path, rows: Sequence[Path], catalogues: Mapping[Path, Path]) -> dict[str, MarketFile]:
    """How each market's file is read, with paths below ``root``; without those about which a question is open."""
    from experiments.first_run.configuration import market_names
    from fedmm_secure.data.guessing import guess_file
    from fedmm_secure.data.same_rows import refuse_same, same_files

    named = dict(zip(market_names(rows), rows, strict=True))
    refuse_same(same_files(named))
    every = len(catalogues) == len(rows)  # a catalogue of some markets alone is none of a run's choices
    markets = {}
    for name, path in named.items():
        file = dialog.settle(partial(guess_file, path))
        if file is not None:
            below: dict[str, Path | None] = {"path": path.absolute().relative_to(root)}
            if every:
                below["catalogue"] = catalogues[path].absolute().relative_to(root)
            markets[name] = file.model_copy(update=below)
    return markets


def _read(root: Path, markets: Mapping[str, MarketFile], answers: Answers) -> Looked:
    from experiments.first_run.look import read_all

    with TaskProgress("reading files") as progress:
        return read_all(root, markets, answers, progress.update)


def _tell(
    root: Path,
    markets: Mapping[str, MarketFile],
    choices: FirstChoices,
    prepared: Mapping[str, PreparedMarket],
    out: Path,
) -> None:
    from experiments.runs.markets import reading_lines

    for name, file in markets.items():
        columns = ", ".join(f"{role} {column!r}" for role, column in file.roles.items())
        say(f"{name}: {file.path}: {columns}" + ("" if file.time_unit is None else f" ({file.time_unit})"))
        for line in reading_lines(prepared[name]):
            say_folded(f"{name}: {line}")
    say(f"\n{out}: ε = {choices.epsilon:g} a market, models that may be published, catalogue: {choices.catalogue}")
    say("next, and what it spends before anything is trained:")
    for words in (("budget", out), ("run", out, "--out", "runs/first")):
        say(f"  {command_text(*words)}")
