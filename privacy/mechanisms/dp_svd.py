"""Private item factors: the leading eigenvectors of a noisy Gram matrix, or of noisy subspace iterations.

Every user contributes one row of norm at most 1. Dwork, Talwar, Thakurta, Zhang, "Analyze Gauss", STOC 2014;
Hardt, Price, "The noisy power method", NeurIPS 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from privacy.mechanisms.counts import FloatArray, clip_rows, gaussian
from privacy.mechanisms.noise import NoiseSource


@dataclass(frozen=True)
class PrivateFactors:
    """Leading directions of the items.

    Attributes:
        factors: ``(n_items, rank)``, orthonormal columns, in descending order of eigenvalue.
        eigenvalues: ``(rank,)``, of the noisy matrix.
        noise_edge: spectral norm that noise alone is expected to have; eigenvalues below it are noise.
    """

    factors: FloatArray
    eigenvalues: FloatArray
    noise_edge: float


def noisy_gram(rows: sparse.csr_array, noise_multiplier: float, noise: NoiseSource) -> FloatArray:
    """``XᵀX + (Z + Zᵀ)/2`` of rows ``(n_users, n_items)`` clipped to norm 1; ``Z`` is iid ``N(0, noise_multiplier²)``.

    Frobenius sensitivity 1: one user's ``x xᵀ`` has norm ``‖x‖² ≤ 1``. Noise on every entry of the full matrix covers
    that; making the released matrix symmetric is post-processing, and halves the variance off the diagonal.
    """
    clipped = clip_rows(rows)
    gram = np.asarray((clipped.T @ clipped).todense(), dtype=np.float64)
    z = gaussian(gram.shape, noise_multiplier, noise)
    return np.asarray(gram + (z + z.T) / 2.0)


def factors_by_gram(rows: sparse.csr_array, rank: int, noise_multiplier: float, noise: NoiseSource) -> PrivateFactors:
    """Eigenvectors of the noisy Gram matrix: one Gaussian mechanism. Memory grows with ``n_items²``."""
    values, vectors = np.linalg.eigh(noisy_gram(rows, noise_multiplier, noise))
    order = np.argsort(-values)[:rank]
    edge = noise_multiplier * float(np.sqrt(2.0 * rows.shape[1]))
    return PrivateFactors(fix_signs(vectors[:, order]), values[order], edge)


def factors_by_subspace_iteration(
    rows: sparse.csr_array, rank: int, noise_multiplier: float, iterations: int, noise: NoiseSource
) -> PrivateFactors:
    """Noisy subspace iteration: ``iterations`` Gaussian mechanisms; memory grows with ``n_items · rank``.

    With orthonormal ``Q``, one user adds ``x (xᵀQ)`` to an iterate: ``‖x (xᵀQ)‖_F = ‖x‖ ‖Qᵀx‖ ≤ 1``.
    """
    clipped = clip_rows(rows)
    basis, _ = np.linalg.qr(gaussian((rows.shape[1], rank), 1.0, noise))  # reads no row
    lengths = np.zeros(rank)
    for _ in range(iterations):
        product = np.asarray(clipped.T @ (clipped @ basis)) + gaussian(basis.shape, noise_multiplier, noise)
        basis, lengths, _ = np.linalg.svd(product, full_matrices=False)
    edge = noise_multiplier * float(np.sqrt(rows.shape[1]) + np.sqrt(rank))
    return PrivateFactors(fix_signs(basis), lengths, edge)


def fix_signs(factors: FloatArray) -> FloatArray:
    """The same factors ``(n_items, rank)``, each column's entry of largest magnitude positive."""
    pivot = np.abs(factors).argmax(axis=0)
    return np.asarray(factors * np.where(factors[pivot, np.arange(factors.shape[1])] < 0, -1.0, 1.0))
