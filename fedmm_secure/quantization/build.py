"""RQ-VAEs as a configuration describes them."""

from __future__ import annotations

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from fedmm_secure.randomness import torch_generator


def initial_model(config: Config, seed: int) -> RQVAE:
    """The model all markets start from: random, the same everywhere, no data read."""
    quantizer = config.quantizer
    shape = QuantizerShape(
        input_dim=config.embedding.dim,
        hidden_dim=quantizer.hidden_dim,
        latent_dim=quantizer.latent_dim,
        global_codes=quantizer.global_codes,
        local_codes=quantizer.local_codes,
        global_radius=quantizer.global_radius,
        local_radius=quantizer.local_radius,
        normalise_latent=quantizer.normalise_latent,
    )
    return RQVAE(shape, torch_generator("quantizer-init", seed))


def make_trainer(
    config: Config, embedding: Embedding, seed: int, private: PrivateSettings | None = None
) -> QuantizerTrainer:
    """A trainer on a market's users and items."""
    quantizer = config.quantizer
    settings = TrainingSettings(
        learning_rate=quantizer.learning_rate,
        batch_size=quantizer.batch_size,
        local_epochs=config.federation.local_epochs,
        weights=LossWeights(
            commitment=quantizer.commitment, entropy=quantizer.entropy, temperature=quantizer.temperature
        ),
    )
    users, items = unit_rows(embedding.user_factors_), unit_rows(embedding.item_factors_)
    return QuantizerTrainer(initial_model(config, seed), users, items, settings, private)


def train_local_quantizer(config: Config, embedding: Embedding, market: str, seed: int) -> RQVAE:
    """Both codebooks local: the same training as in the federation, without exchange and without DP."""
    trainer = make_trainer(config, embedding, seed)
    for round in range(config.federation.rounds):
        trainer.train_round(torch_generator("quantizer", market, seed, round), warm_up=False)
    return trainer.model
