"""Find a market's catalogue in its users' rows, with differential privacy."""

from __future__ import annotations

import numpy as np

from fedmm_secure.data.catalogue import Catalogue, fits_on_a_line
from fedmm_secure.data.market import IntArray, Market
from fedmm_secure.errors import DataError
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.randomness import NoiseSource

FEWEST_ITEMS = 50  # items that a catalogue is worth a run with


def discover(
    market: Market, rows: IntArray, selection: PartitionSelection, noise: NoiseSource, *, spare: int = 0
) -> tuple[Catalogue, IntArray]:
    """The items that enough users of a market have: one partition selection; and ``spare`` values of its noise.

    Args:
        market: the market, whole.
        rows: those that may be looked at, ascending: training rows, for whatever was chosen by a test row would be
            measured on itself.
        selection: the mechanism.
        noise: the key of this release.
        spare: values of noise that are shown as they are.
    """
    rows = _allowed(market, rows)
    # a market's rows are grouped by user, in time order
    found = selection.select(market.user[rows], market.item[rows], market.n_items, noise, spare=spare)
    return Catalogue("discovered", market.item_ids[found.items]), found.spare


def worth_discovering(market: Market, rows: IntArray, selection: PartitionSelection) -> IntArray:
    """Items whose sum exceeds the threshold before noise; private, to look at one's own data before a run."""
    rows = _allowed(market, rows)
    total = selection.sums(market.user[rows], market.item[rows], market.n_items)
    return np.flatnonzero(total > selection.grid_threshold)


def _allowed(market: Market, rows: IntArray) -> IntArray:
    """Rows of ids that a catalogue file could hold: what may be published of an item follows from its id alone."""
    allowed = np.array([fits_on_a_line(str(item)) for item in market.item_ids], dtype=bool)
    return np.asarray(rows[allowed[market.item[rows]]])


def check_discovered(market: str, catalogue: Catalogue) -> None:
    """Refuse a catalogue that no run is worth.

    Raises:
        DataError: fewer than ``FEWEST`` items are left; how many is part of the release, and may be said.
    """
    if len(catalogue) < FEWEST_ITEMS:
        raise DataError(
            f"market {market}: privacy.catalogue: discovered: only {len(catalogue)} items have enough users, of "
            f"{FEWEST_ITEMS} that a run needs; give data.markets.{market}.catalogue, or raise privacy.shares.catalogue "
            "or privacy.epsilon"
        )
