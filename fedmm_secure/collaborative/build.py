"""The embedding that a configuration names."""

from __future__ import annotations

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.lightgcn import LightGCNEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config import EmbeddingConfig
from fedmm_secure.data.market import history_matrix
from fedmm_secure.data.prepare import PreparedMarket


def fit_embedding(prepared: PreparedMarket, config: EmbeddingConfig) -> Embedding:
    """Embed a market's training rows without DP: by the configured kind, by SVD where that is private."""
    matrix = history_matrix(prepared.market, prepared.split.train)
    if config.kind != "lightgcn":
        return SVDEmbedding(config.dim).fit(matrix)
    return LightGCNEmbedding(
        config.dim, layers=config.layers, epochs=config.epochs, learning_rate=config.learning_rate
    ).fit(matrix)
