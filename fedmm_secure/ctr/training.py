"""Fit a CTR model: early stopping on validation AUC, then a refit on train and validation rows."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from torch import nn

from fedmm_secure.config.choices import MAX_CATEGORIES, ModelKind
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.neural import NeuralCTR, NeuralKind
from fedmm_secure.data.market import FloatArray
from fedmm_secure.randomness import derive_seed, torch_generator

MIN_STEPS_PER_EPOCH = 32
MIN_BATCH = 128


class CTRModel(Protocol):
    """A trained click-through-rate model."""

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Fit on ``source`` with early stopping on ``validation``; then on ``refit``, for as long."""
        ...

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        ...


@dataclass(frozen=True)
class NeuralChoices:
    """Hyper-parameters of a neural model."""

    dim: int = 16
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.2
    learning_rate: float = 1e-2
    table_decay: float = 1e-5
    batch_size: int = 4096  # at most; see MIN_STEPS_PER_EPOCH
    max_epochs: int = 20
    patience: int = 3


@dataclass(frozen=True)
class BoostedChoices:
    """Hyper-parameters of boosted trees."""

    learning_rate: float = 0.05
    max_leaf_nodes: int = 15
    min_samples_leaf: int = 20
    l2: float = 1.0
    max_iterations: int = 300
    patience: int = 20


