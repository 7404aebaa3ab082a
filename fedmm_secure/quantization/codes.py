"""Codes of users and items, and how much of a codebook they use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.rqvae import RQVAE


@dataclass(frozen=True)
class Codes:
    """``(n_users, 2)`` and ``(n_items, 2)``: global code, local code."""

    user: IntArray
    item: IntArray


@dataclass(frozen=True)
class CodebookUse:
    """Use of one layer: codes that occur, and perplexity ``exp(entropy)`` of their frequencies."""

    used: int
    perplexity: float


def unit_rows(factors: FloatArray) -> torch.Tensor:
    """Rows scaled to norm 1 in single precision; a zero row stays zero. Depends on each row alone."""
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    return torch.tensor(factors / np.maximum(norms, 1e-12), dtype=torch.float32)


def assign_codes(model: RQVAE, user_factors: FloatArray, item_factors: FloatArray) -> Codes:
    """Codes of embedded users ``(n_users, dim)`` and items ``(n_items, dim)``."""
    return Codes(
        model.assign(unit_rows(user_factors)).numpy().astype(np.int64),
        model.assign(unit_rows(item_factors)).numpy().astype(np.int64),
    )


def codebook_use(codes: NDArray[np.int64], n_codes: int) -> CodebookUse:
    """Use of one layer by codes ``(n,)``."""
    share = np.bincount(codes, minlength=n_codes) / max(len(codes), 1)
    share = share[share > 0]
    return CodebookUse(len(share), float(np.exp(-(share * np.log(share)).sum())))


@torch.no_grad()
def reconstruction_error(model: RQVAE, factors: FloatArray) -> float:
    """Mean squared distance of reconstructed rows to rows of norm 1; 1 is no better than a constant zero."""
    return float(model(unit_rows(factors)).reconstruction.mean())
