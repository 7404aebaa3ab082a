"""What each view shows of one trained pipeline, for every queried row or user.

- ``profile``: the live score of the row's item in the account of the row's own user; for a user whom the pipeline does
  not know, in a stranger's account of the same size, so that nobody is told from an empty account.
- ``consumer``: the score of the row's item in an account of the adversary's, which copies the user's other rows.
- ``consumer-pairs``: the score of the row's item in accounts that hold a single other item of the user, by itself and
  over what the two items score beside items that never went with them.
- ``row-release``, ``user-release``: white box. Statistics of each row and of each user that the published models give
  away beside their scores.
- ``sums``: white box. Whether each row or user is in the sums that the published models hold (``sums.py``).
- ``…-context``: what else the account is shown: the mean score of a few items, of items near the queried one, and how
  many of the former rank below it.
- ``…-recommended``: the items that rank first for a user's account.
- ``latent``, ``row-latent``, ``aggregate``, ``rest``: what a codebook-based attack needs: where the pipeline's encoder
  puts each user, and each row's user without the row; the global codewords after the last round, and what is left of
  them by the number of markets that take their own movements out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from attacks.membership.queries import Queries
from attacks.retraining.pipelines import Trained, logit
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.ctr.features import PairFeatures
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE

Observed = dict[str, NDArray[np.float32]]
Confidence = Callable[[IntArray, IntArray], FloatArray]
RECOMMENDED = 10
_AT_ONCE = 200_000  # pairs whose features are held in memory together


def observe(trained: Trained, profiles: IntArray, queries: Queries) -> Observed:
    """Observations of a trained pipeline; views that it does not serve are absent.

    Args:
        trained: a model of it, and what that builds on.
        profiles: whose account is shown as that of each user, ``(n_users,)``.
        queries: what is asked.
    """
    users, first = np.unique(queries.user, return_index=True)
    predict, own = trained.predict, trained.coded
    score = partial(_scores, predict, trained.builder)
    found = observe_account(score, profiles[queries.user], profiles[users], queries, "profile")
    if trained.accounts is not None:
        score = partial(_scores, predict, trained.accounts(queries.history))
        found |= observe_account(score, np.arange(len(queries.rows)), first, queries, "consumer")
        found["consumer-pairs"] = _pairs(predict, trained.accounts(queries.pairs.accounts), queries)
        found["row-release"] = np.stack(_row_statistics(own.embedding, queries), axis=1)
    if own.quantizer is not None:
        projected = np.asarray(own.embedding.transform(queries.full))
        found["user-release"] = np.stack(_user_statistics(own.embedding, own.quantizer, queries, projected), axis=1)
        if own.federated is not None:
            without = np.asarray(own.embedding.transform(queries.history))
            with torch.no_grad():
                found["latent"] = own.quantizer.encode(unit_rows(projected)).numpy()
                found["row-latent"] = own.quantizer.encode(unit_rows(without)).numpy()
            found["aggregate"] = own.federated.aggregate
            if own.federated.rest is not None:
                found["rest"] = own.federated.rest
    return {key: np.asarray(value, np.float32) for key, value in found.items()}


def strangers(full: sparse.csr_array, known: NDArray[np.bool_], rng: np.random.Generator) -> IntArray:
    """Whose account to show as that of each user ``(n_users,)``: the own one, or a stranger's of about the same size.

    Args:
        full: rows of all users ``(n_users, n_items)``.
        known: which users have an account.
        rng: chooses among strangers of the same size.
    """
    size = np.asarray(full.sum(axis=1)).ravel()
    order = np.flatnonzero(known)
    shown = np.arange(len(known))
    if not len(order):
        return shown
    order = order[np.lexsort((rng.random(len(order)), size[order]))]
    missing = np.flatnonzero(~known)
    sizes = size[order]
    low, high = (np.searchsorted(sizes, size[missing], side) for side in ("left", "right"))
    place = low + (rng.random(len(missing)) * np.maximum(high - low, 1)).astype(np.int64)
    shown[missing] = order[np.minimum(place, len(order) - 1)]
    return shown


def _row_statistics(embedding: Embedding, queries: Queries) -> list[FloatArray]:
    """How well published counts and item factors fit a row: its item's count, and its affinity to the user's others."""
    others = embedding.transform(queries.history)
    affinity = (others * _eigenvalues(embedding) * embedding.item_factors_[queries.item]).sum(1)
    if isinstance(embedding, DPSVDEmbedding):
        return [embedding.counts.values[queries.item], affinity]
    return [affinity]


def _user_statistics(
    embedding: Embedding, quantizer: RQVAE, queries: Queries, projected: FloatArray
) -> list[FloatArray]:
    """How well published models fit a user's rows: counts, energy along the item factors, loss of the RQ-VAE."""
    with torch.no_grad():
        quantised = quantizer(unit_rows(projected))
        loss = (quantised.reconstruction + quantised.codebook).double().numpy()
    energy = (projected**2 * _eigenvalues(embedding)).sum(1)
    found = [-loss, energy]
    if isinstance(embedding, DPSVDEmbedding):
        per_user = np.sqrt(np.maximum(np.asarray(queries.full.sum(axis=1)).ravel(), 1.0))
        # the likelihood ratio of a Gaussian mechanism is linear in what the user would have added
        found.append(np.asarray(queries.full @ embedding.counts.values).ravel() / per_user)
    return found