class NeuralModel:
    """Trains a ``NeuralCTR`` with Adam.

    Attributes:
        validation_auc_: best validation AUC before the refit.
        epochs_: epochs that reached it.
    """

    def __init__(self, kind: NeuralKind, schema: FeatureSchema, choices: NeuralChoices, seed: int) -> None:
        self.kind, self.schema, self.choices, self.seed = kind, schema, choices, seed

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        self._train(source, validation, self.choices.max_epochs)
        if refit is not None:
            self._train(refit, None, self.epochs_)
        return self

    def predict(self, features: Features) -> FloatArray:
        categories, numbers = self.tensors(features)
        self.network_.eval()
        with torch.no_grad():
            parts = [
                torch.sigmoid(self.network_(categories[i : i + 65536], numbers[i : i + 65536]))
                for i in range(0, max(len(categories), 1), 65536)
            ]
        return torch.cat(parts).double().numpy()

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
        choices = self.choices
        generator = torch_generator("ctr-init", self.seed)
        torch.manual_seed(derive_seed("ctr-dropout", self.seed))  # dropout takes no generator
        network = self.new_network(generator)
        first = source.draw(0)
        self.standardise_by(first)
        tables = set(map(id, network.table_parameters()))
        others = [parameter for parameter in network.parameters() if id(parameter) not in tables]
        groups: list[dict[str, Any]] = [
            {"params": network.table_parameters(), "weight_decay": choices.table_decay},
            {"params": others},
        ]
        optimizer = torch.optim.Adam(groups, lr=choices.learning_rate)
        best, best_state, best_epoch = -np.inf, None, 0
        for epoch in range(epochs):
            examples = first if epoch == 0 else source.draw(epoch)
            self._epoch(network, optimizer, examples, generator)
            if validation is None:
                continue
            self.network_ = network
            auc = roc_auc_score(validation.label, self.predict(validation.features))
            if auc > best:
                best, best_epoch, best_state = auc, epoch + 1, copy.deepcopy(network.state_dict())
            elif epoch + 1 - best_epoch >= choices.patience:
                break
        self.network_ = network
        if validation is not None and best_state is not None:
            network.load_state_dict(best_state)
            self.validation_auc_, self.epochs_ = float(best), best_epoch

    def new_network(self, generator: torch.Generator) -> NeuralCTR:
        """An untrained network for the model's schema."""
        choices = self.choices
        return NeuralCTR(
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

    def _epoch(
        self,
        network: NeuralCTR,
        optimizer: torch.optim.Optimizer,
        examples: Labelled,
        generator: torch.Generator,
    ) -> None:
        network.train()
        categories, numbers = self.tensors(examples.features)
        label = torch.from_numpy(examples.label.astype(np.float32))
        loss = nn.BCEWithLogitsLoss()
        for chosen in torch.randperm(len(label), generator=generator).split(self.batch_size(len(label))):
            optimizer.zero_grad()
            loss(network(categories[chosen], numbers[chosen]), label[chosen]).backward()
            optimizer.step()

    def tensors(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Categories ``(n, n_fields)`` and standardised numbers ``(n, n_numbers)``."""
        scaled = (features.numbers - self._centre) / self._spread
        return torch.from_numpy(features.categories), torch.from_numpy(scaled.astype(np.float32))


class BoostedModel:
    """Gradient-boosted trees (scikit-learn's histogram implementation); codes enter as categories.

    Attributes:
        validation_auc_: validation AUC at the stopping iteration, before the refit.
        iterations_: trees of that model.
    """

    def __init__(self, schema: FeatureSchema, choices: BoostedChoices, seed: int) -> None:
        too_many = [
            name
            for name, size in zip(schema.category_names, schema.cardinalities, strict=True)
            if size > MAX_CATEGORIES
        ]
        if too_many:
            raise ValueError(f"boosted trees take at most {MAX_CATEGORIES} values of a category: {too_many}")
        self.schema, self.choices, self.seed = schema, choices, seed

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        train = source.draw(0)
        self.trees_ = self._classifier(self.choices.max_iterations, stop=True)
        self.trees_.fit(
            self._matrix(train.features),
            train.label,
            X_val=self._matrix(validation.features),
            y_val=validation.label,
        )
        self.validation_auc_ = float(roc_auc_score(validation.label, self.predict(validation.features)))
        self.iterations_ = int(self.trees_.n_iter_)
        if refit is not None:
            everything = refit.draw(0)
            self.trees_ = self._classifier(self.iterations_, stop=False)
            self.trees_.fit(self._matrix(everything.features), everything.label)
        return self

    def predict(self, features: Features) -> FloatArray:
        return np.asarray(self.trees_.predict_proba(self._matrix(features))[:, 1])

    def _classifier(self, iterations: int, *, stop: bool) -> HistGradientBoostingClassifier:
        n_categories, n_numbers = len(self.schema.category_names), len(self.schema.number_names)
        return HistGradientBoostingClassifier(
            learning_rate=self.choices.learning_rate,
            max_leaf_nodes=self.choices.max_leaf_nodes,
            min_samples_leaf=self.choices.min_samples_leaf,
            l2_regularization=self.choices.l2,
            max_iter=iterations,
            early_stopping=stop,
            n_iter_no_change=self.choices.patience,
            categorical_features=np.arange(n_categories + n_numbers) < n_categories,
            random_state=self.seed % 2**32,
        )

    @staticmethod
    def _matrix(features: Features) -> FloatArray:
        return np.concatenate([features.categories.astype(np.float64), features.numbers], axis=1)


def make_model(
    kind: ModelKind, schema: FeatureSchema, choices: NeuralChoices | BoostedChoices, seed: int
) -> NeuralModel | BoostedModel:
    """An unfitted model of a family, with that family's choices."""
    if kind == "boosted" and isinstance(choices, BoostedChoices):
        return BoostedModel(schema, choices, seed)
    if kind != "boosted" and isinstance(choices, NeuralChoices):
        return NeuralModel(kind, schema, choices, seed)
    raise TypeError(f"{kind} does not take {type(choices).__name__}")


def neural_grid(base: NeuralChoices) -> list[NeuralChoices]:
    """What tuning tries for a neural model; every trained model gets the same number of tries."""
    return [
        base,
        replace(base, table_decay=base.table_decay * 100, learning_rate=base.learning_rate / 2),
        replace(base, table_decay=base.table_decay * 30, dropout=0.5),
    ]


def boosted_grid(base: BoostedChoices) -> list[BoostedChoices]:
    """What tuning tries for boosted trees."""
    return [
        base,
        replace(base, max_leaf_nodes=7),
        replace(base, l2=10.0, min_samples_leaf=50),
    ]
