"""What a market's owner knows and scores attacks with: its embeddings, models and codes, read from a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attacks.inversion.reconstruction import Released
from fedmm_secure.artefacts import quantizer_path
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.private import DPSVDEmbedding, ItemCounts
from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.setup import COUNTS, EMBEDDING
from fedmm_secure.publication import factors_from_arrays, private_store
from fedmm_secure.quantization.build import model_for
from fedmm_secure.quantization.codes import Codes, assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage import Arrays, Store


@dataclass(frozen=True)
class Truth:
    """One market's embedding, RQ-VAE and codes at one stage."""

    embedding: Embedding
    quantizer: RQVAE

    @property
    def codes(self) -> Codes:
        return assign_codes(self.quantizer, self.embedding.user_factors_, self.embedding.item_factors_)

    def released(self) -> Released:
        """The white box, as ``protect: release`` publishes it; in other runs, as it would be if it were published."""
        return Released(self.quantizer, self.embedding.item_factors_)


def federated_truth(run: Path, config: Config, prepared: PreparedMarket) -> Truth:
    """What the rounds worked on and left, for the first seed."""
    if config.private_embedding:
        embedding: Embedding = _private_embedding(run, config, prepared)
    else:
        embedding = fit_embedding(prepared, config.embedding)
    path = quantizer_path(run, prepared.market.name, config.seed[0])
    return Truth(embedding, _quantizer(path, config, embedding))


def own_truth(run: Path, config: Config, prepared: PreparedMarket) -> Truth:
    """What the market's CTR model builds on: its refined codes, where it has them."""
    path = quantizer_path(run, prepared.market.name, config.seed[0], refined=True)
    if not path.is_file():
        return federated_truth(run, config, prepared)
    embedding = fit_embedding(prepared, config.embedding)
    return Truth(embedding, _quantizer(path, config, embedding))


def popularity(prepared: PreparedMarket) -> FloatArray:
    """Training counts ``(n_items,)``."""
    market = prepared.market
    return np.bincount(market.item[prepared.split.train], minlength=market.n_items).astype(np.float64)


def _quantizer(path: Path, config: Config, embedding: Embedding) -> RQVAE:
    if not path.is_file():
        raise RunDirectoryError(f"{path}: missing; the run has not finished (fedmm run --resume)")
    model = model_for(config, embedding)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def _private_embedding(run: Path, config: Config, prepared: PreparedMarket) -> DPSVDEmbedding:
    store = private_store(run, prepared.market.name)
    counts, kept = (_kept(store, name) for name in (COUNTS, EMBEDDING))
    embedding = DPSVDEmbedding(ItemCounts.from_arrays(counts), config.embedding.private)
    return embedding.set_factors(factors_from_arrays(kept), history_matrix(prepared.market, prepared.split.train))


def _kept(store: Store, name: str) -> Arrays:
    if not store.path(name).is_file():
        raise RunDirectoryError(f"{store.path(name)}: missing; is this the directory of a finished run?")
    return store.arrays(name, dict)
