"""The embedding that a configuration names."""

from __future__ import annotations

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.lightgcn import LightGCNEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config import EmbeddingConfig
from fedmm_secure.data.market import history_matrix
from fedmm_secure.data.prepare import PreparedMarket, market_digest
from fedmm_secure.storage.cache import Cache


def fit_embedding(prepared: PreparedMarket, config: EmbeddingConfig, cache: Cache | None = None) -> Embedding:
    """Embed a market's training rows without DP: by the configured kind, by SVD where that is private."""
    matrix = history_matrix(prepared.market, prepared.split.train)
    if config.kind != "lightgcn":
        return SVDEmbedding(config.dim).fit(matrix)  # takes no longer than to look it up
    embedding = LightGCNEmbedding(
        config.dim, layers=config.layers, epochs=config.epochs, learning_rate=config.learning_rate
    )
    if cache is None:
        return embedding.fit(matrix)
    inputs = {"what": "lightgcn", **vars(embedding), "market": market_digest(prepared)}
    kept = cache.arrays(inputs, lambda: {"item_factors": embedding.fit(matrix).item_factors_})
    return embedding.set_factors(kept["item_factors"], matrix)
