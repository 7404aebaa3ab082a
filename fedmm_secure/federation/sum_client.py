"""One market's part in a sum over a catalogue that all markets share: one round, one vector, nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedmm_secure.federation.door import Door
from fedmm_secure.federation.messages import Header
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.aggregation.base import IntVector
from privacy.mechanisms.randomness import NoiseSource

MeteredPart = tuple[IntVector, IntVector | None]


class SumClient(RoundClient):
    """Sends a market's part of a sum. The sum itself stays in the market's transcript, where what needs it reads it.

    Args:
        market: its name.
        stage: stage name in ledger and transcript.
        spending: what its releases spend.
        door: the market's way out.
        state_dir: where its state is kept.
        part: computes the market's integers ``(length,)`` and spare values of their noise, once they are charged for;
            from private randomness where the plan draws any.
    """

    def __init__(
        self,
        market: str,
        stage: str,
        spending: SpendingPlan,
        door: Door,
        state_dir: Path,
        part: Callable[[NoiseSource | None], MeteredPart],
    ) -> None:
        super().__init__(market, stage, spending, door, state_dir / f"{market}.pt")
        self._part = part
        self._begin()

    def _computed(self, round: int, paid: Transaction) -> MeteredPart:
        return self._part(paid.source if paid.charge.key else None)

    def _move(self, header: Header, total: IntVector) -> None:
        """Nothing: the door has recorded the sum."""

    def _kept(self) -> dict[str, Any]:
        return {}

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        """Nothing is kept beside the update in hand."""
