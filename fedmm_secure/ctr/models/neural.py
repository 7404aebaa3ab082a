"""Fit a CTR model: early stopping on validation AUC, then a refit on train and validation rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fedmm_secure.config.choices import ModelKind
from fedmm_secure.config.sections import CTRConfig
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.metrics import ranked_auc
from fedmm_secure.ctr.models.base import Choices, CTRModel, Family, Format
from fedmm_secure.ctr.models.networks import NeuralCTR, NeuralKind
from fedmm_secure.ctr.models.quick import quicken
from fedmm_secure.data.market import FloatArray
from fedmm_secure.devices import deterministic, ready
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.randomness import numpy_generator, torch_generator
from fedmm_secure.storage.files import torch_bytes

MIN_STEPS_PER_EPOCH = 32
MIN_BATCH = 128
PREDICTION_BLOCK = 65536
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class NeuralChoices(Choices):
    """Hyper-parameters of a neural model."""

    dim: int = 16
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.2
    learning_rate: float = 1e-2
    table_decay: float = 1e-5
    batch_size: int = 4096  # at most; see MIN_STEPS_PER_EPOCH
    max_epochs: int = 20
    patience: int = 3


class NeuralModel(CTRModel):
    """Trains a ``NeuralCTR`` with Adam.

    Attributes:
        validation_auc_: best validation AUC before the refit.
        epochs_: epochs that reached it.
    """

    network_type: ClassVar[type[NeuralCTR]] = NeuralCTR

    def __init__(self, kind: NeuralKind, schema: FeatureSchema, choices: NeuralChoices, seed: int) -> None:
        self.kind, self.schema, self.choices, self.seed = kind, schema, choices, seed

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Train until the validation AUC falls; then ``refit``, where there are rows for it."""
        self._train(source, validation, self.choices.max_epochs)
        return self if refit is None else self.refit(refit)

    def refit(self, source: ExampleSource) -> Self:
        """As many epochs again on all rows."""
        self._train(source, None, self.epochs_)
        return self

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        return self._probabilities(*self.tensors(features, self.network_.bias.device))

    @torch.inference_mode()
    def _probabilities(self, categories: Tensor, numbers: Tensor) -> FloatArray:
        self.network_.eval()
        blocks = zip(categories.split(PREDICTION_BLOCK), numbers.split(PREDICTION_BLOCK), strict=True)
        return torch.cat([torch.sigmoid(self.network_(*block)) for block in blocks]).double().cpu().numpy()

    format = Format(torch_bytes, unpickle_tensors)

    def state_dict(self) -> dict[str, Any]:
        """Weights of the network, and the standardisation of its numbers."""
        return {
            "network": self.network_.state_dict(),
            "centre": torch.from_numpy(self._centre),
            "spread": torch.from_numpy(self._spread),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.network_ = self.new_network(torch_generator("ctr-init", self.seed))
        self.network_.load_state_dict(state["network"])
        self._centre, self._spread = state["centre"].numpy(), state["spread"].numpy()

    def _train(self, source: ExampleSource, validation: Labelled | None, epochs: int) -> None:
        training = NeuralTraining(self, source)
        told = None if validation is None else (validation.label, *self.tensors(validation.features, training.device))
        best, best_state, best_epoch = -np.inf, None, 0
        for epoch in range(epochs):
            training.epoch()
            if told is None:
                continue
            self.network_, (label, *inputs) = training.network, told
            auc = ranked_auc(label, self._probabilities(*inputs))
            if auc > best:
                best, best_epoch, best_state = auc, epoch + 1, copy.deepcopy(training.network.state_dict())
            elif epoch + 1 - best_epoch >= self.choices.patience:
                break
        self.network_ = training.network.cpu()
        if told is not None and best_state is not None:
            training.network.load_state_dict(best_state)
            self.validation_auc_, self.epochs_ = float(best), best_epoch

    def new_network(self, generator: torch.Generator) -> NeuralCTR:
        """An untrained network for the model's schema."""
        choices = self.choices
        return self.network_type(
            self.kind,
            self.schema.cardinalities,
            len(self.schema.number_names),
            dim=choices.dim,
            hidden=choices.hidden,
            dropout=choices.dropout,
            generator=generator,
        )

    def standardise_by(self, examples: Labelled) -> None:
        """Take the centre and spread of numbers from training examples."""
        self._centre = examples.features.numbers.mean(0)
        self._spread = np.maximum(examples.features.numbers.std(0), 1e-6)

    def batch_size(self, n_examples: int) -> int:
        """Examples of a batch; a small market would otherwise take a handful of steps an epoch and stay untrained."""
        return min(self.choices.batch_size, max(MIN_BATCH, n_examples // MIN_STEPS_PER_EPOCH))

    def tensors(self, features: Features, device: torch.device = _CPU) -> tuple[torch.Tensor, torch.Tensor]:
        """Categories ``(n, n_fields)`` and standardised numbers ``(n, n_numbers)``; by default on the processor."""
        scaled = (features.numbers - self._centre) / self._spread
        return (
            torch.from_numpy(features.categories).to(device),
            torch.from_numpy(scaled.astype(np.float32)).to(device),
        )


class NeuralTraining:
    """The training of a model's network, an epoch at a time: its optimiser and its random streams go on in between.

    Args:
        model: whose network is trained; the numbers of its inputs are standardised by the first examples.
        source: of examples.

    Attributes:
        network: as far as it is trained; on ``device``.
        device: which the model's choices name.
        n_examples: of the first epoch.
    """

    def __init__(self, model: NeuralModel, source: ExampleSource) -> None:
        self._model, self._source, self._epochs = model, source, 0
        self._generator = torch_generator("ctr-init", model.seed)
        self.device = ready(model.choices.device)
        self.network = model.new_network(self._generator)
        quicken(self.network, numpy_generator("ctr-dropout", model.seed))
        self.network.to(self.device)
        self._first: Labelled | None = source.draw(0)
        model.standardise_by(self._first)
        self.n_examples = len(self._first)
        tables = set(map(id, self.network.table_parameters()))
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in tables]
        groups: list[dict[str, Any]] = [
            {"params": self.network.table_parameters(), "weight_decay": model.choices.table_decay},
            {"params": others},
        ]
        self._optimizer = torch.optim.Adam(groups, lr=model.choices.learning_rate, fused=True)

    def epoch(self, penalty: Callable[[], Tensor] | None = None) -> None:
        """One pass over an epoch's examples; a penalty is added to the loss of each batch."""
        first, self._first = self._first, None
        examples = self._source.draw(self._epochs) if first is None else first
        self._epochs += 1
        categories, numbers = self._model.tensors(examples.features, self.device)
        label = torch.from_numpy(examples.label.astype(np.float32)).to(self.device)
        loss = nn.BCEWithLogitsLoss()
        self.network.train()
        order = torch.randperm(len(label), generator=self._generator).to(self.device)
        size = self._model.batch_size(len(label))
        batches = zip(
            *(values.index_select(0, order).split(size) for values in (categories, numbers, label)), strict=True
        )
        with deterministic(self.device):
            for some_categories, some_numbers, some_label in batches:
                self._optimizer.zero_grad()
                found = loss(self.network(some_categories, some_numbers), some_label)
                (found if penalty is None else found + penalty()).backward()
                self._optimizer.step()


def neural_grid(base: NeuralChoices) -> list[NeuralChoices]:
    """What tuning tries for a neural model; every trained model gets the same number of tries."""
    return [
        base,
        replace(base, table_decay=base.table_decay * 100, learning_rate=base.learning_rate / 2),
        replace(base, table_decay=base.table_decay * 30, dropout=0.5),
    ]


def neural_choices(config: CTRConfig) -> NeuralChoices:
    """The configured choice."""
    return NeuralChoices(
        dim=config.dim,
        hidden=config.hidden,
        dropout=config.dropout,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
    )


def network_kind(kind: ModelKind) -> NeuralKind:
    """The kind of a network; raises ``ValueError`` for what is none."""
    if kind not in get_args(NeuralKind):
        raise ValueError(f"{kind} is no network")
    return cast(NeuralKind, kind)


def _make(kind: ModelKind, schema: FeatureSchema, choices: Choices, seed: int) -> CTRModel:
    if not isinstance(choices, NeuralChoices):
        raise TypeError(f"{kind} does not take {type(choices).__name__}")
    return NeuralModel(network_kind(kind), schema, choices, seed)


FAMILY = Family(_make, lambda config: neural_grid(neural_choices(config)), draws_each_epoch=True)
