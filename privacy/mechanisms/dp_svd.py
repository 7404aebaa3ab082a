"""Private item factors: the leading eigenvectors of a noisy Gram matrix, or of noisy subspace iterations.

Every user contributes one row of norm at most 1. Dwork, Talwar, Thakurta, Zhang, "Analyze Gauss", STOC 2014;
Hardt, Price, "The noisy power method", NeurIPS 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from privacy.arrays import FloatArray, IntArray
from privacy.mechanisms.counts import clip_rows, integer_rows, merged
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare

GRAM_LEVELS = 3  # a row has the square root of the grid's resolution: thousands of units with three levels, 16 with two
_BLOCK_ENTRIES = 2**22  # of users' products that are held at a time


@dataclass(frozen=True)
class PrivateFactors:
    """Leading directions of the items.

    Attributes:
        factors: ``(n_items, rank)``, orthonormal columns, in descending order of eigenvalue.
        eigenvalues: ``(rank,)``, of the noisy matrix.
        noise_edge: spectral norm that noise alone is expected to have; eigenvalues below it are noise.
        spare: ``(releases, spare)``, noise alone, in grid units, of each noisy matrix.
        gram: the noisy matrix itself, ``(n_items, n_items)``, symmetric; None where it was never formed.
        gram_noise: standard deviation of the noise on its diagonal.
    """

    factors: FloatArray
    eigenvalues: FloatArray
    noise_edge: float
    spare: IntArray
    gram: FloatArray | None = None
    gram_noise: float = 0.0


def noisy_gram(
    rows: sparse.csr_array, noise_multiplier: float, noise: NoiseSource, *, spare: int | Spare = 0
) -> tuple[FloatArray, IntArray]:
    """``XᵀX + (Z + Zᵀ)/2`` of rows ``(n_users, n_items)`` clipped to norm 1, and the spare values ``(spare,)``.

    A canary's item is met with no other, so that its part of the matrix is one entry of the diagonal.

    ``Z`` is discrete Gaussian of ``noise_multiplier``, on every entry. Frobenius sensitivity 1, exactly: one user's
    integers ``z`` add ``z zᵀ`` of norm ``‖z‖²``, which is within the grid's bound. Making the released matrix symmetric
    is post-processing, and halves the variance off the diagonal.

    Raises:
        ValueError: more users than an exact sum of 62 bits has room for.
    """
    grid, side, n = Grid.of(noise_multiplier, levels=GRAM_LEVELS), Spare.of(spare), rows.shape[1]
    roots = grid.of_products()
    if (rows.shape[0] + side.crowd) * roots.squared_bound >= 2**62:  # what an entry of the sum may reach
        raise ValueError(f"{rows.shape[0]} users at a noise multiplier of {noise_multiplier} leave 62 bits")
    integers, canaries = _split(integer_rows(side.beside(rows), roots), n)
    gram = np.asarray((integers.T @ integers).todense(), dtype=np.int64)
    drawn, left = noise.gaussian_with_spare(gram.size, side.count, levels=grid.levels)
    noisy = gram + drawn.reshape(gram.shape)
    # integers are added: what is released lies on half the grid exactly
    return grid.real(noisy + noisy.T) / 2.0, _diagonal(canaries) + left


def canary_gram(noise_multiplier: float, spare: Spare) -> IntArray:
    """What canaries add to the spare values ``(spare,)`` of a noisy Gram matrix, in grid units."""
    roots = Grid.of(noise_multiplier, levels=GRAM_LEVELS).of_products()
    return _diagonal(integer_rows(spare.beside(sparse.csr_array((0, 0))), roots))


def _split(integers: sparse.csr_array, n: int) -> tuple[sparse.csr_array, sparse.csr_array]:
    """The first ``n`` columns, and the others: no row has entries in both."""
    columns = sparse.csc_array(integers)
    return sparse.csr_array(columns[:, :n]), sparse.csr_array(columns[:, n:])


def _diagonal(integers: sparse.csr_array) -> IntArray:
    """Of ``XᵀX`` of rows ``(n_users, n)`` with one entry each: all of it."""
    return np.asarray(integers.power(2).sum(axis=0, dtype=np.int64)).ravel()


def factors_by_gram(
    rows: sparse.csr_array, rank: int, noise_multiplier: float, noise: NoiseSource, *, spare: int | Spare = 0
) -> PrivateFactors:
    """Eigenvectors of the noisy Gram matrix: one Gaussian mechanism. Memory grows with ``n_items²``."""
    noisy, left = noisy_gram(rows, noise_multiplier, noise, spare=spare)
    return factors_of_gram(noisy, rank, noise_multiplier, left[None, :])


def factors_of_gram(gram: FloatArray, rank: int, noise_multiplier: float, spare: IntArray) -> PrivateFactors:
    """Leading eigenvectors of a noisy Gram matrix ``(n_items, n_items)``; post-processing."""
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(-values)[:rank]
    edge = noise_multiplier * float(np.sqrt(2.0 * len(gram)))
    return PrivateFactors(fix_signs(vectors[:, order]), values[order], edge, spare, gram, noise_multiplier)


def factors_by_subspace_iteration(
    rows: sparse.csr_array,
    rank: int,
    noise_multiplier: float,
    iterations: int,
    noise: NoiseSource,
    *,
    spare: int | Spare = 0,
) -> PrivateFactors:
    """Noisy subspace iteration: ``iterations`` Gaussian mechanisms; memory grows with ``n_items · rank``.

    ``spare`` values come with each of them. A canary's item is met with no other and has a public row of the basis, the
    first unit vector, in every iteration: so a canary's product is one entry, and ``Q`` is that of users' items.
    """
    grid, side, n = Grid.of(noise_multiplier), Spare.of(spare), rows.shape[1]
    own, aside = merged(side.beside(rows)), _canaries_basis(side, rank)
    start = noise.derive("start").discrete_gaussian(n * rank)  # reads no row
    basis, _ = np.linalg.qr(start.reshape(-1, rank).astype(np.float64))
    lengths, left = np.zeros(rank), []
    for _ in range(iterations):
        total = integer_products(own, np.concatenate([basis, aside]), grid)
        drawn, over = noise.gaussian_with_spare(n * rank, side.count, levels=grid.levels)
        left.append(total[n:, 0] + over)
        basis, lengths, _ = np.linalg.svd(grid.real(total[:n] + drawn.reshape(n, rank)), full_matrices=False)
    return PrivateFactors(fix_signs(basis), lengths, subspace_edge(noise_multiplier, n, rank), np.stack(left))


def subspace_edge(noise_multiplier: float, n_items: int, rank: int) -> float:
    """Length that noise alone has along its first factor, about: largest singular value of ``(n_items, rank)``."""
    return noise_multiplier * float(np.sqrt(n_items) + np.sqrt(rank))


def canary_products(noise_multiplier: float, iterations: int, spare: Spare) -> IntArray:
    """What canaries add to the spare values ``(iterations, spare)`` of subspace iterations, in grid units."""
    alone = merged(spare.beside(sparse.csr_array((0, 0))))
    total = integer_products(alone, _canaries_basis(spare, 1), Grid.of(noise_multiplier))
    return np.tile(total[:, 0], (iterations, 1))


def _canaries_basis(spare: Spare, rank: int) -> FloatArray:
    """Rows of the basis ``(spare, rank)`` of canaries' items: no row of an orthonormal basis is longer than 1."""
    return np.eye(1, rank).repeat(spare.count, axis=0)


