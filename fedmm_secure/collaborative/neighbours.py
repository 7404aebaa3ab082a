"""Item-item scores: EASE and cosine item-kNN. Not private."""

from __future__ import annotations

import numpy as np
from scipy import linalg, sparse

from fedmm_secure.data.market import FloatArray


def ease_weights(train: sparse.csr_array, regularisation: float) -> FloatArray:
    """Item-item weights ``(n_items, n_items)``, zero diagonal (Steck, "Embarrassingly shallow autoencoders", 2019)."""
    gram = np.asarray((train.T @ train).todense(), dtype=np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = np.asarray(-inverse / np.diag(inverse))
    np.fill_diagonal(weights, 0.0)
    return weights


def cosine_weights(train: sparse.csr_array, shrinkage: float) -> FloatArray:
    """Item-item cosine similarities ``(n_items, n_items)``, shrunk towards 0 for rare items, zero diagonal."""
    gram = np.asarray((train.T @ train).todense(), dtype=np.float64)
    degree = np.diag(gram)
    weights = gram / (np.sqrt(np.outer(degree, degree)) + shrinkage)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)
