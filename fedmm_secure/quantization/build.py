"""RQ-VAEs as a configuration describes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.devices import chosen_device
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from fedmm_secure.randomness import torch_generator
from privacy.arrays import Array


def initial_model(config: Config, seed: int) -> RQVAE:
    """The model all markets start from: random, the same everywhere, no data read."""
    embedding = config.embedding
    return _model(config, embedding.private.dim if config.private_embedding else embedding.dim, seed)


def model_of(config: Config, state: Mapping[str, Array]) -> RQVAE:
    """A published model, of its arrays."""
    model = initial_model(config, 0)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    return model


def model_for(config: Config, embedding: Embedding) -> RQVAE:
    """A model of the right shape for a market's embedding, whose weights are to be loaded."""
    return _model(config, embedding.item_factors_.shape[1], 0)


def _model(config: Config, input_dim: int, seed: int) -> RQVAE:
    quantizer = config.quantizer
    shape = QuantizerShape(
        input_dim=input_dim,
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
    config: Config,
    embedding: Embedding,
    seed: int,
    private: PrivateSettings | None = None,
    extra_rows: FloatArray | None = None,
) -> QuantizerTrainer:
    """A trainer on a market's users and items, and on ``extra_rows (n, dim)`` that cost no budget."""
    users, items = unit_rows(embedding.user_factors_), unit_rows(embedding.item_factors_)
    if config.private_embedding:
        items = items[items.norm(dim=1) > 0]  # items that were not factorised have no direction
    free = items if extra_rows is None else torch.cat([items, unit_rows(extra_rows)])
    return QuantizerTrainer(initial_model(config, seed), users, free, training_settings(config), private)


def training_settings(config: Config) -> TrainingSettings:
    """How a market trains within a round."""
    quantizer = config.quantizer
    return TrainingSettings(
        learning_rate=quantizer.learning_rate,
        batch_size=quantizer.batch_size,
        local_epochs=config.federation.local_epochs,
        weights=LossWeights(
            commitment=quantizer.commitment, entropy=quantizer.entropy, temperature=quantizer.temperature
        ),
        device=chosen_device(config.device),
    )


def train_local_quantizer(config: Config, embedding: Embedding, market: str, seed: int) -> RQVAE:
    """Both codebooks local: the same training as in the federation, without exchange and without DP."""
    return _train_alone(config, local_model(config, embedding, seed), embedding, "quantizer", market, seed)


def local_model(config: Config, embedding: Embedding, seed: int) -> RQVAE:
    """The untrained model of a market whose codebooks are both local."""
    return _model(config, embedding.user_factors_.shape[1], seed)


def refine_quantizer(config: Config, federated: RQVAE, embedding: Embedding, market: str, seed: int) -> RQVAE:
    """Encoder, decoder and local codebook trained anew on raw embeddings; the federated global codebook stays frozen.

    Without DP: for the market's own CTR model, never for release.
    """
    model = _model(config, embedding.user_factors_.shape[1], seed)
    words = federated.global_codebook.codewords.detach().clone()
    model.global_codebook.codewords.data.copy_(words)
    model.global_codebook.codewords.requires_grad_(False)
    _train_alone(config, model, embedding, "refinement", market, seed)
    assert torch.equal(model.global_codebook.codewords, words)
    return model


def _train_alone(config: Config, model: RQVAE, embedding: Embedding, stream: str, market: str, seed: int) -> RQVAE:
    """As many rounds as the federation has, on all rows, without exchange and without DP."""
    users, items = unit_rows(embedding.user_factors_), unit_rows(embedding.item_factors_)
    trainer = QuantizerTrainer(model, users, items, training_settings(config))
    for round in range(config.federation.rounds):
        trainer.train_round(torch_generator(stream, market, seed, round), warm_up=False)
    return model
