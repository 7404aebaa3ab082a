"""The one door: everything that leaves a market goes through ``Door``. No other code path may send or publish.

Order of events, and why: the update is protected; the market keeps its state and the sealed message; the
ledger line is written and fsynced; only then is the message recorded and sent. A crash before the ledger line
means that nothing was sent; a crash after it, that the same bytes are sent again. A crash can over-count a
release, never under-count one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from dp_accounting.dp_event import DpEvent, NoOpDpEvent
from numpy.typing import NDArray

from fedmm_secure.federation.messages import HELLO_STAGE, Header, Hello, hello_header, pack
from fedmm_secure.federation.transcript import Transcript
from privacy.accounting.accountants import COARSE, ROUGH, pld_epsilon
from privacy.accounting.events import is_part_of
from privacy.accounting.ledger import Entry, Ledger, stage_group
from privacy.aggregation import Binding, FixedPointCodec, MarketAggregator
from privacy.aggregation.identities import Identity

PUBLICATION = "publication"


class BudgetExceededError(Exception):
    """A release that would spend more than the market's budget; nothing was sent."""


@dataclass(frozen=True)
class Release:
    """What a market wants to let out, or to build further stages on.

    Attributes:
        stage: stage of the run that computed it, e.g. ``quantizer/0``.
        mechanism: name of the mechanism that produced it.
        event: its privacy event.
        sensitivity: clipping norm, None where nothing bounds it.
        audience: the views that observe the payload itself (not its ciphertext).
        depends_on: stages whose outputs it was computed from.
        round: federation round, None outside the rounds.
        attempt: which attempt of the round.
        unit: the privacy unit.
        remark: what a reader of the ledger must know beside the numbers.
        view_events: events of views that observe less, or more, than ``event`` says.
    """

    stage: str
    mechanism: str
    event: DpEvent
    sensitivity: float | None
    audience: tuple[str, ...]
    depends_on: tuple[str, ...]
    round: int | None = None
    attempt: int | None = None
    unit: str = "user"
    remark: str | None = None
    view_events: Mapping[str, DpEvent] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The ε that the named stage groups may spend together at ``delta``; None is unbounded.

    ``plan`` is what they are expected to spend: a part of a plan that meets the budget meets it too, and need not be
    composed anew for every release.
    """

    epsilon: float | None
    delta: float
    stages: tuple[str, ...] = ("quantizer",)
    plan: DpEvent = field(default_factory=NoOpDpEvent)


@dataclass(frozen=True)
class Channel:
    """How a market's messages are protected, what they are bound to, and who signs them.

    Attributes:
        run: id of the run.
        parameters: hash of the federation's bundle.
        codec: fixed-point format.
        aggregator: the market's side of it.
        identity: the market's.
    """

    run: str
    parameters: str
    codec: FixedPointCodec
    aggregator: MarketAggregator
    identity: Identity


class Door:
    """The way out of one market.

    Args:
        market: its name.
        ledger: where every release is written first.
        budget: what may be spent.
        channel: protection of messages to the server.
        transcript: what each party sees.
        seeded: whether noise comes from a seed, which is unfit for compliance.
    """

    def __init__(
        self,
        market: str,
        *,
        ledger: Ledger,
        budget: Budget,
        channel: Channel,
        transcript: Transcript,
        seeded: bool,
    ) -> None:
        self.market = market
        self.ledger = ledger
        self.budget = budget
        self.channel, self._transcript = channel, transcript
        self._seeded = seeded

    def introduce(self, hello: Hello, send: Callable[[bytes], None]) -> None:
        """Say who is there: a public key of this run and a hash of the configuration, nothing of the data."""
        channel = self.channel
        header = hello_header(channel.run, self.market, channel.parameters)
        message = pack(header, hello.to_bytes(), channel.identity.sign)
        self._transcript.add(
            message,
            kind="hello",
            stage=HELLO_STAGE,
            round=0,
            sender=self.market,
            visible_to=("server", "markets"),
            receivers=1,
        )
        send(message)

    def note(self, release: Release) -> None:
        """Enter a stage whose result stays in the market but is built upon; once a stage.

        Raises:
            BudgetExceededError: the budget does not allow it.
        """
        if not any(entry.stage == release.stage and entry.message_sha256 is None for entry in self.ledger.entries):
            self._refuse_overspending(release)
            self._enter(release, None)

    def publish(self, release: Release, data: bytes) -> None:
        """Let an artefact out to the release view; the caller has kept ``data`` and brings the same after a crash.

        Raises:
            BudgetExceededError: the budget does not allow it; nothing was written or published.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not self._entered(digest):
            self._refuse_overspending(release)
            self._enter(release, digest)
        self._record(release, PUBLICATION, data, "release", 0)

    def send(
        self,
        release: Release,
        payload: NDArray[np.float64],
        send: Callable[[bytes], None],
        *,
        cohort: tuple[str, ...],
        keep: Callable[[bytes], None],
        sealed: bytes | None = None,
    ) -> None:
        """Let an update out to the server.

        Args:
            release: what it is.
            payload: real values ``(length,)``.
            send: hands the message to the engine.
            cohort: the markets whose updates will be added up.
            keep: stores the market's state with the sealed message, before anything is sent.
            sealed: the message that an interrupted run kept; it is sent again, not drawn again.

        Raises:
            BudgetExceededError: the ledger does not allow it; nothing was written or sent.
            AggregationError: the payload is not finite.
            MaskReuseError: something was sent for this attempt before.
        """
        channel = self.channel
        integers = channel.codec.encode(payload)
        if sealed is None:
            bound = Binding(channel.run, release.stage, release.round or 0, release.attempt or 0, cohort)
            header = Header(
                "update",
                channel.run,
                bound.stage,
                bound.round,
                bound.attempt,
                self.market,
                channel.parameters,
                cohort,
            )
            sealed = pack(header, channel.aggregator.protect(integers, bound), channel.identity.sign)
        digest = hashlib.sha256(sealed).hexdigest()
        if not self._entered(digest):
            self._refuse_overspending(release)
            keep(sealed)
            self._enter(release, digest)
        self._record(release, "own-update", integers.astype("<i8").tobytes(), f"owner:{self.market}", 0)
        self._record(release, "update", sealed, "server", 1)
        send(sealed)

    def _entered(self, digest: str) -> bool:
        return any(entry.message_sha256 == digest for entry in self.ledger.entries)

    def _enter(self, release: Release, digest: str | None) -> None:
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
                attempt=release.attempt,
                message_sha256=digest,
                remark=release.remark,
                view_events=release.view_events,
            )
        )

    def spent(self) -> float:
        """ε that the budget's stages have spent so far, rounded up a little; ``inf`` without DP."""
        events = [entry.event for entry in self._budgeted()]
        return pld_epsilon(events, self.budget.delta, interval=ROUGH)

    def _budgeted(self) -> list[Entry]:
        return [entry for entry in self.ledger.entries if self._counts(entry.stage)]

    def _counts(self, stage: str) -> bool:
        return stage_group(stage) in self.budget.stages

    def _refuse_overspending(self, release: Release) -> None:
        if self.budget.epsilon is None or not self._counts(release.stage):
            return
        events = [*(entry.event for entry in self._budgeted()), release.event]
        allowed = self.budget.epsilon * (1 + 1e-6)
        plan = [self.budget.plan]
        if is_part_of(events, plan) and pld_epsilon(plan, self.budget.delta, interval=COARSE) <= allowed:
            return
        asked = pld_epsilon(events, self.budget.delta, interval=COARSE)
        at = "" if release.round is None else f", round {release.round}"
        if asked > allowed:
            raise BudgetExceededError(
                f"market {self.market}, stage {release.stage}{at}: this release would bring "
                f"epsilon to {asked:.4g}, the budget is {self.budget.epsilon:.4g}; nothing was sent"
            )

    def _record(self, release: Release, kind: str, data: bytes, visible_to: str, receivers: int) -> None:
        self._transcript.add(
            data,
            kind=kind,
            stage=release.stage,
            round=release.round or 0,
            attempt=release.attempt or 0,
            sender=self.market,
            visible_to=(visible_to,),
            receivers=receivers,
        )
