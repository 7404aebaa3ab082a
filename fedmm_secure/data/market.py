"""The interactions of one market, and the checks every market passes before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.data.catalogue import BROUGHT, Catalogue
from fedmm_secure.data.reading import Reading
from fedmm_secure.errors import DataError
from privacy.arrays import FloatArray as FloatArray
from privacy.arrays import IntArray as IntArray

DAY = 86_400 * 10**9  # nanoseconds, as times are
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
        time: sort key of each interaction, ``(n_rows,)``; nanoseconds since 1970 in UTC, plain numbers, or file order.
        has_time: whether ``time`` came from the data.
        calendar: whether ``time`` is nanoseconds since 1970, so that a date can be compared with it.
        catalogue: the public items, where they came with the rows; ``item_ids`` may hold more of them, or fewer.
        reading: what was read of its file, where it came from one.
        users: by which column of that its users are told apart.
        advice: what its operator should look at, a line each; of single users' rows, so it stays with the operator.
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
    catalogue: Catalogue | None = None
    reading: Reading | None = None
    users: str | None = None
    advice: tuple[str, ...] = ()

    @property
    def skipped_rows(self) -> int:
        """How many bad rows were left out under ``on_bad_rows: skip``."""
        return 0 if self.reading is None else self.reading.bad

    @property
    def n_users(self) -> int:
        """Users, those without rows too."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Items of the catalogue, those without rows too."""
        return len(self.item_ids)

    @property
    def n_rows(self) -> int:
        """Interactions."""
        return len(self.user)


@dataclass(frozen=True)
class Rows:
    """Interactions as they stand in a file, in its order.

    Attributes:
        user_ids: distinct ids, in the order of their code points, ``(n_users,)``; each has a row.
        item_ids: the same of items, ``(n_items,)``.
        user: user index of each row, ``(n,)``.
        item: item index of each row, ``(n,)``.
        rating: ``(n,)``, or ``None``.
        time: ``(n,)``, or ``None``: the file's order counts.
        calendar: whether ``time`` is nanoseconds since 1970.
    """

    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    user: IntArray | NDArray[np.int32]
    item: IntArray | NDArray[np.int32]
    rating: FloatArray | None
    time: IntArray | None
    calendar: bool = False


def build_market(
    name: str,
    users: list[str],
    items: list[str],
    ratings: FloatArray | None,
    times: IntArray | None,
    *,
    calendar: bool = False,
    catalogue: Catalogue | None = None,
) -> Market:
    """The market of some interactions in memory, as ``index_market`` makes it."""
    user, user_ids = pd.factorize(np.array(users, dtype=object), sort=True)
    item, item_ids = pd.factorize(np.array(items, dtype=object), sort=True)
    rows = Rows(np.asarray(user_ids), np.asarray(item_ids), user, item, ratings, times, calendar)
    return index_market(name, rows, catalogue=catalogue)


def index_market(
    name: str,
    rows: Rows,
    *,
    source: str | None = None,
    catalogue: Catalogue | None = None,
    least_users: int = MIN_USERS,
) -> Market:
    """Keep the latest row of each (user, item) pair, and order each user's rows by time.

    Ties in time keep file order. Users and items are indexed in sorted order of their raw ids, so that
    the index of a user does not depend on the order of the file. Without a catalogue nobody knows yet how many items
    there are: those that rows name are private, until a catalogue is declared or discovered.

    Raises:
        DataError: no rows are left, or there are fewer than ``least_users``, or items of a catalogue, than any model
            can use.
    """
    where = source or f"market {name}"
    n = len(rows.user)
    if not n:
        raise DataError(f"{where}: no interactions")
    _refuse_few("user", len(rows.user_ids), least_users, where)
    if catalogue is not None:
        refuse_few_items(len(catalogue), where)
    time = np.arange(n, dtype=np.int64) if rows.time is None else rows.time
    order = np.argsort(time, kind="stable")
    pair = rows.user[order] * np.int64(len(rows.item_ids)) + rows.item[order]
    order = order[~pd.Series(pair, copy=False).duplicated(keep="last").to_numpy()]
    del pair
    order = order[np.argsort(rows.user[order], kind="stable")]
    return Market(
        name=name,
        user_ids=np.asarray(rows.user_ids, dtype=object),
        item_ids=np.asarray(rows.item_ids, dtype=object),
        user=rows.user[order].astype(np.int64),
        item=rows.item[order].astype(np.int64),
        rating=np.full(len(order), np.nan) if rows.rating is None else rows.rating[order],
        time=time[order],
        has_time=rows.time is not None,
        calendar=rows.time is not None and rows.calendar,
        catalogue=catalogue,
    )


