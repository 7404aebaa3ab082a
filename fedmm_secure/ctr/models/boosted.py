"""Gradient-boosted trees over the features of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from fedmm_secure.config.choices import ModelKind
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.base import Choices, CTRModel, Family, Format
from fedmm_secure.ctr.models.tree_arrays import MOST_CATEGORIES, Trees
from fedmm_secure.data.market import FloatArray
from fedmm_secure.foreign.formats import parse_arrays
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.files import Arrays
from privacy.foreign import ForeignFileError

_OF = "."  # between the place of an average's member and the name of its array


def _pack(state: Trees | Mapping[int, Trees]) -> bytes:
    """Trees of a model, or of each member of an average, as a file of plain arrays."""
    if isinstance(state, Trees):
        return arrays_bytes(state.to_arrays())
    return arrays_bytes(
        {f"{index}{_OF}{name}": array for index, trees in state.items() for name, array in trees.to_arrays().items()}
    )


def _unpack(data: bytes, where: Path) -> Trees | dict[int, Trees]:
    """And back, from anybody's file: no more is built of it than arrays, whose trees can be walked."""
    members: dict[str, Arrays] = {}
    for name, array in parse_arrays(data, where).items():
        index, _, inner = name.rpartition(_OF)
        members.setdefault(index, {})[inner] = array
    try:
        if members.keys() == {""}:
            return Trees.from_arrays(members[""])
        return {int(index): Trees.from_arrays(arrays) for index, arrays in members.items()}
    except ValueError as error:
        raise ForeignFileError(f"{where}: no trees: {str(error)[:200]}") from error


_FORMAT = Format(_pack, _unpack)


@dataclass(frozen=True)
class BoostedChoices(Choices):
    """Hyper-parameters of boosted trees."""

    learning_rate: float = 0.05
    max_leaf_nodes: int = 15
    min_samples_leaf: int = 20
    l2: float = 1.0
    max_iterations: int = 300
    patience: int = 20


class BoostedModel(CTRModel):
    """Gradient-boosted trees (scikit-learn's histogram implementation); codes enter as categories.

    Attributes:
        validation_auc_: validation AUC of the trees up to the lowest validation loss, before the refit.
        iterations_: trees that were grown until boosting stopped, those after the lowest loss among them.
    """

    format = _FORMAT

    def __init__(self, schema: FeatureSchema, choices: BoostedChoices, seed: int) -> None:
        too_many = [
            name
            for name, size in zip(schema.category_names, schema.cardinalities, strict=True)
            if size > MOST_CATEGORIES
        ]
        if too_many:
            raise ValueError(f"boosted trees take at most {MOST_CATEGORIES} values of a category: {too_many}")
        self.schema, self.choices, self.seed = schema, choices, seed

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Boost until the validation loss has not fallen for a while, and keep the trees up to the lowest.

        Then ``refit``, where there are rows for it.
        """
        grown = self._classifier(self.choices.max_iterations, stop=True)
        grown = self._grow(grown, source.draw(0), X_val=self._matrix(validation.features), y_val=validation.label)
        best = max(int(np.argmax(grown.validation_score_)), 1)  # the first score, minus the loss, is that of no tree
        self.trees_, self.iterations_ = Trees.of(grown, best), int(grown.n_iter_)
        self.validation_auc_ = float(roc_auc_score(validation.label, self.predict(validation.features)))
        return self if refit is None else self.refit(refit)

    def refit(self, source: ExampleSource) -> Self:
        """As many trees as were grown are grown again, on all rows: more rows bear more trees."""
        self.trees_ = Trees.of(self._grow(self._classifier(self.iterations_, stop=False), source.draw(0)))
        return self

    def _grow(
        self, trees: HistGradientBoostingClassifier, examples: Labelled, **validation: FloatArray
    ) -> HistGradientBoostingClassifier:
        """Fit trees; examples are held no longer."""
        return trees.fit(self._matrix(examples.features), examples.label, **validation)

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        return self.trees_.predict(self._matrix(features))

    def state_dict(self) -> Trees:
        """The fitted trees."""
        return self.trees_

    def load_state_dict(self, state: Trees) -> None:
        """Take fitted trees; raises ``ValueError`` where they are of other inputs, or more than a model has."""
        names, inner = self.schema, state.nodes["is_leaf"] == 0
        columns = len(names.category_names) + len(names.number_names)
        if len(state.known) != len(names.category_names) or (state.nodes["feature_idx"][inner] >= columns).any():
            raise ValueError("trees of other inputs")
        if len(state.sizes) > self.choices.max_iterations:
            raise ValueError(f"{len(state.sizes)} trees, and at most {self.choices.max_iterations} are fitted")
        self.trees_ = state

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
        if not features.categories.shape[1]:
            return features.numbers
        return np.concatenate([features.categories.astype(np.float64), features.numbers], axis=1)


def boosted_grid(base: BoostedChoices) -> list[BoostedChoices]:
    """What tuning tries for boosted trees."""
    return [
        base,
        replace(base, max_leaf_nodes=7),
        replace(base, l2=10.0, min_samples_leaf=50),
    ]


def _make(kind: ModelKind, schema: FeatureSchema, choices: Choices, seed: int) -> CTRModel:
    if not isinstance(choices, BoostedChoices):
        raise TypeError(f"{kind} does not take {type(choices).__name__}")
    return BoostedModel(schema, choices, seed)


FAMILY = Family(_make, lambda config: boosted_grid(BoostedChoices()), draws_each_epoch=False)
