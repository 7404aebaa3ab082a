"""Users to recommend to: a market's own, or new ones with rows of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import IntArray, Market, Rows, index_market, restrict, with_rows
from fedmm_secure.errors import DataError

_COLUMNS = ("user", "item")
TIME = "time"


def accounts_of_rows(market: str, rows: Rows, catalogue: Catalogue) -> Market:
    """Accounts with rows of their own, over a market's items; rows of items outside the catalogue are left out.

    An account stays, whatever is left of its rows.
    """
    return restrict(index_market(market, rows, source=f"market {market}, history", least_users=1), catalogue)


def rows_of_frame(history: pd.DataFrame, missing: Sequence[str]) -> Rows:
    """Interactions in a table with columns ``user``, ``item`` and, where they have times, ``time``.

    Times are dates and times (in UTC, where they say no zone), or integers in the unit of the market's own. Without
    times the order of the rows counts. What is ``missing`` in the market's own rows, by their configuration, is here.

    Raises:
        DataError: a column is missing, a field is empty or says that it is missing, or times are neither.
    """
    for column in _COLUMNS:
        if column not in history:
            raise DataError(f"history: no column {column!r}; it needs user and item, and may have time")
        if history[column].isna().any():
            raise DataError(f"history: a row without {column}")
        texts = history[column].astype(str).str.strip()
        for said in texts[texts.isin(missing)].iloc[:1]:
            raise DataError(f"history: a row without {column}: {said!r} says that it is missing (data.missing)")
    user, user_ids = pd.factorize(history["user"].astype(str), sort=True)
    item, item_ids = pd.factorize(history["item"].astype(str), sort=True)
    time, calendar = (None, False) if TIME not in history else _times(history[TIME])
    users, items = (np.asarray(ids, dtype=object) for ids in (user_ids, item_ids))
    return Rows(users, items, user.astype(np.int64), item.astype(np.int64), None, time, calendar)


def _times(column: pd.Series[Any]) -> tuple[IntArray, bool]:
    if column.isna().any():
        raise DataError("history: a row without time")
    if pd.api.types.is_integer_dtype(column):
        return column.to_numpy(dtype=np.int64), False
    if pd.api.types.is_datetime64_any_dtype(column):
        return pd.to_datetime(column, utc=True).dt.as_unit("ns").to_numpy(dtype=np.int64), True
    raise DataError("history: times are neither dates nor integers; pandas.to_datetime makes dates of texts")


def known_accounts(market: Market, users: Sequence[str]) -> Market:
    """Some of a market's users with all of their rows, in the order given.

    Raises:
        DataError: a user that the market does not have.
    """
    index = pd.Index(market.user_ids).get_indexer(pd.Index(list(users), dtype=object))
    for missing in np.flatnonzero(index < 0)[:1]:
        raise DataError(f"market {market.name}: no user {users[missing]!r} in its data; give rows of theirs as history")
    ends = np.searchsorted(market.user, np.arange(market.n_users + 1))
    sizes = ends[index + 1] - ends[index]
    own = np.repeat(np.arange(len(index)), sizes)
    rows = ends[index][own] + np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _part(market, market.user_ids[index], own, rows)


def block(accounts: Market, start: int, stop: int) -> Market:
    """The accounts from ``start`` to before ``stop``."""
    first, last = np.searchsorted(accounts.user, [start, stop])
    rows = np.arange(first, last)
    return _part(accounts, accounts.user_ids[start:stop], accounts.user[rows] - start, rows)


def _part(market: Market, names: Any, user: IntArray, rows: IntArray) -> Market:
    return replace(with_rows(market, rows), user_ids=names, user=user)
