"""The seam between collaborative filtering and what follows it."""

from __future__ import annotations

from typing import Protocol

from scipy import sparse

from fedmm_secure.data.market import FloatArray


class Embedding(Protocol):
    """Collaborative embeddings.

    Attributes:
        user_factors_: ``(n_users, dim)``.
        item_factors_: ``(n_items, dim)``.
    """

    user_factors_: FloatArray
    item_factors_: FloatArray

    def transform(self, history: sparse.csr_array) -> FloatArray:
        """Embed users by their histories ``(n, n_items)``; returns ``(n, dim)``."""
        ...
