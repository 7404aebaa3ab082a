"""Split a market's rows into train, validation and test, per user or by a global date."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.data.market import IntArray, Market, rank_from_latest
from fedmm_secure.errors import DataError

MIN_ROWS_TO_HOLD_OUT = 3


@dataclass(frozen=True)
class Split:
    """Row numbers of a market; the three parts are disjoint and together hold every row."""

    train: IntArray
    valid: IntArray
    test: IntArray


def leave_last_out(market: Market) -> Split:
    """Each user's last row is test, the second last validation; users with fewer than 3 rows train only."""
    counts = np.bincount(market.user, minlength=market.n_users)
    from_end = rank_from_latest(market.user, market.n_users)
    holds_out = counts[market.user] >= MIN_ROWS_TO_HOLD_OUT
    test = holds_out & (from_end == 0)
    valid = holds_out & (from_end == 1)
    return _split(~(test | valid), valid, test)


def global_date(market: Market, valid_from: float = 0.8, test_from: float = 0.9) -> Split:
    """Rows later than the ``test_from`` quantile of time are test, those between the quantiles validation.

    Raises:
        DataError: the market has no times.
    """
    if not market.has_time:
        raise DataError(f"market {market.name}: data.split: global-date needs a time column")
    start, end = np.quantile(market.time, [valid_from, test_from], method="higher")
    test = market.time > end
    valid = (market.time > start) & ~test
    return _split(~(test | valid), valid, test)


def _split(train: NDArray[np.bool_], valid: NDArray[np.bool_], test: NDArray[np.bool_]) -> Split:
    return Split(np.flatnonzero(train), np.flatnonzero(valid), np.flatnonzero(test))
