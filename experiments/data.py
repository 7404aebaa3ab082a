"""Looking at market data before a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedmm_secure.config import DataConfig
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets
from fedmm_secure.data.synthetic import SyntheticSpec, synthesize
from fedmm_secure.errors import DataError
from fedmm_secure.results import describe


def market_summary(prepared: Mapping[str, PreparedMarket]) -> dict[str, dict[str, Any]]:
    """Sizes of each market, its pool and its candidates."""
    return {name: describe(market) for name, market in prepared.items()}


def check_markets(config: DataConfig) -> list[str]:
    """One line for each market that cannot be used; empty if all can."""
    if config.synthetic is not None:
        return []
    problems = []
    for name, file in config.markets.items():
        try:
            prepare_markets(config.model_copy(update={"markets": {name: file}}))
        except DataError as error:
            problems.append(str(error))
    return problems


def synthesize_files(spec: SyntheticSpec, out: Path) -> list[Path]:
    """Write generated markets as ``<out>/<market>.csv`` with columns user, item, rating, time."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
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
        path = out / f"{market.name}.csv"
        frame.to_csv(path, index=False)
        paths.append(path)
    return paths
