"""Trainers of CTR models as a configuration describes them."""

from __future__ import annotations

from functools import partial

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.private_trainer import PrivateTrainer, PrivateTrainerSettings
from fedmm_secure.ctr.trainer import MarketTrainer, TrainerSettings
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.devices import chosen_device
from fedmm_secure.guarantee.coordinates import most_ctr_parameters
from fedmm_secure.quantization.build import train_local_quantizer


def market_trainer(prepared: PreparedMarket, embedding: Embedding, config: Config) -> MarketTrainer:
    """Trains the recipes of one market."""
    own_quantizer = partial(train_local_quantizer, config)
    settings = TrainerSettings(
        config.data, config.ctr, config.embedding.dim, own_quantizer, chosen_device(config.device)
    )
    return MarketTrainer(prepared, embedding, settings)


def private_trainer(prepared: PreparedMarket, embedding: Embedding, config: Config) -> PrivateTrainer:
    """Trains what may be released of one market.

    Raises:
        TypeError: the embedding is not private.
    """
    most = most_ctr_parameters(config, prepared.market.n_items)
    return PrivateTrainer(prepared, embedding, PrivateTrainerSettings(config.data, config.ctr, config.privacy, most))
