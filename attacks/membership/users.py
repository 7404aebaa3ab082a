"""Was this user in the training data? Scores of single rows pooled, and attacks that look at a user as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.membership.scores import Confidences, MemberMatrix, ShadowEvidence, blocks, fit_effects, normal_scores
from fedmm_secure.data.market import FloatArray, IntArray


def pool_rows(values: NDArray[np.float64], user: IntArray) -> NDArray[np.float64]:
    """Means ``(n_models, n_users, …)`` over the rows ``(n_models, n_rows, …)`` of each user that has any, ascending."""
    _, which, count = np.unique(user, return_inverse=True, return_counts=True)
    averaging = sparse.csr_array((1.0 / count[which], (which, np.arange(len(which)))))
    flat = values.reshape(*values.shape[:2], -1)
    return np.stack([averaging @ model for model in flat]).reshape(len(values), len(count), *values.shape[2:])


def recommended_items(
    recommended: NDArray[np.float64], member: MemberMatrix, history: FloatArray, item_vectors: FloatArray
) -> ShadowEvidence:
    """Evidence of membership from what users are recommended (Zhang et al., CCS 2021).

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

    def among(models: IntArray) -> NDArray[np.float64]:
        found = np.empty((len(models), member.shape[1], 1))
        for targets, shadows in blocks(len(models)):
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
            seen = features[models[shadows]]
            classifier.fit(seen.reshape(-1, seen.shape[2]), member[models[shadows]].ravel())
            for target in targets:
                found[target, :, 0] = classifier.decision_function(features[models[target]])
        return found

    return among


def reference_recommendations(
    recommended: NDArray[np.float64],
    reference: NDArray[np.float64],
    history: FloatArray,
    item_vectors: FloatArray,
) -> Confidences:
    """Membership without shadow models, from what a new account with the same history is recommended.

    Who was trained on is served as an account that copies the history is; who was not, is served as somebody else. The
    score counts the items that both are shown; among equals it is what Chi et al. (arXiv 2512.09442) compare, the
    distance of what the user is shown from the history over that from what the account is shown.

    Args:
        recommended: to the user, item numbers ``(n_models, n_users, k)``.
        reference: to an account of the adversary's that copies the user's rows, of the same shape.
        history: centre of each user's items ``(n_users, dim)``.
        item_vectors: ``(n_items, dim)``, which the adversary factorised from public or shadow data.
    """
    own, copied = recommended.astype(np.int64), reference.astype(np.int64)
    both = (own[..., :, None] == copied[..., None, :]).any(axis=3).sum(axis=2)
    shown, other = (item_vectors[items].mean(2) for items in (own, copied))
    from_history = np.linalg.norm(shown - history[None], axis=2)
    from_account = np.linalg.norm(shown - other, axis=2)
    ratio = from_history / np.maximum(from_account, 1e-12)
    return np.asarray(both + ratio / (1.0 + ratio))


def codebook_attack(
    latent: NDArray[np.float64],
    codewords: NDArray[np.float64],
    member: MemberMatrix,
    without: NDArray[np.float64] | None = None,
) -> Confidences:
    """Membership from global codewords: a user pulls a codeword towards where the encoder puts that user.

    The adversary does not have the target's encoder: where it would put a user is the mean over the shadow
    pipelines, which start from the same public initialisation. A row moves where its user is put: what counts is how
    much nearer to a codeword that is with the row than without it.

    Args:
        latent: of each user, or each row's user, under each pipeline's encoder, ``(n_models, n_units, latent_dim)``.
        codewords: that the view shows, ``(n_models, n_codes, latent_dim)``.
        member: ``(n_models, n_units)``.
        without: of rows, where the user would be put without the row, of the shape of ``latent``.
    """
    places = [latent] if without is None else [latent, without]
    scores = np.empty(member.shape)
    for targets, shadows in blocks(len(latent)):
        totals = [place[shadows].sum(0) for place in places]  # a target's encoder stays out

        def nearness(index: int, centres: list[NDArray[np.float64]]) -> NDArray[np.float64]:
            near = [-_nearest(centre, codewords[index]) for centre in centres]
            return near[0] if len(near) == 1 else near[0] - near[1]

        others = max(len(shadows) - 1, 1)
        seen = []
        for shadow in shadows:  # and so does each shadow's own
            centres = [(total - place[shadow]) / others for total, place in zip(totals, places, strict=True)]
            seen.append(nearness(shadow, centres))
        score = fit_effects(normal_scores(np.stack(seen)), member[shadows])
        for target in targets:
            found = nearness(target, [total / len(shadows) for total in totals])
            scores[target] = score(normal_scores(found[None])[0])
    return scores


def _nearest(points: NDArray[np.float64], words: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of each point ``(n, dim)`` to the nearest of ``words (n_words, dim)``."""
    distances = (points**2).sum(1)[:, None] - 2.0 * points @ words.T + (words**2).sum(1)[None]
    return np.asarray(distances.min(1))
