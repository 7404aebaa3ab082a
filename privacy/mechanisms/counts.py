"""Noisy sums of users' rows: every user contributes one vector of bounded L2 norm, cut to a public grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from privacy.arrays import FloatArray, IntArray
from privacy.mechanisms.grid import Grid, sums_of_rows
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare


@dataclass(frozen=True)
class NoisyCounts:
    """What a noisy sum releases.

    Attributes:
        values: ``(n_items,)``, multiples of the grid's step.
        spare: ``(spare,)``, noise and canaries alone, in grid units.
    """

    values: FloatArray
    spare: IntArray


def clip_rows(rows: sparse.csr_array, norm: float = 1.0) -> sparse.csr_array:
    """Scale down each row ``(n_users, n_items)`` whose L2 norm exceeds ``norm``; shorter rows stay.

    Whatever a user's row holds, and however many entries, its norm is at most ``norm`` afterwards, up to rounding.
    """
    own = rows if rows.has_canonical_format else merged(rows)
    factor = np.minimum(1.0, norm / np.maximum(row_norms(own), 1e-300))
    return scaled(own, factor)


def row_norms(rows: sparse.csr_array) -> FloatArray:
    """L2 norm ``(n,)`` of each row, in which no item is named twice."""
    return np.asarray(np.sqrt(sums_of_rows(np.square(rows.data.astype(np.float64)), rows.indptr)))


def scaled(rows: sparse.csr_array, factors: FloatArray) -> sparse.csr_array:
    """Each row ``(n, n_items)`` times its factor ``(n,)``."""
    values = rows.data * np.repeat(factors, np.diff(rows.indptr))
    return sparse.csr_array((values, rows.indices, rows.indptr), shape=rows.shape)


def merged(rows: sparse.csr_array) -> sparse.csr_array:
    """A copy of rows ``(n_users, n_items)`` in double precision, in which each item is one coordinate of a row."""
    found = rows.astype(np.float64, copy=True)
    found.sum_duplicates()
    return found


def integer_rows(rows: sparse.csr_array, grid: Grid) -> sparse.csr_array:
    """Rows ``(n_users, n_items)`` clipped to norm 1 and cut to a grid whose unit of sensitivity is 1.

    The bound holds for the integers themselves, checked exactly: a row that broke it, by rounding or because it is not
    made of numbers, counts as empty. Each row's integers follow from that row alone.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = clip_rows(merged(rows))
        cut = sparse.csr_array((grid.cut(clipped.data), clipped.indices, clipped.indptr), shape=clipped.shape)
    kept = grid.fits(cut)
    return sparse.csr_array((cut.data * np.repeat(kept, np.diff(cut.indptr)), cut.indices, cut.indptr), shape=cut.shape)


def noisy_counts(
    rows: sparse.csr_array, noise_multiplier: float, noise: NoiseSource, *, spare: int | Spare = 0
) -> NoisyCounts:
    """Column sums ``(n_items,)`` of rows clipped to norm 1, plus discrete Gaussian noise of ``noise_multiplier``.

    L2 sensitivity 1, exactly: adding or removing one user moves the integer sum by that user's integers, whose squared
    norm is at most the grid's bound.
    """
    grid, side, n = Grid.of(noise_multiplier), Spare.of(spare), rows.shape[1]
    # int64 holds the sum of 2^32 users: each moves an entry by less than 2^31
    total = np.asarray(integer_rows(side.beside(rows), grid).sum(axis=0, dtype=np.int64)).ravel()
    drawn, left = noise.gaussian_with_spare(n, side.count, levels=grid.levels)
    return NoisyCounts(grid.real(total[:n] + drawn), total[n:] + left)


def canary_counts(noise_multiplier: float, spare: Spare) -> IntArray:
    """What canaries add to the spare values ``(spare,)`` of noisy counts, in grid units."""
    nobody = sparse.csr_array((0, 0))
    return np.asarray(integer_rows(spare.beside(nobody), Grid.of(noise_multiplier)).sum(axis=0, dtype=np.int64)).ravel()
