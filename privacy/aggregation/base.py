"""The seam between what a market protects and what a server adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IntVector = NDArray[np.int64]


class AggregationError(Exception):
    """A payload that cannot be parsed, has the wrong parameters, or would not sum exactly."""


class MarketAggregator(Protocol):
    """The market's side: holds whatever secret the protection needs."""

    def protect(self, values: IntVector) -> bytes:
        """Protect integers ``(length,)`` for transport; raises ``AggregationError`` out of range."""
        ...

    def reveal(self, aggregate: bytes) -> IntVector:
        """The exact integer sum ``(length,)`` of what the cohort protected."""
        ...


class ServerAggregator(Protocol):
    """The server's side: public material only."""

    def aggregate(self, payloads: Sequence[bytes]) -> bytes:
        """Sum protected payloads without opening them; raises ``AggregationError`` on any bad one."""
        ...

    def check(self, payload: bytes) -> None:
        """Raise ``AggregationError`` unless ``payload`` alone could be aggregated."""
        ...
