"""The seam between what a market protects and what a server adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import StoppedError

IntVector = NDArray[np.int64]


class AggregationError(StoppedError):
    """A payload that cannot be parsed, has the wrong parameters, or would not sum exactly."""


class ForgedSumError(AggregationError):
    """A sum that is not what its cohort sent. One text, whatever was wrong: size, range, decryption or tag."""

    def __init__(self) -> None:
        super().__init__("this is not the sum of what the markets of the cohort sent")


@dataclass(frozen=True)
class Binding:
    """What one protected vector is for.

    Attributes:
        run: id of the run.
        stage: stage of the run.
        round: round number.
        attempt: 0, then 1 more each time the round starts again with fewer markets.
        cohort: the markets whose vectors are added up, sorted.
    """

    run: str
    stage: str
    round: int
    attempt: int
    cohort: tuple[str, ...]

    @property
    def context(self) -> bytes:
        """All of it, for a key derivation; different bindings have different bytes."""
        return framed(self.run, self.stage, str(self.round), str(self.attempt), *self.cohort)


def framed(*parts: str) -> bytes:
    """Texts, each behind its length: no two lists of texts have the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class Carrier(Protocol):
    """How a market's integers travel. A sum that it opens may be anybody's: ``MarketAggregator`` says whose it is."""

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Integers ``(length,)`` for transport; raises ``AggregationError`` out of range."""
        ...

    def reveal(self, aggregate: bytes) -> IntVector:
        """Integers ``(length,)`` of a sum; raises ``AggregationError`` where there are none."""
        ...


class MarketAggregator(Protocol):
    """The market's side: holds whatever secrets the protection needs. Its sums are authenticated."""

    def ready(self, cohort: tuple[str, ...]) -> None:
        """Raise what ``protect`` would raise for this cohort whatever the values are: before they are computed."""
        ...

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Protect integers ``(length,)`` for transport; raises ``AggregationError`` out of range."""
        ...

    def reveal(self, aggregate: bytes, binding: Binding) -> IntVector:
        """The exact integer sum ``(length,)`` of what the cohort protected for this binding.

        Raises:
            ForgedSumError: it is anything else. The caller asks no second time with the same keys.
        """
        ...


class ServerAggregator(Protocol):
    """The server's side: public material only. A sum that lacks one market of the announced cohort is worthless.

    Attributes:
        update_bytes: exact size of a protected vector.
        aggregate_bytes: exact size of a sum over the whole cohort.
    """

    @property
    def update_bytes(self) -> int:
        """Exact size of a protected vector."""
        ...

    @property
    def aggregate_bytes(self) -> int:
        """Exact size of a sum over the whole cohort."""
        ...

    def aggregate(self, payloads: Sequence[bytes]) -> bytes:
        """Sum protected payloads without opening them; raises ``AggregationError`` on any bad one."""
        ...

    def check(self, payload: bytes) -> None:
        """Raise ``AggregationError`` unless ``payload`` alone could be aggregated."""
        ...

    def check_sum(self, aggregate: bytes, summands: int) -> None:
        """Raise ``AggregationError`` unless these bytes are of the form of a sum over so many payloads."""
        ...
