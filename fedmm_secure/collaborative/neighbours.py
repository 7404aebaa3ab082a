"""Item-item scores: EASE and cosine item-kNN. Not private."""

from __future__ import annotations

import numpy as np
from scipy import linalg, sparse

from fedmm_secure.data.market import FloatArray

EASE_REGULARISATION = 50.0
COSINE_SHRINKAGE = 5.0


def ease_weights(train: sparse.csr_array, regularisation: float) -> FloatArray:
    """Item-item weights ``(n_items, n_items)``, zero diagonal (Steck, "Embarrassingly shallow autoencoders", 2019)."""
    return ease_of(np.asarray((train.T @ train).todense(), dtype=np.float64), regularisation)


def ease_of(gram: FloatArray, regularisation: float) -> FloatArray:
    """The same from a Gram matrix ``(n_items, n_items)``, which stays as it is."""
    gram = gram.copy()
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = np.asarray(-inverse / np.diag(inverse))
    np.fill_diagonal(weights, 0.0)
    return weights


def cosine_weights(train: sparse.csr_array, shrinkage: float) -> FloatArray:
    """Item-item cosine similarities ``(n_items, n_items)``, shrunk towards 0 for rare items, zero diagonal."""
    return cosine_of(np.asarray((train.T @ train).todense(), dtype=np.float64), shrinkage)


def cosine_of(gram: FloatArray, shrinkage: float) -> FloatArray:
    """The same from a Gram matrix ``(n_items, n_items)``."""
    degree = np.diag(gram)
    weights = gram / (np.sqrt(np.outer(degree, degree)) + shrinkage)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)
