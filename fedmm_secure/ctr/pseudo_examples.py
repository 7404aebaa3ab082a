"""What of a released CTR model follows from private releases alone, so that who has them computes it again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.pseudo_users import PseudoUsers, draw_pseudo_users
from fedmm_secure.config.sections import CTRConfig, DataConfig
from fedmm_secure.ctr.dataset import Labelled, labelled
from fedmm_secure.ctr.features import FeatureBuilder
from fedmm_secure.ctr.private_features import PrivateHistory
from fedmm_secure.data.candidates import Candidates, Pool, Simulated, pair_keys, with_negatives
from fedmm_secure.data.market import IntArray
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import derive_seed, numpy_generator

FEWEST = 200  # for the standardisation, where nothing is trained on them


def own_seed(market: str, seed: int) -> int:
    """What all that is public in the training of a market's model follows from."""
    return derive_seed("ctr", market, seed)


def released_builder(
    ctr: CTRConfig,
    embedding: DPSVDEmbedding,
    quantizer: RQVAE,
    history: PrivateHistory,
    user_codes: IntArray | None = None,
) -> FeatureBuilder:
    """Features of pairs; users are projected and encoded from a history.

    ``user_codes (n_users, 2)``, published ones, replace those of the users; what users did stays their own.
    """
    codes = assign_codes(quantizer, embedding.transform(history.matrix), embedding.item_factors_)
    if user_codes is not None:
        codes = replace(codes, user=user_codes)
    shape = quantizer.shape
    return FeatureBuilder(ctr.features, history, codes, (shape.global_codes, shape.local_codes))


def released_pool(embedding: DPSVDEmbedding, data: DataConfig) -> Pool:
    """What negatives are drawn from: the whole catalogue, evenly or by noisy counts, never by raw counts."""
    counts = embedding.counts.values
    items = np.arange(len(counts))
    weights = np.ones(len(counts))
    if data.negatives == "popularity" and (counts > 0).any():
        weights = np.maximum(counts, 0.0)
    return Pool(items, weights / weights.sum(), 1.0)


def pseudo_examples(
    embedding: DPSVDEmbedding, quantizer: RQVAE, data: DataConfig, ctr: CTRConfig, count: int, seed: int
) -> Labelled:
    """Next items of ``count`` pseudo-users, and of a few in any case, with negatives.

    Args:
        embedding: private factors and noisy counts.
        quantizer: as it is published.
        data: labels and negatives of examples.
        ctr: features of the model.
        count: pseudo-users.
        seed: the market's own (``own_seed``).
    """
    rng = numpy_generator("ctr-pseudo-users", seed)
    pseudo = draw_pseudo_users(embedding, max(count, FEWEST), rng)
    history = PrivateHistory(embedding, pseudo.history, pseudo.latest)
    return labelled(released_builder(ctr, embedding, quantizer, history), _pairs(pseudo, embedding, data, rng))


def _pairs(pseudo: PseudoUsers, embedding: DPSVDEmbedding, data: DataConfig, rng: np.random.Generator) -> Candidates:
    n, n_items = pseudo.history.shape
    history = pseudo.history.tocoo()
    keys = pair_keys(history.coords[0].astype(np.int64), history.coords[1].astype(np.int64), n_items)
    per_positive = data.negatives_per_positive if data.label == "click" else 1
    pool = released_pool(embedding, data)
    return with_negatives(np.arange(n), pseudo.next_item, pool, keys, n_items, per_positive, Simulated(rng))