def _eigenvalues(embedding: Embedding) -> FloatArray:
    if isinstance(embedding, DPSVDEmbedding):
        return embedding.eigenvalues_
    if isinstance(embedding, SVDEmbedding):
        return np.asarray(embedding.singular_values_**2)
    return np.ones(embedding.item_factors_.shape[1])


def _pairs(predict: Callable[..., FloatArray], single: PairFeatures, queries: Queries) -> FloatArray:
    """Confidences of the planned pairs ``(n_pairs, 2)``: as they are, and over those of pairs that nobody has."""
    pairs = queries.pairs
    own = _scores(predict, single, pairs.account, queries.item[pairs.row])
    each = np.repeat(np.arange(len(pairs.items)), pairs.apart.shape[1])
    other = pairs.apart.ravel()
    asking = _scores(predict, single, each, pairs.items[other]).reshape(pairs.apart.shape).mean(1)
    asked = _scores(predict, single, other, pairs.items[each]).reshape(pairs.apart.shape).mean(1)
    item = np.searchsorted(pairs.items, queries.item[pairs.row])
    return np.stack([own, own - asking[pairs.account] - asked[item]], axis=1)


def _scores(predict: Callable[..., FloatArray], builder: PairFeatures, account: IntArray, item: IntArray) -> FloatArray:
    """Confidence in each pair ``(n,)``."""
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(account), _AT_ONCE)]
    return logit(np.concatenate([np.zeros(0), *(predict(builder(account[part], item[part])) for part in parts)]))


def observe_account(
    score: Confidence, accounts: IntArray, of_users: IntArray, queries: Queries, view: str
) -> dict[str, FloatArray]:
    """What the accounts are shown: the queried item, what surrounds it, and what comes first.

    Args:
        score: confidence in each pair of an account and an item.
        accounts: the account of each query.
        of_users: one account for each user that has queries, in the order of users.
        queries: what is asked.
        view: its name.
    """
    own = score(accounts, queries.item)
    near = score(np.repeat(accounts, queries.near.shape[1]), queries.near[queries.item].ravel())
    near = near.reshape(len(own), -1).mean(1)
    shown = queries.shown
    ranked = score(np.repeat(of_users, len(shown)), np.tile(shown, len(of_users))).reshape(len(of_users), len(shown))
    users, which = np.unique(queries.user, return_inverse=True)
    mean, below = ranked.mean(1)[which], (ranked[which] < own[:, None]).mean(1)
    first = np.full((queries.full.shape[0], min(RECOMMENDED, len(shown))), -1.0)
    first[users] = shown[np.argsort(-ranked, axis=1, kind="stable")[:, : first.shape[1]]]
    return {
        view: own,
        f"{view}-context": np.stack([own - mean, mean, near, own - near, below], axis=1),
        f"{view}-recommended": first,
    }
