"""One file under the names of several markets.

Each person in it would be taken for a user of one market alone, and what all of them spend on the same rows would be
stated as what one spends. Files are the same by path or byte by byte; markets by what was read of their files.
Generated markets are nobody's and are not asked about.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from fedmm_secure.data.market import Market
from fedmm_secure.errors import DataError


def same_files(files: Mapping[str, Path]) -> Iterator[str]:
    """One line for each two markets whose files are the same; files that are not there are somebody else's to name."""
    there = {name: path for name, path in files.items() if path.is_file()}
    for one, other in combinations(there, 2):
        first, second = there[one], there[other]
        try:
            if os.path.samefile(first, second) or filecmp.cmp(first, second, shallow=False):
                yield _text(one, other, files)
        except OSError as error:
            raise DataError(f"{error.filename or second}: cannot be read: {error.strerror}") from error


def same_rows(markets: Iterable[Market], files: Mapping[str, Path]) -> Iterator[str]:
    """One line for each two markets whose files hold the same rows, however they are written.

    Args:
        markets: with all their rows, as the loader gives them.
        files: by market, where that is known.
    """
    read = [market for market in markets if market.reading is not None]
    for one, other in combinations(read, 2):
        if _key(one) == _key(other) and _equal(one, other):
            yield _text(one.name, other.name, files)


def refuse_same(found: Iterator[str]) -> None:
    """Raises ``DataError`` with the first line."""
    text = next(found, None)
    if text is not None:
        raise DataError(text)


def _key(market: Market) -> tuple[int, int, int]:
    return market.n_rows, market.n_users, market.n_items


def _equal(one: Market, other: Market) -> bool:
    """Whether the same users met the same items in the same order; times and ratings may be spelled otherwise."""
    pairs = ((one.user, other.user), (one.item, other.item))
    ids = ((one.user_ids, other.user_ids), (one.item_ids, other.item_ids))
    return all(np.array_equal(mine, others) for mine, others in (*pairs, *ids))


def _text(one: str, other: str, files: Mapping[str, Path]) -> str:
    first, second = (f"{files[name]} (market {name})" if name in files else f"market {name}" for name in (one, other))
    return (
        f"{first} and {second} hold the same rows: each person's ε would be stated too small; give each market a file "
        "of its own"
    )
