"""What a market's owner knows and scores attacks with: its embeddings, models and codes, read from a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attacks.inversion.reconstruction import Released
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.quantization.codes import Codes, assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.results.scoring import load_embedding, load_quantizer
from fedmm_secure.storage.layout import RunDirectory


@dataclass(frozen=True)
class Truth:
    """One market's embedding, RQ-VAE and codes at one stage."""

    embedding: Embedding
    quantizer: RQVAE

    @property
    def codes(self) -> Codes:
        """Codes of the market's users and items by its final model."""
        return assign_codes(self.quantizer, self.embedding.user_factors_, self.embedding.item_factors_)

    def released(self) -> Released:
        """The white box, as ``protect: release`` publishes it; in other runs, as it would be if it were published."""
        return Released(self.quantizer, self.embedding.item_factors_)


def federated_truth(run: Path, config: Config, prepared: PreparedMarket) -> Truth:
    """What the rounds worked on and left, for the first seed."""
    closed = ClosedRun(run, prepared.market.name)
    embedding = load_embedding(closed, config, prepared, refined=False)
    path = RunDirectory(run).quantizer(prepared.market.name, config.seed[0])
    return Truth(embedding, load_quantizer(path, closed, config, embedding))


def own_truth(run: Path, config: Config, prepared: PreparedMarket) -> Truth:
    """What the market's CTR model builds on: its refined codes, where it has them."""
    path = RunDirectory(run).quantizer(prepared.market.name, config.seed[0], kind="refined")
    if not path.is_file():
        return federated_truth(run, config, prepared)
    closed = ClosedRun(run, prepared.market.name)
    embedding = load_embedding(closed, config, prepared, refined=True)
    return Truth(embedding, load_quantizer(path, closed, config, embedding))


def popularity(prepared: PreparedMarket) -> FloatArray:
    """Training counts ``(n_items,)``."""
    market = prepared.market
    return np.bincount(market.item[prepared.split.train], minlength=market.n_items).astype(np.float64)
