"""Gradient-boosted trees over the features of pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from fedmm_secure.config.choices import MODELS, ModelKind
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.base import Choices, CTRModel, Family, Format
from fedmm_secure.data.market import FloatArray
from fedmm_secure.foreign.archives import stored_members
from privacy.foreign import ForeignFileError

MOST_CATEGORIES = MODELS["boosted"].most_categories or 0
# what skops may build; node indices of trees are not bounds-checked, so score with runs of your own alone
_TREES = [
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
]


def _unpack(data: bytes, where: Path) -> Any:
    """Boosted trees as skops wrote them."""
    try:
        stored_members(data)
        return skops.io.loads(data, trusted=_TREES)
    except Exception as error:  # whatever skops stumbles over
        raise ForeignFileError(f"{where}: no trees: {str(error)[:200]}") from error


_FORMAT = Format(lambda trees: bytes(skops.io.dumps(trees)), _unpack)


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
        validation_auc_: validation AUC at the stopping iteration, before the refit.
        iterations_: trees of that model.
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
        """Boost until the validation loss rises; on all rows as many trees again, where there is ``refit``."""
        self.trees_ = self._classifier(self.choices.max_iterations, stop=True)
        self._grow(source.draw(0), X_val=self._matrix(validation.features), y_val=validation.label)
        self.validation_auc_ = float(roc_auc_score(validation.label, self.predict(validation.features)))
        self.iterations_ = int(self.trees_.n_iter_)
        if refit is not None:
            self.trees_ = self._classifier(self.iterations_, stop=False)
            self._grow(refit.draw(0))
        return self

    def _grow(self, examples: Labelled, **validation: FloatArray) -> None:
        """Fit the trees; examples are held no longer."""
        self.trees_.fit(self._matrix(examples.features), examples.label, **validation)

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        return np.asarray(self.trees_.predict_proba(self._matrix(features))[:, 1])

    def state_dict(self) -> HistGradientBoostingClassifier:
        """The fitted trees."""
        return self.trees_

    def load_state_dict(self, state: HistGradientBoostingClassifier) -> None:
        """Take fitted trees."""
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
