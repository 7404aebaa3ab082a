"""From a configuration to markets that are ready: split, candidate pool, evaluation candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm_secure.config import DataConfig
from fedmm_secure.data.candidates import (
    Candidates,
    Pool,
    candidate_pool,
    click_candidates,
    like_candidates,
)
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.market import Market
from fedmm_secure.data.splits import Split, global_date, leave_last_out
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.errors import DataError
from fedmm_secure.randomness import numpy_generator


@dataclass(frozen=True)
class PreparedMarket:
    """A market with all that every model shares."""

    market: Market
    split: Split
    pool: Pool
    valid: Candidates
    test: Candidates


def load_markets(config: DataConfig) -> list[Market]:
    """Markets of a configuration, by name."""
    if config.synthetic is not None:
        return [planted.market for planted in synthesize(config.synthetic)]
    return [load_one_market(config, name) for name in sorted(config.markets)]


def load_one_market(config: DataConfig, name: str) -> Market:
    """One market of a configuration, whose file alone is read.

    Raises:
        DataError: it is not one of the configuration's market files, or the file cannot be used.
    """
    if name not in config.markets:
        raise DataError(f"market {name}: data.markets names {', '.join(sorted(config.markets)) or 'no files'}")
    file = config.markets[name]
    located = file.model_copy(update={"path": (config.root or Path()) / file.path})
    return load_market(located, name, on_bad_rows=config.on_bad_rows)


def prepare_markets(config: DataConfig) -> dict[str, PreparedMarket]:
    """Load and prepare all markets; raises ``DataError`` before anything has been written."""
    return {market.name: prepare(market, config) for market in load_markets(config)}


def prepare(market: Market, config: DataConfig) -> PreparedMarket:
    """Split a market and draw its candidates, once and the same for every model.

    Raises:
        DataError: nothing is left to validate or test on.
    """
    split = leave_last_out(market) if config.split == "leave-last-out" else global_date(market)
    pool = candidate_pool(market, split, min_item_train=config.min_item_train, negatives=config.negatives)
    if len(pool.items) <= config.negatives_per_positive:
        raise DataError(
            f"market {market.name}: only {len(pool.items)} items have {config.min_item_train} training "
            "interactions; lower data.min_item_train or bring more rows"
        )
    parts = {}
    for name, rows in (("valid", split.valid), ("test", split.test)):
        if config.label == "like":
            parts[name] = like_candidates(market, rows, pool, threshold=config.like_threshold)
        else:
            rng = numpy_generator("candidates", market.name, name, config.candidate_seed)
            parts[name] = click_candidates(market, rows, pool, per_positive=config.negatives_per_positive, rng=rng)
        if len(np.unique(parts[name].label)) < 2:
            missing = "negatives" if parts[name].label.any() else "positives"
            raise DataError(
                f"market {market.name}: the {name} part has no {missing} among items with "
                f"{config.min_item_train} training interactions; lower data.min_item_train or bring more rows"
            )
    return PreparedMarket(market, split, pool, parts["valid"], parts["test"])
