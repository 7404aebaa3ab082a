"""What markets that share a catalogue know together: item counts, times and co-occurrence, summed over all of them.

A market adds up its own part, the federation the parts of all. Without DP both are exact integers, so a market that
takes its own part off is left with what the *others* know: features computed from that say nothing of the market's own
rows, and cross-fitting holds without more ado.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.data.market import DAY, FloatArray, IntArray, Market, interaction_matrix

COLUMNS = 2  # of each item: rows, and the sum of their days


def days(market: Market) -> IntArray:
    """Day since 1970 of each of a market's rows ``(n_rows,)``."""
    return np.asarray(market.time // DAY, dtype=np.int64)


def own_counts(market: Market, rows: IntArray, position: IntArray, size: int) -> IntArray:
    """Rows of each item of the shared catalogue, and the sum of their days: ``(COLUMNS · size,)``.

    Args:
        market: the market.
        rows: row numbers that count.
        position: of its items in the catalogue, ``(n_items,)``; -1 outside.
        size: items of the catalogue.
    """
    at, kept = position[market.item[rows]], position[market.item[rows]] >= 0
    found = np.zeros((COLUMNS, size), dtype=np.int64)
    np.add.at(found[0], at[kept], 1)
    np.add.at(found[1], at[kept], days(market)[rows][kept])
    return found.ravel()


def own_gram(history: sparse.csr_array) -> IntArray:
    """Upper triangle, row by row, of ``XᵀX`` of binary histories ``(n_users, n)``: users who met both items."""
    integers = history.astype(np.int64)
    return triangle(np.asarray((integers.T @ integers).todense(), dtype=np.int64))


def triangle(matrix: NDArray[np.int64]) -> IntArray:
    """Upper triangle of ``(n, n)``, diagonal included, row by row."""
    return np.asarray(matrix[np.triu_indices(len(matrix))], dtype=np.int64)


def square(values: NDArray[np.floating] | IntArray, n: int) -> FloatArray:
    """The symmetric matrix ``(n, n)`` of an upper triangle."""
    found = np.zeros((n, n))
    found[np.triu_indices(n)] = values
    lower = np.tril_indices(n, -1)
    found[lower] = found.T[lower]
    return found


def chosen_items(counts: NDArray[np.floating] | IntArray, n: int) -> IntArray:
    """The ``n`` items of largest summed count ``(size,)``, ascending; the earlier one where counts are equal."""
    return np.sort(np.argsort(-counts, kind="stable")[:n])


@dataclass(frozen=True)
class SharedStatistics:
    """Sums over the shared catalogue, as one market uses them.

    Attributes:
        position: of the market's items in the catalogue, ``(n_items,)``; -1 outside.
        count: rows of each item of the catalogue in other markets, ``(size,)``.
        day: mean day of those rows, ``(size,)``; 0 where there are none.
        items: catalogue positions of the items in the Gram matrix, ascending, ``(n,)``.
        gram: of other markets' users, ``(n, n)``.
    """

    position: IntArray
    count: FloatArray
    day: FloatArray
    items: IntArray
    gram: FloatArray

    @cached_property
    def column(self) -> IntArray:
        """Place of each of the market's items among those of the Gram matrix, ``(n_items,)``; -1 outside."""
        place = np.full(len(self.count) + 1, -1)  # the last: what is outside the catalogue is outside here
        place[self.items] = np.arange(len(self.items))
        return place[self.position]

    def histories(self, user: IntArray, item: IntArray, n_users: int) -> sparse.csr_array:
        """Binary histories ``(n_users, n)`` of the market's own rows over the items of the Gram matrix."""
        column = self.column[item]
        return interaction_matrix(user[column >= 0], column[column >= 0], (n_users, len(self.items)))


def others(
    position: IntArray, counts: IntArray, own: IntArray, items: IntArray, gram: IntArray, own_part: IntArray
) -> SharedStatistics:
    """What other markets know, from exact sums and a market's own parts of them.

    Args:
        position: of the market's items in the catalogue.
        counts: sum over all markets, ``(COLUMNS · size,)``.
        own: the market's part of it.
        items: what the Gram matrix is over.
        gram: sum over all markets of its upper triangle.
        own_part: the market's part of it.
    """
    rows, times = (counts - own).reshape(COLUMNS, -1)
    mean = times / np.maximum(rows, 1)
    return SharedStatistics(position, rows.astype(np.float64), mean, items, square(gram - own_part, len(items)))
