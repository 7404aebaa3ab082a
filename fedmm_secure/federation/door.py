"""The one door: everything that leaves a market goes through ``Door.release``. No other code path may send.

Order of events, and why: the update is protected; the market keeps its state and the sealed message; the
ledger line is written and fsynced; only then is the message recorded and sent. A crash before the ledger line
means that nothing was sent; a crash after it, that the same bytes are sent again. A crash can over-count a
release, never under-count one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from dp_accounting.dp_event import DpEvent
from numpy.typing import NDArray

from fedmm_secure.federation.messages import Header, pack
from fedmm_secure.federation.transcript import Transcript
from privacy.accounting.accountants import COARSE, pld_epsilon
from privacy.accounting.ledger import Entry, Ledger
from privacy.aggregation import FixedPointCodec, MarketAggregator


class BudgetExceededError(Exception):
    """A release that would spend more than the market's budget; nothing was sent."""


@dataclass(frozen=True)
class Release:
    """What a market wants to let out.

    Attributes:
        stage: stage of the run that computed it, e.g. ``quantizer/0``.
        round: round number.
        payload: real values ``(length,)``.
        mechanism: name of the mechanism that produced it.
        event: its privacy event.
        sensitivity: clipping norm, None where nothing bounds it.
        audience: the views that observe the payload itself (not its ciphertext).
        depends_on: stages whose outputs it was computed from.
        unit: the privacy unit.
        remark: what a reader of the ledger must know beside the numbers.
    """

    stage: str
    round: int
    payload: NDArray[np.float64]
    mechanism: str
    event: DpEvent
    sensitivity: float | None
    audience: tuple[str, ...]
    depends_on: tuple[str, ...]
    unit: str = "user"
    remark: str | None = None


@dataclass(frozen=True)
class Budget:
    """The ε that the stages named ``stage_prefix…`` may spend together at ``delta``; None is unbounded."""

    epsilon: float | None
    delta: float
    stage_prefix: str = "quantizer"


class Door:
    """The way out of one market."""

    def __init__(
        self,
        market: str,
        *,
        run: str,
        parameters_sha256: str,
        ledger: Ledger,
        budget: Budget,
        codec: FixedPointCodec,
        aggregator: MarketAggregator,
        transcript: Transcript,
        seeded: bool,
    ) -> None:
        self.market = market
        self.ledger = ledger
        self.budget = budget
        self._run, self._parameters = run, parameters_sha256
        self._codec, self._aggregator, self._transcript = codec, aggregator, transcript
        self._seeded = seeded

    def release(
        self,
        release: Release,
        send: Callable[[bytes], None],
        *,
        keep: Callable[[bytes], None],
        sealed: bytes | None = None,
    ) -> None:
        """Let a release out.

        Args:
            release: what to send.
            send: hands the message to the engine.
            keep: stores the market's state with the sealed message, before anything is sent.
            sealed: the message that an interrupted run kept; it is sent again, not drawn again.

        Raises:
            BudgetExceededError: the ledger does not allow it; nothing was written or sent.
            AggregationError: the payload is not finite.
        """
        integers = self._codec.encode(release.payload)
        if sealed is None:
            header = Header("update", self._run, release.stage, release.round, self.market, self._parameters)
            sealed = pack(header, self._aggregator.protect(integers))
        digest = hashlib.sha256(sealed).hexdigest()
        if not any(entry.message_sha256 == digest for entry in self.ledger.entries):
            self._refuse_overspending(release)
            keep(sealed)
            self.ledger.append(
                Entry(
                    market=self.market,
                    stage=release.stage,
                    event=release.event,
                    mechanism=release.mechanism,
                    audience=release.audience,
                    depends_on=release.depends_on,
                    sensitivity=release.sensitivity,
                    delta=self.budget.delta,
                    seeded=self._seeded,
                    unit=release.unit,
                    round=release.round,
                    message_sha256=digest,
                    remark=release.remark,
                )
            )
        self._record(release, "own-update", integers.astype("<i8").tobytes(), f"owner:{self.market}", 0)
        self._record(release, "update", sealed, "server", 1)
        send(sealed)

    def spent(self) -> float:
        """ε that the budget's stages have spent so far; ``inf`` without DP."""
        events = [entry.event for entry in self._budgeted()]
        return pld_epsilon(events, self.budget.delta, interval=COARSE)

    def _budgeted(self) -> list[Entry]:
        return [entry for entry in self.ledger.entries if entry.stage.startswith(self.budget.stage_prefix)]

    def _refuse_overspending(self, release: Release) -> None:
        if self.budget.epsilon is None:
            return
        events = [*(entry.event for entry in self._budgeted()), release.event]
        asked = pld_epsilon(events, self.budget.delta, interval=COARSE)
        if asked > self.budget.epsilon * (1 + 1e-6):
            raise BudgetExceededError(
                f"market {self.market}, stage {release.stage}, round {release.round}: this release would bring "
                f"epsilon to {asked:.4g}, the budget is {self.budget.epsilon:.4g}; nothing was sent"
            )

    def _record(self, release: Release, kind: str, data: bytes, visible_to: str, receivers: int) -> None:
        self._transcript.add(
            data,
            kind=kind,
            stage=release.stage,
            round=release.round,
            sender=self.market,
            visible_to=(visible_to,),
            receivers=receivers,
        )
