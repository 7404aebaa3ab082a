"""The catalogue that markets share: public item ids that mean the same everywhere, and where a market's items are.

Ids join items, never users. The list comes from public files (``data.shared_catalogue``), whose size and hash the
configuration states, so that all markets agree on every position before anything is summed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmm_secure.config import DataConfig
from fedmm_secure.config.choices import is_shipped
from fedmm_secure.data.catalogue import Catalogue, read_catalogue
from fedmm_secure.data.market import IntArray, Market
from fedmm_secure.errors import DataError


def shared_catalogue(config: DataConfig) -> Catalogue:
    """The items of all markets together.

    Raises:
        DataError: a file cannot be read, or the files hold other items than the configuration states.
    """
    if config.synthetic is not None:
        spec = config.synthetic
        return Catalogue.of("synthetic", [item for market in range(spec.markets) for item in spec.item_ids(market)])
    stated = config.shared_catalogue
    if stated is None:
        raise DataError("data.shared_catalogue: names no file")
    root = config.root or Path()
    files = [read_catalogue(file if is_shipped(file) else root / file) for file in stated.files]
    found = Catalogue.of("file", np.concatenate([file.items for file in files]).tolist())
    if (len(found), found.sha256) != (stated.size, stated.sha256):
        raise DataError(
            f"data.shared_catalogue: its files name {len(found)} items of sha256 {found.sha256}, the configuration "
            f"states {stated.size} of {stated.sha256}; all markets need the same list"
        )
    return found


def check_shared_items(config: DataConfig, market: Market) -> None:
    """Raises ``DataError`` where a market cannot take part in sums over a shared catalogue."""
    if not market.calendar:
        raise DataError(
            f"market {market.name}: data.shared_items sums when items were met over markets, and needs times that are "
            "dates; name its time column, or set data.shared_items: false"
        )


def shared_positions(config: DataConfig, market: Market) -> IntArray:
    """Position in the shared catalogue of each of a market's items ``(n_items,)``; -1 outside."""
    return shared_catalogue(config).index(market.item_ids)
