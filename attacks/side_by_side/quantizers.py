"""RQ-VAEs of several copies of one market trained side by side, and whole federations of them; without DP.

The same arithmetic as ``QuantizerTrainer`` and as the rounds of the federation, for experiments that repeat them on
parts of a market's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.side_by_side.modules import Forward, SideBySide
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.quantization.build import initial_model, local_model, training_settings
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, Quantized
from fedmm_secure.quantization.training import TrainingSettings, losses_of_rows
from fedmm_secure.randomness import torch_generator
from privacy.aggregation import FixedPointCodec

CODEWORDS = "global_codebook.codewords"
Movements = Mapping[str, NDArray[np.float64]]
Combine = Callable[[int, Movements], NDArray[np.float64]]


class StackedQuantizers:
    """Copies of one RQ-VAE, each on its own rows.

    Args:
        settings: of the training.
        model: what all copies start from.
        rows: unit rows, ``(copies, n, dim)``, or ``(n, dim)`` where all copies have the same.
        copies: number of copies.
    """

    def __init__(self, settings: TrainingSettings, model: RQVAE, rows: Tensor, copies: int) -> None:
        self._settings = settings
        self._stack = SideBySide([model] * copies, learning_rate=settings.learning_rate, device=settings.device)
        self._rows, self._shape = rows.to(self._stack.device), model.shape

    @property
    def codewords(self) -> Tensor:
        """Global codewords ``(copies, n_codes, latent_dim)``, on the processor."""
        return self._stack.parameters[CODEWORDS].detach().cpu()

    def set_codewords(self, values: Tensor) -> None:
        """Give every model its global codewords, ``(n_models, n_codes, dim)``."""
        self._stack.parameters[CODEWORDS].detach().copy_(values)

    def train_round(self, generator: torch.Generator) -> None:
        """As ``QuantizerTrainer.train_round`` without DP: the same batches in the same order for every copy."""
        weights, shared = self._settings.weights, self._rows.dim() == 2

        def loss(forward: Forward, batch: Tensor) -> Tensor:
            quantised: Quantized = forward(batch, weights.soft_temperature)  # type: ignore[assignment]
            return losses_of_rows(quantised, batch, weights).mean()

        for _ in range(self._settings.local_epochs):
            order = torch.randperm(self._rows.shape[-2], generator=generator).to(self._rows.device)
            for chosen in order.split(self._settings.batch_size):
                self._stack.step(loss, [self._rows[..., chosen, :]], shared=[shared])

    def models(self) -> list[RQVAE]:
        """The trained copies."""
        found = []
        for index in range(len(self._stack)):
            model = RQVAE(self._shape, torch.Generator())
            model.load_state_dict(self._stack.state_dict(index))
            found.append(model)
        return found


def train_local_together(config: Config, embeddings: Sequence[Embedding], market: str, seed: int) -> list[RQVAE]:
    """``train_local_quantizer`` for several embeddings of one market."""
    model = local_model(config, embeddings[0], seed)
    stack = StackedQuantizers(training_settings(config), model, _rows(embeddings), len(embeddings))
    for round in range(config.federation.rounds):
        stack.train_round(torch_generator("quantizer", market, seed, round))
    return stack.models()


def mean_movement(round: int, movements: Movements) -> NDArray[np.float64]:
    """What an honest federation applies: the mean of the markets' movements ``(copies, n_codes, latent_dim)``."""
    return np.asarray(sum(movements.values()) / len(movements))


def federate_together(
    config: Config,
    embeddings: Mapping[str, Sequence[Embedding]],
    seed: int,
    *,
    copies: int,
    combine: Combine = mean_movement,
) -> dict[str, StackedQuantizers]:
    """Federations side by side, without DP: what ``copies`` runs would leave in each market.

    Args:
        config: the configuration.
        embeddings: by market, one for every copy, or a single one where all copies share it.
        seed: of initialisation and order.
        copies: number of federations.
        combine: maps the round and the markets' movements, in fixed point, to what all of them apply.
    """
    codec = FixedPointCodec(config.aggregation.clip, config.aggregation.bits)
    settings = training_settings(config)
    stacks = {
        name: StackedQuantizers(settings, initial_model(config, seed), _rows(found), copies)
        for name, found in embeddings.items()
    }
    for round in range(config.federation.rounds):
        movements, starts = {}, {}
        for name, stack in stacks.items():
            starts[name] = stack.codewords.clone()
            stack.train_round(torch_generator("quantizer", name, seed, round))
            moved = (stack.codewords - starts[name]).numpy()
            movements[name] = np.stack([_as_sent(one, codec, config.aggregation.norm) for one in moved])
        applied = combine(round, movements)
        for name, stack in stacks.items():
            stack.set_codewords(torch.from_numpy((starts[name].double().numpy() + applied).astype(np.float32)))
    return stacks


def _as_sent(movement: NDArray[np.float32], codec: FixedPointCodec, norm: float | None) -> FloatArray:
    """A movement scaled to the norm bound, through the fixed-point format."""
    length = float(np.linalg.norm(movement))
    bounded = movement if norm is None or length <= norm else movement * (norm / length)
    return codec.decode(codec.encode(bounded))


def _rows(embeddings: Sequence[Embedding]) -> Tensor:
    stacked = [torch.cat([unit_rows(found.user_factors_), unit_rows(found.item_factors_)]) for found in embeddings]
    return torch.stack(stacked) if len(stacked) > 1 else stacked[0]