def integer_products(rows: sparse.csr_array, basis: FloatArray, grid: Grid) -> IntArray:
    """Sum ``(n_items, rank)`` of every user's ``x (xᵀQ)``, each cut to the grid.

    With orthonormal ``Q``, ``‖x (xᵀQ)‖_F = ‖x‖ ‖Qᵀx‖ <= 1``. ``Q`` follows from earlier releases, a user's products
    from that and from the own row ``x`` alone; their integers are checked exactly, and a user who breaks the bound
    counts as absent.
    """
    n_items, rank = rows.shape[1], basis.shape[1]
    total = np.zeros((n_items, rank), dtype=np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = clip_rows(rows)
        projected = np.asarray(clipped @ basis)
    for start, stop in _blocks(clipped.indptr, max(1, _BLOCK_ENTRIES // rank)):
        of_block = slice(clipped.indptr[start], clipped.indptr[stop])
        entries = np.diff(clipped.indptr[start : stop + 1])
        with np.errstate(invalid="ignore", over="ignore"):
            products = grid.cut(clipped.data[of_block, None] * np.repeat(projected[start:stop], entries, axis=0))
        # one row a user, so that the check is over all entries of one user
        starts = (clipped.indptr[start : stop + 1] - clipped.indptr[start]) * rank
        shape = (stop - start, products.size)
        flat = sparse.csr_array((products.ravel(), np.arange(products.size), starts), shape=shape)
        products *= np.repeat(grid.fits(flat), entries)[:, None]
        items = clipped.indices[of_block]
        chosen = sparse.csr_array(
            (np.ones(len(items), dtype=np.int64), (items, np.arange(len(items)))), shape=(n_items, len(items))
        )
        total += np.asarray(chosen @ products)
    return total


def _blocks(indptr: NDArray[np.integer], entries: int) -> list[tuple[int, int]]:
    """Ranges of users with about so many entries each, one user at least."""
    bounds, n_users = [0], len(indptr) - 1
    while bounds[-1] < n_users:
        stop = int(np.searchsorted(indptr, indptr[bounds[-1]] + entries, side="right")) - 1
        bounds.append(min(max(stop, bounds[-1] + 1), n_users))
    return list(pairwise(bounds))


def fix_signs(factors: FloatArray) -> FloatArray:
    """The same factors ``(n_items, rank)``, each column's entry of largest magnitude positive."""
    pivot = np.abs(factors).argmax(axis=0)
    return np.asarray(factors * np.where(factors[pivot, np.arange(factors.shape[1])] < 0, -1.0, 1.0))
