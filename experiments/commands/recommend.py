"""``fedmm recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.options import JsonFlag
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say_json, wide_console
from experiments.presentation.tables import Table
from experiments.runs.configuration import readers_data
from fedmm_secure.errors import ConfigError, DataError
from fedmm_secure.storage.run_directory import examining, read_foreign_config

RECOMMEND_HELP = (
    "The top items of a market for its users, or for new ones whose rows --history holds. What users have met already "
    "is left out; rows of unknown items say nothing. Under protect: release scores come from what the run published "
    "and from each user's own rows. Files that were changed since the run was closed are refused.\n\n"
    "Example: fedmm recommend runs/x --market mx --user A1B2 -k 5"
)


def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    market: Annotated[str, typer.Option(help="Whose items.")],
    user: Annotated[
        list[str] | None, typer.Option(help="User; may be repeated. Default: all whose rows --history holds.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="Items for each user.")] = 10,
    history: Annotated[
        Path | None,
        typer.Option(help="Rows of users, columns as in the market's own file; in place of what that says of them."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the markets' files, where the run read any; default: that in FEDMM_DATA."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm recommend``."""
    if not user and history is None:
        raise ConfigError("recommend to whom? name them with --user, or give rows of new ones with --history")
    with examining(run), TaskProgress("ranking items", quiet=as_json):
        config = read_foreign_config(run)
        config = config.model_copy(update={"data": readers_data(config.data, data)})
        from fedmm_secure.data.prepare import load_history
        from fedmm_secure.recommending.recommend import Recommender

        recommender = Recommender(run, config, market)
        rows = None if history is None else load_history(config.data, market, history)
        if rows is not None and not recommender.knows_any(rows):
            raise DataError(f"{history}: no row of --history names an item of {market}; is it another market's file?")
        users = user or ([] if rows is None else list(map(str, rows.user_ids)))
        found = recommender(users, k, rows)
    records = found.to_dict("records")
    if as_json:
        say_json(records)
        return
    table = Table("user", "rank", "item", "score", "rows known")
    for line in records:
        table.add_row(line["user"], str(line["rank"]), line["item"], f"{line['score']:.4f}", str(line["history"]))
    wide_console().print(table)
