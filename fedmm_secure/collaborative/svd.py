"""Truncated SVD of the degree-normalised interaction matrix."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackError, svds

from fedmm_secure.data.market import FloatArray
from privacy.mechanisms.dp_svd import fix_signs

_NULL = 1e-6  # of the largest singular value: below, directions are arbitrary, and other ones at every call


class SVDEmbedding:
    """Collaborative embeddings by truncated SVD; deterministic, ordered, sign-fixed. Not private.

    The matrix is ``D_u^-1/2 X D_i^-1/2`` with binary ``X (n_users, n_items)``. Item factors are its right
    singular vectors; a user's factor is the user's own normalised history projected on them, so a new
    user is embedded like an old one. Components are in descending order of singular value, and each has its
    entry of largest magnitude positive.

    Args:
        dim: number of components.

    Attributes:
        user_factors_: ``(n_users, dim)``.
        item_factors_: ``(n_items, dim)``, orthonormal columns.
        singular_values_: ``(dim,)``, descending.
    """

    def __init__(self, dim: int = 32) -> None:
        self.dim = dim

    def fit(self, train: sparse.csr_array) -> Self:
        """Fit on a binary interaction matrix ``(n_users, n_items)``."""
        dim = min(self.dim, min(train.shape) - 1)
        self._item_weight = item_weight(train)
        values, right = _leading(normalised(train, self._item_weight), dim)
        right = np.where(values[:, None] > _NULL * values.max(initial=0.0), right, 0.0)
        order = np.argsort(-values, kind="stable")
        self.item_factors_ = _pad(fix_signs(right[order].T), self.dim)
        self.singular_values_ = _pad(values[order][None, :], self.dim)[0]
        self.user_factors_ = self.transform(train)
        return self

    def transform(self, history: sparse.csr_array) -> FloatArray:
        """Embed users by their histories ``(n, n_items)``; returns ``(n, dim)``."""
        return np.asarray(normalised(history, self._item_weight) @ self.item_factors_)


def item_weight(train: sparse.csr_array) -> FloatArray:
    """``D_i^-1/2``: weights ``(n_items,)`` by training counts."""
    return np.asarray(1.0 / np.sqrt(np.maximum(np.asarray(train.sum(axis=0)).ravel(), 1.0)))


def normalised(history: sparse.csr_array, weight: FloatArray) -> sparse.csr_array:
    """``D_u^-1/2 X`` times the item weights; rows are histories ``(n, n_items)``."""
    degree = np.asarray(history.sum(axis=1)).ravel()
    user_weight = 1.0 / np.sqrt(np.maximum(degree, 1.0))
    return sparse.csr_array(sparse.diags_array(user_weight) @ history @ sparse.diags_array(weight))


def _leading(matrix: sparse.csr_array, dim: int) -> tuple[FloatArray, FloatArray]:
    """Largest singular values ``(dim,)`` and their right vectors ``(dim, n_items)``, in any order."""
    start = np.ones(min(matrix.shape)) / np.sqrt(min(matrix.shape))  # ARPACK's own start is random
    try:
        _, values, right = svds(matrix, k=dim, v0=start)
    except ArpackError:  # a small or degenerate matrix: fewer than dim users with rows, or many equal values
        _, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    return np.asarray(values[:dim], np.float64), np.asarray(right[:dim], np.float64)


def _pad(matrix: FloatArray, dim: int) -> FloatArray:
    """Zero columns up to ``dim``, for markets with fewer users or items than components."""
    return np.pad(matrix, ((0, 0), (0, dim - matrix.shape[1])))
