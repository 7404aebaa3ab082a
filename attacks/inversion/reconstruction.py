"""Rebuild user embeddings and histories from codewords, codes and updates.

Every score stands beside that of a **prior-only adversary**, who knows the method and other markets but has never seen
anything of the market under attack: what counts is the advantage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment

from attacks.metrics import Estimate, bounded_estimate, proportion
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.codes import decode
from fedmm_secure.quantization.rqvae import RQVAE

_TOP, _CLOSE = 10, 0.9
_MATCHED = 400  # users of a matching: the Hungarian algorithm is cubic
_STEPS, _SOFT = 300, 0.1  # of gradient matching


@dataclass(frozen=True)
class Released:
    """The white box of one market.

    Attributes:
        quantizer: encoder, decoder, codebooks.
        item_factors: ``(n_items, dim)``.
    """

    quantizer: RQVAE
    item_factors: FloatArray


@dataclass(frozen=True)
class Reconstruction:
    """How close rebuilt embeddings come.

    Attributes:
        attack: its name.
        users: users attacked.
        cosine: mean cosine similarity to the true embeddings.
        prior: the same for the prior-only adversary.
        advantage: difference of the two; paired by user, where rebuilt embeddings are of named users.
        matched: share of users whose rebuilt embedding has a cosine similarity of ``CLOSE`` or more.
        prior_matched: the same for the prior-only adversary.
        identified: share of users whose true embedding is the nearest of all to the rebuilt one; None where rebuilt
            embeddings are not of named users.
        chance: what guessing identifies.
    """

    attack: str
    users: int
    cosine: Estimate
    prior: Estimate
    advantage: Estimate
    matched: Estimate
    prior_matched: Estimate
    identified: Estimate | None
    chance: float


def prototypes(quantizer: RQVAE) -> FloatArray:
    """Embeddings of all pairs of codes, ``(n_global · n_local, dim)``."""
    shape = quantizer.shape
    pairs = np.indices((shape.global_codes, shape.local_codes)).reshape(2, -1).T
    return decode(quantizer, pairs.astype(np.int64))


def reconstruct_from_codes(released: Released, codes: IntArray, users: FloatArray, prior: FloatArray) -> Reconstruction:
    """Decode each user's own codes: white box and ``profile`` together.

    Args:
        released: the white box.
        codes: of users, ``(n_users, 2)``.
        users: their true embeddings ``(n_users, dim)``, for scoring.
        prior: prototypes of the prior-only adversary ``(n, dim)``, whose best constant guess is their mean.
    """
    true = _unit(users)
    rebuilt = decode(released.quantizer, codes)
    guess = np.broadcast_to(_unit(prior.mean(0, keepdims=True)), true.shape)
    similarity = rebuilt @ true.T
    best = similarity >= similarity.max(1, keepdims=True) - 1e-9
    credit = np.diagonal(best) / best.sum(1)  # users whose embeddings are alike share the guess
    return _compare("decoded codes", true, rebuilt, guess, bounded_estimate(credit))


def reconstruct_from_prototypes(
    released: Released, users: FloatArray, prior: FloatArray, rng: np.random.Generator
) -> Reconstruction:
    """Without codes, the prototypes alone, matched one to one with users (Hungarian algorithm).

    Both adversaries bring as many prototypes, drawn at random from theirs.
    """
    return match("prototypes", prototypes(released.quantizer), users, prior, rng)


def match(
    attack: str, rebuilt: FloatArray, users: FloatArray, prior: FloatArray, rng: np.random.Generator
) -> Reconstruction:
    """Cosine similarity of the best one-to-one matching of rebuilt rows to users, beside that of the prior's rows."""
    true = _unit(users)
    true = true[rng.permutation(len(true))[:_MATCHED]]
    n = min(len(true), len(rebuilt), len(prior))
    own, other = (_unit(rows)[rng.permutation(len(rows))[:n]] for rows in (rebuilt, prior))
    pairs = []
    for rows in (own, other):
        similarity = rows @ true.T
        pairs.append(similarity[linear_sum_assignment(similarity, maximize=True)])
    gain = Estimate(float(pairs[0].mean() - pairs[1].mean()), *_interval(pairs[0], pairs[1]))
    return _reconstruction(attack, pairs[0], pairs[1], gain, None, len(true))


