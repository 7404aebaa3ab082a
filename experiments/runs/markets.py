"""Looking at market data before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.presentation.steps import track
from fedmm_secure.config import Config, DataConfig, MarketFile, SyntheticSpec
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket, market_paths, prepare_markets, sizes
from fedmm_secure.data.same_rows import same_files, same_rows
from fedmm_secure.data.shared_items import shared_catalogue
from fedmm_secure.data.synthetic import synthesize_one
from fedmm_secure.data.times import utc_text
from fedmm_secure.errors import ConfigError, DataError
from privacy.files import PUBLIC_MODE, write_atomic

SHARED_ITEMS_FILE = "shared-items.txt"
_ROWS = 2**18  # that are written at a time


def market_summary(prepared: Mapping[str, PreparedMarket]) -> dict[str, dict[str, Any]]:
    """Sizes of each market, its pool and its candidates; ``n_items`` is the size of its catalogue.

    ``first`` and ``last`` are times in UTC, of plain numbers the smallest and the largest; None without times.
    """
    return {
        name: {"catalogue": found.catalogue.kind, **_times(found.whole.market), **sizes(found)}
        for name, found in prepared.items()
    }


def _times(market: Market) -> dict[str, str | None]:
    if not market.has_time:
        return {"first": None, "last": None}
    shown = utc_text if market.calendar else str
    return {"first": shown(int(market.time.min())), "last": shown(int(market.time.max()))}


def check_markets(config: DataConfig) -> tuple[dict[str, PreparedMarket], list[str]]:
    """The markets that can be used, and one line for each that cannot."""
    if config.synthetic is not None:
        return prepare_markets(config), []
    fit: dict[str, PreparedMarket] = {}
    files = market_paths(config)
    problems = list(same_files(files))
    for name, file in track("markets checked", config.markets.items()):
        try:
            fit |= prepare_markets(config.model_copy(update={"markets": {name: file}}))
        except DataError as error:
            problems.append(str(error))
    alike = same_rows([found.whole.market for found in fit.values()], files)
    return fit, [*problems, *(line for line in alike if line not in problems)]


def reading_lines(prepared: PreparedMarket) -> list[str]:
    """What was read of a market's file, and what its operator should look at; nothing of a generated market."""
    market = prepared.whole.market
    found = market.reading
    if found is None:
        return []
    lines = [
        f"{found.lines} lines: {found.rows} rows, {found.bad} bad ({found.missing} of them with a field missing), "
        f"{found.merged} merged into a later row, {found.header} header, {found.blank} blank",
        f"{found.users} users, {found.items} items; {found.largest_user} rows at most of one user",
    ]
    if market.catalogue is not None:
        inside, outside = prepared.market.n_rows, prepared.rows_outside
        lines.insert(
            1, f"{inside} of the rows are of items in the catalogue and used, {outside} of others and left out"
        )
    if found.first is not None:
        lines.append(f"from {found.first} to {found.last}" + (" (UTC)" if market.calendar else ", plain numbers"))
    return [*lines, *(f"look: {advice}" for advice in market.advice)]


def synthesize_files(spec: SyntheticSpec, out: Path, *, force: bool = False) -> dict[str, MarketFile]:
    """Write generated markets as ``<out>/<market>.csv`` and their catalogues as ``<out>/<market>.items.txt``.

    Args:
        spec: what to generate.
        out: folder, made where there is none.
        force: write over files that hold something else; one that holds the same stays as it is.

    Returns:
        How a configuration whose ``data.root`` is ``out`` names them.

    Raises:
        ConfigError: a file of something else is there, or none can be written; in the first case nothing was written.
    """
    files: dict[str, MarketFile] = {}
    texts: dict[Path, bytes] = {}
    for index in range(spec.markets):
        market = synthesize_one(spec, index).market
        columns = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
        path, catalogue = Path(f"{market.name}.csv"), Path(f"{market.name}.items.txt")
        texts[out / path] = b"".join(_lines(market))
        texts[out / catalogue] = "".join(f"{item}\n" for item in market.item_ids).encode()
        files[market.name] = MarketFile(path=path, catalogue=catalogue, **columns)
    try:
        _write_files(texts, force=force)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
    return files


def as_files(config: Config, folder: Path) -> Config:
    """The same markets; generated ones become files of one market each, in ``folder``."""
    if config.data.synthetic is None:
        return config
    files, privacy = synthesize_files(config.data.synthetic, folder), config.privacy
    if privacy.catalogue == "discovered":
        files = {name: file.model_copy(update={"catalogue": None}) for name, file in files.items()}
    else:
        privacy = privacy.model_copy(update={"catalogue": "file"})
    fields = config.data.model_dump(exclude={"synthetic", "markets", "root"})
    if config.data.shared_items:
        items = shared_catalogue(config.data)
        write_atomic(folder / SHARED_ITEMS_FILE, items.text)
        fields["shared_catalogue"] = {"files": [SHARED_ITEMS_FILE], "size": len(items), "sha256": items.sha256}
    data = DataConfig(markets=files, root=folder, **fields)
    return config.model_copy(update={"data": data, "privacy": privacy})


def _lines(market: Market) -> Iterator[bytes]:
    """A market's rows as CSV, some at a time: their texts one by one would be several times as large."""
    for start in range(0, market.n_rows, _ROWS):
        some = slice(start, start + _ROWS)
        frame = pd.DataFrame(
            {
                "user": market.user_ids[market.user[some]],
                "item": market.item_ids[market.item[some]],
                "rating": market.rating[some].astype(int),
                "time": pd.to_datetime(market.time[some]).strftime("%Y-%m-%d"),
            }
        )
        yield frame.to_csv(index=False, header=start == 0, lineterminator="\n").encode()


def _write_files(texts: Mapping[Path, bytes], *, force: bool) -> None:
    """Write files, all of them or none; those that hold the same already stay."""
    new = {path: text for path, text in texts.items() if not path.is_file() or path.read_bytes() != text}
    taken = [path for path in new if path.exists() or path.is_symlink()]
    if taken and not force:
        others = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise ConfigError(f"{taken[0]}{others}: is there, with other content; --force writes over it")
    for path, text in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text, PUBLIC_MODE)


def choose_market(market: str | None, users: Mapping[str, int]) -> str:
    """The market of ``--market``; by default the one with the fewest users.

    Raises:
        ConfigError: there is no such market.
    """
    name = market or min(users, key=lambda found: users[found])
    if name not in users:
        raise ConfigError(f"--market {name}: the markets are {', '.join(users)}")
    return name
