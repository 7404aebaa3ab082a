"""A CTR network that may be released: trained with user-level DP-SGD on users' bags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fedmm_secure.config.choices import MODELS, ModelKind
from fedmm_secure.ctr.bags import Bags
from fedmm_secure.ctr.dataset import Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.base import ClickModel, Format
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.neural import NeuralChoices, network_kind
from fedmm_secure.data.market import FloatArray
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.randomness import torch_generator
from fedmm_secure.storage.encoding import tensors_bytes
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, NoisedSteps
from privacy.mechanisms.per_example import FunctionalGradients, equal_slots, padded
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare

PRETRAIN_EPOCHS = 6


PRETRAIN_BATCH = 512


PREDICTION_BLOCK = 256


LARGEST_NUMBER = 4.0  # standardised numbers are clipped here: an outlier must not own a gradient


class PrivateCTR(ClickModel):
    """Click probabilities from a network whose every parameter and constant comes from private releases.

    Standardisation uses pseudo-users, never the market's rows.
    """

    format = Format(tensors_bytes, unpickle_tensors)  # published: nothing but its tensors

    def __init__(self, kind: ModelKind, schema: FeatureSchema, choices: NeuralChoices, seed: int) -> None:
        if not MODELS[kind].trains_privately:
            raise ValueError(f"{kind} cannot train with DP-SGD")
        self.schema = schema
        self.network = NeuralCTR(
            network_kind(kind),
            schema.cardinalities,
            len(schema.number_names),
            dim=choices.dim,
            hidden=choices.hidden,
            dropout=0.0,
            generator=torch_generator("ctr-init", seed),
        )
        self._centre = np.zeros(len(schema.number_names))
        self._spread = np.ones(len(schema.number_names))

    def pretrain(self, pseudo: Labelled, generator: torch.Generator, epochs: int = PRETRAIN_EPOCHS) -> None:
        """Set the standardisation and, with epochs, initial weights from pseudo-users: post-processing."""
        self._centre, self._spread = standardisation(pseudo)
        categories, numbers = self._tensors(pseudo.features)
        label = torch.from_numpy(pseudo.label.astype(np.float32))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        loss = nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            for chosen in torch.randperm(len(label), generator=generator).split(PRETRAIN_BATCH):
                optimizer.zero_grad()
                loss(self.network(categories[chosen], numbers[chosen]), label[chosen]).backward()
                optimizer.step()

    def fit(
        self,
        bags: Bags,
        choices: DPSGD,
        steps: int,
        learning_rate: float,
        average: bool,
        noise: NoiseSource,
        observe: Callable[[], None] = lambda: None,
        *,
        spare: int | Spare = 0,
    ) -> NoisedSteps:
        """DP-SGD on bags whose numbers are standardised; the average of the later iterates is post-processing.

        ``observe`` follows each step, while the noised gradients are there to be read; ``spare`` values of the noise
        come with each.
        """
        optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        gradients = FunctionalGradients(self.network, bag_loss)
        trainer = DPSGDTrainer(gradients, optimizer, choices, len(bags.mask))
        averaged = AveragedModel(self.network)
        taken = 0

        def after() -> None:
            nonlocal taken
            taken += 1
            observe()
            if taken > steps // 2:
                averaged.update_parameters(self.network)

        found = trainer.steps(bags.tensors(), steps, noise, after, spare=spare)
        if average:
            self.network.load_state_dict(averaged.module.state_dict())
        return found

    def standardise(self, features: Features) -> Features:
        """Features whose numbers are centred, scaled and clipped by what the pseudo-users say."""
        scaled = (features.numbers - self._centre) / self._spread
        return Features(features.categories, np.clip(scaled, -LARGEST_NUMBER, LARGEST_NUMBER))

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        categories, numbers = self._tensors(features)
        with torch.no_grad():
            return np.asarray(torch.sigmoid(self.network(categories, numbers)).double().numpy())

    def predict_alone(self, features: Features) -> FloatArray:
        """``predict``, in blocks of one fixed shape: a probability is a function of its own row, to the last bit.

        A sum that is rounded otherwise when a neighbour leaves could move a score over the edge of a bin.
        """
        found, inputs = np.zeros(len(features)), self._tensors(features)
        with torch.no_grad():
            slots = equal_slots(self._probabilities, inputs, PREDICTION_BLOCK)
            for start in range(0, len(found), len(slots)):
                chosen = torch.arange(start, min(start + len(slots), len(found)))
                block = self._probabilities(padded(inputs, chosen, PREDICTION_BLOCK, slots))
                found[chosen.numpy()] = block[slots[: len(chosen)]].double().numpy()
        return found

    def _probabilities(self, block: tuple[Tensor, ...]) -> Tensor:
        return torch.sigmoid(self.network(*block))

    def state_dict(self) -> dict[str, Any]:
        """Weights of the network, and the standardisation of its numbers."""
        return {
            "network": {name: value.detach().clone() for name, value in self.network.state_dict().items()},
            "centre": torch.from_numpy(self._centre),
            "spread": torch.from_numpy(self._spread),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave."""
        self.network.load_state_dict(state["network"])
        self._centre, self._spread = state["centre"].numpy(), state["spread"].numpy()

    def _tensors(self, features: Features) -> tuple[Tensor, Tensor]:
        scaled = self.standardise(features)
        return torch.from_numpy(scaled.categories), torch.from_numpy(scaled.numbers.astype(np.float32))


def standardisation(pseudo: Labelled) -> tuple[FloatArray, FloatArray]:
    """Centre and spread ``(n_numbers,)`` of the numbers of pseudo-users' examples."""
    numbers = pseudo.features.numbers
    return np.asarray(numbers.mean(0)), np.maximum(numbers.std(0), 1e-3)


def bag_loss(forward: Callable[..., Tensor], bag: tuple[Tensor, ...]) -> Tensor:
    """Mean log loss of one user's bag; 0 for an empty bag."""
    categories, numbers, label, mask = bag
    losses = nn.functional.binary_cross_entropy_with_logits(forward(categories, numbers), label, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1.0)
