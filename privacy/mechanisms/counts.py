"""Noisy sums of users' rows: every user contributes one vector of bounded L2 norm."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from privacy.mechanisms.noise import NoiseSource

FloatArray = NDArray[np.float64]


def clip_rows(rows: sparse.csr_array, norm: float = 1.0) -> sparse.csr_array:
    """Scale down each row ``(n_users, n_items)`` whose L2 norm exceeds ``norm``; shorter rows stay.

    Whatever a user's row holds, and however many entries, its norm is at most ``norm`` afterwards.
    """
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64)).ravel()
    factor = np.minimum(1.0, norm / np.maximum(length, 1e-300))
    return sparse.csr_array(sparse.diags_array(factor) @ rows)


def noisy_counts(rows: sparse.csr_array, noise_multiplier: float, noise: NoiseSource) -> FloatArray:
    """Column sums ``(n_items,)`` of rows clipped to norm 1, plus ``N(0, noise_multiplier²)``.

    L2 sensitivity 1: adding or removing one user moves the sum by that user's clipped row.
    """
    total = np.asarray(clip_rows(rows).sum(axis=0), dtype=np.float64).ravel()
    return total + gaussian(total.shape, noise_multiplier, noise)


def gaussian(shape: tuple[int, ...], scale: float, noise: NoiseSource) -> FloatArray:
    """Noise ``N(0, scale²)`` of the given shape, in double precision."""
    drawn = torch.randn(shape, generator=noise.generator, dtype=torch.float64)
    return np.asarray(scale * drawn.numpy())
