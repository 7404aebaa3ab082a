"""Training items of users out of their embeddings, whatever model made them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from attacks.inversion.reconstruction import HistoryRecovery, precision
from fedmm_secure.data.market import FloatArray


def invert_embeddings(
    embeddings: FloatArray, history: NDArray[np.bool_], popularity: FloatArray, rng: np.random.Generator
) -> HistoryRecovery:
    """Name items by a linear map from embeddings to histories, learnt on half of the users and tried on the others.

    Prior knowledge: histories and embeddings of that half, as of accounts that are the adversary's own.

    Args:
        embeddings: of users ``(n_users, dim)``.
        history: their training items ``(n_users, n_items)``.
        popularity: that the prior ranks by, ``(n_items,)``.
        rng: halves the users.
    """
    users = rng.permutation(np.flatnonzero(history.any(1)))
    known, asked = users[: len(users) // 2], users[len(users) // 2 :]
    spread = np.maximum(embeddings[known].std(0), 1e-12)
    model = Ridge(alpha=1.0).fit(embeddings[known] / spread, history[known].astype(np.float64))
    score = np.asarray(model.predict(embeddings[asked] / spread))
    hits = precision(score, history[asked])
    base = precision(np.broadcast_to(popularity, score.shape), history[asked])
    return HistoryRecovery.of("embeddings, linear map", hits, base)
