"""What every CTR model can do."""

from __future__ import annotations

from typing import Protocol, Self

from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features
from fedmm_secure.data.market import FloatArray


class CTRModel(Protocol):
    """A trained click-through-rate model."""

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Fit on ``source`` with early stopping on ``validation``; then on ``refit``, for as long."""
        ...

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        ...
