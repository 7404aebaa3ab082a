"""Was this user in the training data? Scores of single rows pooled, and attacks that look at a user as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.membership.scores import Confidences, Membership, lira_empirical_bayes
from fedmm_secure.data.market import FloatArray, IntArray


def pool_rows(values: NDArray[np.float64], user: IntArray) -> NDArray[np.float64]:
    """Means ``(n_models, n_users, …)`` over the rows ``(n_models, n_rows, …)`` of each user that has any, ascending."""
    _, which, count = np.unique(user, return_inverse=True, return_counts=True)
    averaging = sparse.csr_array((1.0 / count[which], (which, np.arange(len(which)))))
    flat = values.reshape(*values.shape[:2], -1)
    return np.stack([averaging @ model for model in flat]).reshape(len(values), len(count), *values.shape[2:])


def recommender_attack(
    recommended: NDArray[np.float64], member: Membership, history: FloatArray, item_vectors: FloatArray
) -> Confidences:
    """Membership of users from what they are recommended (Zhang et al., CCS 2021).

    A user's feature is the difference between the centre of the items that the user interacted with and that of the
    items recommended, in vectors that the adversary factorised from public or shadow data; a classifier is trained on
    the shadow models. Here it sees the difference by coordinate, its length, and the cosine of the two centres.

    Args:
        recommended: item numbers ``(n_models, n_users, k)``.
        member: ``(n_models, n_users)``.
        history: centre of each user's items ``(n_users, dim)``.
        item_vectors: ``(n_items, dim)``.
    """
    shown = recommended.astype(np.int64)
    centre = item_vectors[shown].mean(2)  # (n_models, n_users, dim)
    gap = history[None] - centre
    cosine = (history[None] * centre).sum(2) / np.maximum(
        np.linalg.norm(history, axis=1)[None] * np.linalg.norm(centre, axis=2), 1e-12
    )
    features = np.concatenate([gap, np.linalg.norm(gap, axis=2, keepdims=True), cosine[:, :, None]], axis=2)
    scores, half = np.empty(member.shape), np.arange(member.shape[1]) % 2 == 0
    for target in range(len(member)):
        shadows = np.arange(len(member)) != target
        for asked in (half, ~half):  # users are in exactly half of the models: trained on, they would give that away
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
            classifier.fit(
                features[shadows][:, ~asked].reshape(-1, features.shape[2]), member[shadows][:, ~asked].ravel()
            )
            scores[target, asked] = classifier.decision_function(features[target][asked])
    return scores


def codebook_attack(latent: NDArray[np.float64], codewords: NDArray[np.float64], member: Membership) -> Confidences:
    """Membership of users from global codewords: a user pulls a codeword towards where the encoder puts that user.

    The adversary does not have the target's encoder: where it would put a user is the mean over the shadow
    pipelines, which start from the same public initialisation.

    Args:
        latent: of each user under each pipeline's encoder, ``(n_models, n_users, latent_dim)``.
        codewords: that the view shows, ``(n_models, n_codes, latent_dim)``.
        member: ``(n_models, n_users)``.
    """
    total, scores = latent.sum(0), np.empty(member.shape)
    for target in range(len(member)):
        others = total - latent[target]  # the target's encoder stays out, and so does each shadow's own
        expected = [
            others / (len(latent) - 1) if model == target else (others - latent[model]) / (len(latent) - 2)
            for model in range(len(latent))
        ]
        nearness = np.stack([-_nearest(own, words) for own, words in zip(expected, codewords, strict=True)])
        scores[target] = lira_empirical_bayes(nearness, member)[target]
    return scores


def _nearest(points: NDArray[np.float64], words: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of each point ``(n, dim)`` to the nearest of ``words (n_words, dim)``."""
    distances = (points**2).sum(1)[:, None] - 2.0 * points @ words.T + (words**2).sum(1)[None]
    return np.asarray(distances.min(1))
