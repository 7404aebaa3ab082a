"""Values of single (user, item) pairs out of sparse histories; those of all users and items are never held."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.data.market import FloatArray, IntArray

_AT_A_TIME = 2**21  # items of histories that are looked up at a time: 16 MB


def sums_of_pairs(
    histories: sparse.csr_array, weights: FloatArray, user: IntArray, column: IntArray
) -> NDArray[np.float32]:
    """``(histories @ weights)[user, column]``, ``(n,)``, bit for bit what the whole product has there.

    Args:
        histories: binary, ``(n_users, n_items)``.
        weights: ``(n_items, n_columns)``.
        user: of the pairs, ``(n,)``.
        column: likewise.
    """
    found, length = np.zeros(len(user), dtype=np.float32), np.diff(histories.indptr)[user]
    for start, stop in slices_by_weight(length, _AT_A_TIME):
        own, of_block = length[start:stop], user[start:stop]
        ends = np.cumsum(own)
        pair = np.repeat(np.arange(stop - start), own)
        place = np.arange(ends[-1]) + np.repeat(histories.indptr[of_block] - (ends - own), own)
        values = histories.data[place] * weights[histories.indices[place], column[start:stop][pair]]
        # one after the other, in the order of the history: as a sparse product adds up
        found[start:stop] = np.bincount(pair, values, minlength=stop - start)
    return found


def entries(matrix: sparse.csr_array, row: IntArray, column: IntArray) -> FloatArray:
    """Entries ``(n,)`` of a sparse matrix; 0 where it holds none."""
    if not len(row):  # scipy would give a matrix without entries
        return np.zeros(0)
    return np.asarray(matrix[row, column], dtype=np.float64)


def slices_by_weight(weight: NDArray[np.integer], most: int) -> list[tuple[int, int]]:
    """Ranges of places ``(n,)`` whose weights add up to ``most`` or less, or of a single one that is heavier."""
    ends, bounds = np.cumsum(weight, dtype=np.int64), [0]
    while bounds[-1] < len(weight):
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        stop = int(np.searchsorted(ends, before + most, side="right"))
        bounds.append(max(stop, bounds[-1] + 1))
    return list(pairwise(bounds))
