"""Collaborative embeddings in one space for all markets: eigenvectors of the co-occurrence that the markets summed.

Every market computes them from the same sums, so a direction means the same everywhere, and so does a codeword that is
near it. (Factors that each market fits by itself are the same up to a rotation at best, and an average over rotated
spaces means nothing in any of them.)
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import sparse
from scipy.linalg import eigh

from fedmm_secure.collaborative.shared import SharedStatistics
from fedmm_secure.collaborative.svd import normalised
from fedmm_secure.data.market import FloatArray
from privacy.mechanisms.dp_svd import fix_signs


def shared_factors(gram: FloatArray, dim: int) -> tuple[FloatArray, FloatArray]:
    """Leading directions of the items of a Gram matrix ``(n, n)``, and the items' weights ``(n,)``.

    Directions ``(n, dim)`` are orthonormal, in descending order of eigenvalue, those of ``D^-1/2 G D^-1/2``;
    weights are ``D^-1/2``, with the diagonal ``D``, which counts users.
    """
    weight = 1.0 / np.sqrt(np.maximum(np.diag(gram), 1.0))
    rank = min(dim, len(gram))
    scaled = gram * np.outer(weight, weight)
    _, vectors = eigh(scaled, subset_by_index=[len(gram) - rank, len(gram) - 1])
    found = fix_signs(vectors[:, ::-1])
    return np.pad(found, ((0, 0), (0, dim - rank))), weight


class SharedSVDEmbedding:
    """Embeds a market's users and items in the space that all markets share. Not private by itself.

    Items of the Gram matrix have the same factors in every market. Others, which only this market may have, are placed
    by the users who met them, whose own vectors come from items in the matrix.

    Args:
        shared: what other markets know.
        dim: embedding size.

    Attributes:
        user_factors_: ``(n_users, dim)``.
        item_factors_: ``(n_items, dim)``.
    """

    def __init__(self, shared: SharedStatistics, dim: int = 32) -> None:
        self.shared, self.dim = shared, dim

    def fit(self, train: sparse.csr_array) -> Self:
        """Fit on the market's binary interaction matrix ``(n_users, n_items)``, beside what the others know."""
        own = _within(train, self.shared)
        gram = self.shared.gram + np.asarray((own.T @ own).todense())
        factors, weight = shared_factors(gram, self.dim)
        column = self.shared.column
        known = column >= 0
        self._weight = np.where(known, weight[column], 0.0)
        self.item_factors_ = np.where(known[:, None], factors[column], 0.0)
        self.user_factors_ = self.transform(train)
        # an item that is no part of the matrix: the mean of its users, each direction in units of what users have there
        met = sparse.csr_array(train[:, ~known])
        strength = np.maximum(np.square(self.user_factors_).sum(axis=0), 1e-12)
        count = np.maximum(np.asarray(met.sum(axis=0)).ravel(), 1.0)
        self.item_factors_[~known] = (met.T @ self.user_factors_) / np.sqrt(count)[:, None] / strength
        return self

    def transform(self, history: sparse.csr_array) -> FloatArray:
        """Embed users by their histories ``(n, n_items)``; returns ``(n, dim)``."""
        return np.asarray(normalised(history, self._weight) @ self.item_factors_)


def _within(history: sparse.csr_array, shared: SharedStatistics) -> sparse.csr_array:
    """Histories ``(n, n_items)`` of a market over the items of the Gram matrix."""
    known = np.flatnonzero(shared.column >= 0)
    place = sparse.csr_array(
        (np.ones(len(known)), (known, shared.column[known])), shape=(history.shape[1], len(shared.items))
    )
    return sparse.csr_array(history @ place)