def refuse_disorder(market: Market) -> None:
    """See that ids and rows stand as ``index_market`` puts them, as all that weighs, splits and publishes takes for
    granted.

    Of rows in another order, whose latest a row is depended on rows of others: what a user adds to a sum was not the
    user's alone. Of ids in the order in which rows name them, the order of what is published says whose row came
    first; and one person who stands there as two users has two users' weight in a sum. Of indices of fewer bits,
    as categories of tables have them, the pairs of one user and of another have one number. Rows that a mask hides, as
    arrays out of netCDF and HDF5 have one, are in any order.

    Raises:
        DataError: they do not.
    """
    for what, problem in _problems_of_columns(market):
        raise DataError(f"market {market.name}: {what} {problem}; load_market makes columns as they should be")
    listed = {"user": market.user_ids, "item": market.item_ids}
    if market.catalogue is not None:
        listed["catalogue"] = market.catalogue.items
    for what, ids in listed.items():
        place = _out_of_order(ids.tolist())
        if place is not None:
            raise DataError(
                f"market {market.name}: {what} id {place} (from 0) is not in order: ids are texts, each there once, in "
                "the order of their code points; load_market makes them so"
            )
    user, time = market.user, market.time
    behind = (user[1:] < user[:-1]) | ((user[1:] == user[:-1]) & (time[1:] < time[:-1]))
    if behind.any():
        raise DataError(
            f"market {market.name}: row {int(behind.argmax()) + 1} (from 0) is not in order: rows are grouped by user, "
            "and each user's are in time order; load_market makes them so"
        )


def _problems_of_columns(market: Market) -> Iterator[tuple[str, str]]:
    """What is wrong with the types, lengths and ranges of a market's columns, each with its column."""
    columns = {"user": market.user, "item": market.item, "time": market.time, "rating": market.rating}
    for what, column in columns.items():
        kind = np.dtype(np.float64 if what == "rating" else np.int64)
        if np.ma.isMaskedArray(column):  # what is masked compares as neither more nor less
            yield what, "is masked: fill it, or leave its rows out"
        elif not isinstance(column, np.ndarray) or column.dtype != kind or column.shape != market.user.shape:
            shape = f"{getattr(column, 'dtype', type(column).__name__)} of shape {np.shape(column)}"
            yield what, f"is {shape}, where {kind} of shape {np.shape(market.user)} was expected"
    for what, n in (("user", market.n_users), ("item", market.n_items)):
        if len(columns[what]) and not 0 <= columns[what].min() <= columns[what].max() < n:
            yield what, f"is not in 0 … {n - 1}"


def _out_of_order(ids: Sequence[object]) -> int | None:
    """The first place in a list of ids that is no text, or not behind the one before; None where there is none."""
    before = ""
    for place, text in enumerate(ids):
        if not isinstance(text, str) or (place and text <= before):
            return place
        before = text
    return None


def refuse_few_items(found: int, where: str) -> None:
    """Raises ``DataError`` where a catalogue has fewer items than any model can use."""
    _refuse_few("item", found, MIN_ITEMS, where)


def _refuse_few(what: str, found: int, needed: int, where: str) -> None:
    if found < needed:
        raise DataError(f"{where}: only {found} {what}{'s' * (found != 1)}; a market needs at least {needed}")


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


def brings_catalogue(market: Market) -> bool:
    """Whether a market came with a catalogue that is from elsewhere than its rows."""
    return market.catalogue is not None and market.catalogue.kind in BROUGHT


def with_rows(market: Market, rows: IntArray) -> Market:
    """The market's users and items with some of its rows, in the order given."""
    return replace(
        market, user=market.user[rows], item=market.item[rows], rating=market.rating[rows], time=market.time[rows]
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
