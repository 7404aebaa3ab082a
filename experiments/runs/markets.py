"""Looking at market data before a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.presentation.steps import track
from fedmm_secure.config import DataConfig, MarketFile, SyntheticSpec
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets, sizes
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.data.times import utc_text
from fedmm_secure.errors import ConfigError, DataError


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
    problems = []
    for name, file in track("markets checked", config.markets.items()):
        try:
            fit |= prepare_markets(config.model_copy(update={"markets": {name: file}}))
        except DataError as error:
            problems.append(str(error))
    return fit, problems


def reading_lines(prepared: PreparedMarket) -> list[str]:
    """What was read of a market's file, and what its operator should look at; nothing of a generated market."""
    market = prepared.whole.market
    found = market.reading
    if found is None:
        return []
    lines = [
        f"{found.lines} lines: {found.rows} rows kept, {found.bad} bad ({found.missing} of them with a field missing), "
        f"{found.merged} merged into a later row, {found.header} header, {found.blank} blank",
        f"{found.users} users, {found.items} items; {found.largest_user} rows at most of one user",
    ]
    if found.first is not None:
        lines.append(f"from {found.first} to {found.last}" + (" (UTC)" if market.calendar else ", plain numbers"))
    return [*lines, *(f"look: {advice}" for advice in market.advice)]


def synthesize_files(spec: SyntheticSpec, out: Path) -> dict[str, MarketFile]:
    """Write generated markets as ``<out>/<market>.csv`` and their catalogues as ``<out>/<market>.items.txt``.

    Returns how a configuration whose ``data.root`` is ``out`` names them.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for planted in synthesize(spec):
        market = planted.market
        frame = pd.DataFrame(
            {
                "user": market.user_ids[market.user],
                "item": market.item_ids[market.item],
                "rating": market.rating.astype(int),
                "time": pd.to_datetime(market.time).strftime("%Y-%m-%d"),
            }
        )
        columns = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
        path, catalogue = Path(f"{market.name}.csv"), Path(f"{market.name}.items.txt")
        frame.to_csv(out / path, index=False)
        (out / catalogue).write_text("".join(f"{item}\n" for item in market.item_ids), encoding="utf-8")
        files[market.name] = MarketFile(path=path, catalogue=catalogue, **columns)
    return files


def choose_market(market: str | None, users: Mapping[str, int]) -> str:
    """The market of ``--market``; by default the one with the fewest users.

    Raises:
        ConfigError: there is no such market.
    """
    name = market or min(users, key=lambda found: users[found])
    if name not in users:
        raise ConfigError(f"--market {name}: the markets are {', '.join(users)}")
    return name