def match_gradient(start: RQVAE, movement: FloatArray, rows: int, generator: torch.Generator) -> FloatArray:
    """Embeddings ``(rows, dim)`` whose gradient on the global codebook points where the codebook moved.

    Deep leakage from gradients (Zhu, Liu, Han, NeurIPS 2019), by cosine similarity (Geiping et al., NeurIPS 2020),
    against the first round: all markets start from the same public model, which the adversary has too.

    Args:
        start: the public model.
        movement: of the global codebook in the first round, ``(n_codes, latent_dim)``.
        rows: how many to rebuild.
        generator: of the first guess.
    """
    words = start.global_codebook.codewords.detach()
    target = torch.from_numpy(movement).float()
    guess = torch.randn(rows, start.shape.input_dim, generator=generator).requires_grad_(True)
    optimizer = torch.optim.Adam([guess], lr=0.05)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        latent = start.encode(torch.nn.functional.normalize(guess, dim=1))
        # descent on ||c_k - z||² moves a codeword towards what is assigned to it; assignments have to be soft here, or
        # no gradient would ever lead a guess to another codeword
        share = torch.softmax(-start.global_codebook(latent) / _SOFT, dim=1)
        pull = share.T @ latent - share.sum(0)[:, None] * words
        loss = 1.0 - torch.nn.functional.cosine_similarity(pull.flatten(), target.flatten(), dim=0)
        loss.backward()
        optimizer.step()
    return _unit(guess.detach().double().numpy())


@dataclass(frozen=True)
class HistoryRecovery:
    """How many of a user's training items an adversary names.

    Attributes:
        attack: its name.
        users: users attacked.
        precision: mean share of the first ``TOP`` named items that the user has.
        prior: the same for the most popular items.
        advantage: difference, paired by user.
    """

    attack: str
    users: int
    precision: Estimate
    prior: Estimate
    advantage: Estimate

    @classmethod
    def of(cls, attack: str, hits: FloatArray, base: FloatArray) -> HistoryRecovery:
        """From precisions ``(n_users,)`` of the attack and of the prior."""
        gain = bounded_estimate(hits - base, -1.0)
        return cls(attack, len(hits), bounded_estimate(hits), bounded_estimate(base), gain)


def recover_histories(
    released: Released, codes: IntArray, history: NDArray[np.bool_], popularity: FloatArray
) -> list[HistoryRecovery]:
    """Name the items of each user from the user's codes and the white box.

    Args:
        released: the white box.
        codes: of users, ``(n_users, 2)``.
        history: their training items, ``(n_users, n_items)``, for scoring.
        popularity: that the prior ranks by, ``(n_items,)``.
    """
    kept = history.any(1)
    affinity = decode(released.quantizer, codes[kept]) @ released.item_factors.T
    scale = max(float(affinity.std()), 1e-12)
    weight = np.log1p(np.maximum(popularity, 0.0))
    prior = np.broadcast_to(weight, affinity.shape)
    base = precision(prior, history[kept])
    found = []
    for name, score in (("codes", affinity), ("codes and popularity", affinity / scale + weight)):
        hits = precision(score, history[kept])
        found.append(HistoryRecovery.of(name, hits, base))
    return found


def precision(score: NDArray[np.float64], history: NDArray[np.bool_]) -> FloatArray:
    """Share of the ``_TOP`` items that score highest that are in each history."""
    top = np.argsort(-score, axis=1, kind="stable")[:, :_TOP]
    return np.asarray(np.take_along_axis(history, top, axis=1).mean(1))


def _compare(
    attack: str, true: FloatArray, rebuilt: FloatArray, guess: FloatArray, identified: Estimate
) -> Reconstruction:
    own, other = (true * rebuilt).sum(1), (true * guess).sum(1)
    return _reconstruction(attack, own, other, bounded_estimate(own - other, -2.0, 2.0), identified, len(true))


def _reconstruction(
    attack: str, own: FloatArray, prior: FloatArray, advantage: Estimate, identified: Estimate | None, users: int
) -> Reconstruction:
    """From cosine similarities of both adversaries, ``(n,)`` each."""
    matched, prior_matched = (proportion(int((found >= _CLOSE).sum()), len(found)) for found in (own, prior))
    return Reconstruction(
        attack=attack,
        users=len(own),
        cosine=bounded_estimate(own, -1.0),
        prior=bounded_estimate(prior, -1.0),
        advantage=advantage,
        matched=matched,
        prior_matched=prior_matched,
        identified=identified,
        chance=1.0 / users,
    )


def _interval(left: FloatArray, right: FloatArray) -> tuple[float, float]:
    """Welch's interval of the difference of two means."""
    found = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    return float(found.low), float(found.high)


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
