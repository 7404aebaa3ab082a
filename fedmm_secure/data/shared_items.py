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


def public_positions(config: DataConfig, market: str, sha256: str | None, stated: IntArray) -> IntArray | None:
    """Position in the shared catalogue of each item of a market, for who has no rows; None where it cannot be told.

    Reads no file but those that come with the package. Where the market's own list is none of those, the hash of its
    catalogue says whether the ``stated`` positions are right, unless some of its items are not in the shared one.

    Args:
        config: of the run.
        market: its name.
        sha256: of its catalogue.
        stated: positions that were published, ``(n_items,)``.
    """
    spec, files = config.synthetic, config.shared_catalogue
    if spec is None and (files is None or not all(map(is_shipped, files.files))):
        return None
    shared = shared_catalogue(config)
    file = config.markets[market].catalogue if market in config.markets else None
    own = [Catalogue.of("synthetic", spec.item_ids(index)) for index in range(spec.markets)] if spec else []
    own += [read_catalogue(file)] if file is not None and is_shipped(file) else []
    for catalogue in own:
        if catalogue.sha256 == sha256:
            return shared.index(catalogue.items)
    if (stated < 0).any():
        return None
    wrong = np.full_like(stated, -1)
    if not len(stated) or stated.max() >= len(shared):
        return wrong
    return stated if Catalogue.of("file", shared.items[stated].tolist()).sha256 == sha256 else wrong
