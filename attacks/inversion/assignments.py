"""Which codes a market uses, and which of its users share one, from the movement of the global codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from attacks.metrics import Estimate
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE

_RESAMPLES = 999


@dataclass(frozen=True)
class UsageInference:
    """What the movement of codewords tells of their use.

    Attributes:
        used_auc: how well the length of its movement tells a code that users have from one that none has; None where
            all or none are used.
        rank_correlation: Spearman's, of length and number of users, with a bootstrap interval over codes.
        sharing: adjusted Rand index of guessed and true groups of users that share a global code; 0 is chance.
        sharing_prior: the same from the public codebook that nothing has moved: what knowing the users alone gives.
    """

    used_auc: float | None
    rank_correlation: Estimate
    sharing: float
    sharing_prior: float


def infer_usage(
    start: RQVAE, movements: FloatArray, users: FloatArray, codes: IntArray, rng: np.random.Generator
) -> UsageInference:
    """Attack one market.

    Args:
        start: the public model that all markets start from.
        movements: of the market's global codebook as the adversary recovered them, ``(rounds, n_codes, latent_dim)``.
        users: embeddings of users that the adversary happens to know, ``(n_users, dim)``: the prior knowledge.
        codes: their true global codes at the end ``(n_users,)``, for scoring.
        rng: of the bootstrap.
    """
    length = np.linalg.norm(movements, axis=2).sum(0)
    count = np.bincount(codes, minlength=len(length))
    used = count > 0
    words = start.global_codebook.codewords.detach().double().numpy()
    with torch.no_grad():
        latent = start.encode(unit_rows(users)).double().numpy()
    guessed, prior = (
        ((latent[:, None] - moved[None]) ** 2).sum(2).argmin(1) for moved in (words + movements.sum(0), words)
    )
    return UsageInference(
        used_auc=float(roc_auc_score(used, length)) if 0 < used.sum() < len(used) else None,
        rank_correlation=_spearman(length, count.astype(np.float64), rng),
        sharing=float(adjusted_rand_score(codes, guessed)),
        sharing_prior=float(adjusted_rand_score(codes, prior)),
    )


def _spearman(left: FloatArray, right: FloatArray, rng: np.random.Generator) -> Estimate:
    found = stats.bootstrap(
        (left, right), _rank_correlations, paired=True, n_resamples=_RESAMPLES, method="percentile", rng=rng
    ).confidence_interval
    return Estimate(float(_rank_correlations(left, right)), float(found.low), float(found.high))


def _rank_correlations(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Spearman's of values along an axis, of all samples at once; 0 where one side is constant."""
    left, right = (ranks - ranks.mean(axis, keepdims=True) for ranks in (stats.rankdata(v, axis=axis) for v in (x, y)))
    scale = np.sqrt(np.square(left).sum(axis) * np.square(right).sum(axis))
    return np.asarray(np.divide((left * right).sum(axis), scale, out=np.zeros_like(scale), where=scale > 0))
