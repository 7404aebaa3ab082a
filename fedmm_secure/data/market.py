"""The interactions of one market, and the checks every market passes before it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.errors import DataError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MIN_USERS = 10
MIN_ITEMS = 10


@dataclass(frozen=True)
class Market:
    """One market's deduplicated interactions, each user's rows in time order.

    Attributes:
        name: the market's name, unique in a federation.
        user_ids: raw user ids, ``(n_users,)``; position = user index.
        item_ids: raw item ids, ``(n_items,)``; position = item index.
        user: user index of each interaction, ``(n_rows,)``, ascending.
        item: item index of each interaction, ``(n_rows,)``.
        rating: rating of each interaction, ``(n_rows,)``; NaN where there is none.
        time: sort key of each interaction, ``(n_rows,)``; nanoseconds, or file order without times.
        has_time: whether ``time`` came from the data.
        calendar: whether ``time`` is nanoseconds since 1970, so that a date can be compared with it.
        skipped_rows: how many bad rows were left out under ``on_bad_rows: skip``.
        catalogue: the public items, where they came with the rows; ``item_ids`` may hold more of them, or fewer.
    """

    name: str
    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    user: IntArray
    item: IntArray
    rating: FloatArray
    time: IntArray
    has_time: bool = True
    calendar: bool = False
    skipped_rows: int = 0
    catalogue: Catalogue | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_rows(self) -> int:
        return len(self.user)


def build_market(
    name: str,
    users: list[str],
    items: list[str],
    ratings: FloatArray | None,
    times: IntArray | None,
    *,
    calendar: bool = False,
    skipped_rows: int = 0,
    source: str | None = None,
    catalogue: Catalogue | None = None,
) -> Market:
    """Index raw rows, keep the latest row of each (user, item) pair, and order each user's rows by time.

    Ties in time keep file order. Users and items are indexed in sorted order of their raw ids, so that
    the index of a user does not depend on the order of the file.

    Raises:
        DataError: no rows are left, or there are fewer users or items than any model can use.
    """
    where = source or f"market {name}"
    if not users:
        raise DataError(f"{where}: no interactions; a market needs at least {MIN_USERS} users")
    frame = pd.DataFrame({"user": users, "item": items})
    n = len(frame)
    frame["rating"] = np.full(n, np.nan) if ratings is None else ratings
    frame["time"] = np.arange(n, dtype=np.int64) if times is None else times
    frame["position"] = np.arange(n)
    frame = frame.sort_values(["time", "position"], kind="stable")
    frame = frame.drop_duplicates(["user", "item"], keep="last")
    user, user_ids = pd.factorize(frame["user"].to_numpy(dtype=object), sort=True)
    item, item_ids = pd.factorize(frame["item"].to_numpy(dtype=object), sort=True)
    n_items = len(item_ids if catalogue is None else catalogue)
    for what, found, needed in (("user", len(user_ids), MIN_USERS), ("item", n_items, MIN_ITEMS)):
        if found < needed:
            raise DataError(f"{where}: only {found} {what}{'s' * (found != 1)}; a market needs at least {needed}")
    order = np.argsort(user, kind="stable")
    return Market(
        name=name,
        user_ids=np.asarray(user_ids, dtype=object),
        item_ids=np.asarray(item_ids, dtype=object),
        user=user[order].astype(np.int64),
        item=item[order].astype(np.int64),
        rating=frame["rating"].to_numpy(dtype=np.float64)[order],
        time=frame["time"].to_numpy(dtype=np.int64)[order],
        has_time=times is not None,
        calendar=times is not None and calendar,
        skipped_rows=skipped_rows,
        catalogue=catalogue,
    )


def restrict(market: Market, catalogue: Catalogue) -> Market:
    """The market as far as a catalogue goes: exactly its items, whatever the rows hold, and all users.

    Rows of other items are left out; items without a row are there.
    """
    index = catalogue.index(market.item_ids)[market.item]
    kept = index >= 0
    return replace(
        market,
        item_ids=catalogue.items,
        user=market.user[kept],
        item=index[kept],
        rating=market.rating[kept],
        time=market.time[kept],
        catalogue=catalogue,
    )


def rank_from_latest(user: IntArray, n_users: int) -> IntArray:
    """Position of each row among its user's, 0 for the last; rows are grouped by user, in time order."""
    ends = np.cumsum(np.bincount(user, minlength=n_users))
    return np.asarray(ends[user] - 1 - np.arange(len(user)))


def history_matrix(market: Market, rows: IntArray) -> sparse.csr_array:
    """Binary user-item matrix ``(n_users, n_items)`` of some of a market's rows."""
    return interaction_matrix(market.user[rows], market.item[rows], (market.n_users, market.n_items))


def interaction_matrix(user: IntArray, item: IntArray, shape: tuple[int, int]) -> sparse.csr_array:
    """Binary user-item matrix ``(n_users, n_items)`` of the given interactions."""
    matrix = sparse.csr_array((np.ones(len(user), dtype=np.float64), (user, item)), shape=shape)
    matrix.data[:] = 1.0  # duplicates were summed
    return matrix
