"""The seam of CTR models: what each can do, and what is true of its family.

Whoever trains, tunes, keeps or loads one asks the model and its family, and never for a name. A new family is a module
with a ``Family``, and its name in ``fedmm_secure.config.choices.MODELS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from fedmm_secure.config.choices import DeviceName, ModelKind
from fedmm_secure.config.sections import CTRConfig
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import PAIRS, Features, FeatureSchema, PairFeatures
from fedmm_secure.data.market import FloatArray, IntArray
from privacy.foreign import ForeignFileError


@dataclass(frozen=True)
class Choices:
    """Hyper-parameters of a family, which has its own.

    Attributes:
        device: where networks train; trees grow on the processor.
    """

    device: DeviceName = "cpu"


@dataclass(frozen=True)
class Format:
    """How a family's models are kept.

    Attributes:
        pack: what a model is, as bytes.
        unpack: and back, from bytes that may be anybody's; raises ``ForeignFileError``, which names the given place.
    """

    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes, Path], Any]


@dataclass(frozen=True)
class Family:
    """What is true of all models of a family.

    Attributes:
        make: an unfitted model of a kind, for inputs of a schema, by choices and a seed.
        grid: what tuning chooses from, by the configuration; the first is the configured choice. Every family has as
            many.
        draws_each_epoch: whether negatives are drawn anew for each pass over the positives.
    """

    make: Callable[[ModelKind, FeatureSchema, Choices, int], CTRModel]
    grid: Callable[[CTRConfig], Sequence[Choices]]
    draws_each_epoch: bool


class ClickModel(ABC):
    """A click-through-rate model that can score, and be kept."""

    format: ClassVar[Format]

    @abstractmethod
    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""

    @abstractmethod
    def state_dict(self) -> Any:
        """What the model is once it is fitted."""

    @abstractmethod
    def load_state_dict(self, state: Any) -> None:
        """Be what ``state_dict`` gave of a model that was made in the same way."""

    @property
    def kept_as(self) -> Format:
        """How it is kept."""
        return self.format

    def write(self) -> bytes:
        """The model as a file."""
        return self.kept_as.pack(self.state_dict())

    def read(self, data: bytes, where: Path) -> None:
        """Be the model of a file that ``write`` made; raises ``ForeignFileError`` where it made none, or another."""
        state = self.kept_as.unpack(data, where)
        try:
            self.load_state_dict(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ForeignFileError(f"{where}: another model: {(str(error).splitlines() or [''])[0][:200]}") from error


def predict_pairs(model: ClickModel, builder: PairFeatures, user: IntArray, item: IntArray) -> FloatArray:
    """Click probabilities ``(n,)`` of pairs, some at a time: features of all would be the largest array of a run."""
    parts = [slice(start, start + PAIRS) for start in range(0, max(len(user), 1), PAIRS)]
    return np.concatenate([model.predict(builder(user[part], item[part])) for part in parts])


class CTRModel(ClickModel):
    """A click-through-rate model that is fitted without DP.

    Attributes:
        validation_auc_: best validation AUC before the refit.
    """

    validation_auc_: float

    @abstractmethod
    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Fit on ``source`` with early stopping on ``validation``; then ``refit``, where there are rows for it."""

    @abstractmethod
    def refit(self, source: ExampleSource) -> Self:
        """Fit anew, on all rows, for as long as the last fit took."""
