"""Codes of users and items, and how much of a codebook they use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.rqvae import RQVAE
from privacy.mechanisms.per_example import equal_slots, padded

BLOCK = 256  # rows that are assigned codes at a time


@dataclass(frozen=True)
class Codes:
    """``(n_users, 2)`` and ``(n_items, 2)``: global code, local code."""

    user: IntArray
    item: IntArray


@dataclass(frozen=True)
class CodebookUse:
    """Use of one layer: codes that occur, perplexity ``exp(entropy)`` of their frequencies, which is the layer's
    effective size, and overlap, the chance that two rows have the same code.
    """

    used: int
    perplexity: float
    overlap: float


def unit_rows(factors: FloatArray) -> torch.Tensor:
    """Rows scaled to norm 1 in single precision; a zero row stays zero. Depends on each row alone."""
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    return torch.tensor(factors / np.maximum(norms, 1e-12), dtype=torch.float32)


def assign_codes(model: RQVAE, user_factors: FloatArray, item_factors: FloatArray) -> Codes:
    """Codes of embedded users ``(n_users, dim)`` and items ``(n_items, dim)``."""
    return Codes(_assign(model, unit_rows(user_factors)), _assign(model, unit_rows(item_factors)))


@torch.no_grad()
def decode(model: RQVAE, codes: IntArray) -> FloatArray:
    """Embeddings ``(n, dim)`` that the decoder makes of codes ``(n, 2)``; rows of norm 1."""
    first, second = (torch.from_numpy(codes[:, layer]) for layer in (0, 1))
    words = model.global_codebook.lookup(first) + model.local_codebook.lookup(second)
    found = model.decoder(words).double().numpy()
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))


def _assign(model: RQVAE, rows: torch.Tensor) -> IntArray:
    """Codes ``(n, 2)`` of unit rows, in zero-padded blocks of one shape: a code is its row's alone, to the last bit.

    A sum that is rounded otherwise when a neighbour leaves could flip the code of another user, and with it all that
    the user contributes to later stages.
    """
    found = np.zeros((len(rows), 2), dtype=np.int64)
    slots = equal_slots(lambda block: _distances(model, block[0]), (rows,), BLOCK)
    for start in range(0, len(rows), len(slots)):
        chosen = torch.arange(start, min(start + len(slots), len(rows)))
        (block,) = padded((rows,), chosen, BLOCK, slots)
        found[chosen.numpy()] = model.assign(block)[slots[: len(chosen)]].numpy()
    return found


@torch.no_grad()
def _distances(model: RQVAE, rows: torch.Tensor) -> torch.Tensor:
    """What codes are chosen by, ``(n, n_codes)``: the latent's, and its distances to the global codewords."""
    latent = model.encode(rows)
    return torch.cat([latent, model.global_codebook(latent), model.local_codebook(latent)], dim=1)


def codebook_use(codes: NDArray[np.int64], n_codes: int) -> CodebookUse:
    """Use of one layer by codes ``(n,)``."""
    share = np.bincount(codes, minlength=n_codes) / max(len(codes), 1)
    share = share[share > 0]
    return CodebookUse(len(share), float(np.exp(-(share * np.log(share)).sum())), float(np.square(share).sum()))


@torch.no_grad()
def reconstruction_error(model: RQVAE, factors: FloatArray) -> float:
    """Mean squared distance of reconstructed rows to rows of norm 1; 1 is no better than a constant zero.

    Rows of zeros, of items that were not factorised and of users without a row, are none of them; 0 where all are.
    """
    rows = unit_rows(factors)
    rows = rows[(rows != 0.0).any(dim=1)]
    return float(model(rows).reconstruction.mean()) if len(rows) else 0.0


def one_hot(codes: IntArray, n_codes: int) -> sparse.csr_array:
    """Codes ``(n,)`` as rows ``(n, n_codes)`` with a single one."""
    ones = np.ones(len(codes))
    return sparse.csr_array((ones, (np.arange(len(codes)), codes)), shape=(len(codes), n_codes))
