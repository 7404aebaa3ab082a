"""The aggregation server: adds what it cannot read, and rejects what it should not add."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from fedmm_secure.federation.messages import (
    HELLO_STAGE,
    Header,
    Hello,
    MessageError,
    MessageKind,
    expect,
    hello_header,
    pack,
)
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.storage import write_json
from privacy.aggregation import AggregationError, ServerAggregator
from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import SERVER, Bundle


class CohortTooSmallError(Exception):
    """Too few valid updates: the round stopped and nothing was released."""


@dataclass(frozen=True)
class Order:
    """What the server asks of the markets: an update for one attempt of one round.

    Attributes:
        stage: stage of the run.
        round: round number.
        attempt: 0, then 1 more each time the round starts again with fewer markets.
        cohort: markets whose updates will be added up, sorted.
    """

    stage: str
    round: int
    attempt: int
    cohort: tuple[str, ...]


@dataclass(frozen=True)
class Absence:
    """Why a market sent nothing."""

    reason: str


@dataclass(frozen=True)
class Rejection:
    """A market that was left out of a round."""

    market: str
    round: int
    reason: str


@dataclass(frozen=True)
class RoundResult:
    """An aggregate message and whose updates it adds up."""

    message: bytes
    cohort: tuple[str, ...]
    rejections: tuple[Rejection, ...]


Replies = Mapping[str, bytes | Absence]
Collect = Callable[[Order], Replies]


class AggregationServer:
    """Holds public material, and a key of its own to sign with.

    Args:
        run: id of the run.
        bundle: the parties and the aggregation.
        identity: the server's.
        min_cohort: fewer updates are not added up.
        aggregator: the server's side of it.
        transcript: what each party sees.
        state_file: where the order in hand is kept, so that a restarted server asks for the same again.
    """

    def __init__(
        self,
        *,
        run: str,
        bundle: Bundle,
        identity: Identity,
        min_cohort: int,
        aggregator: ServerAggregator,
        transcript: Transcript,
        state_file: Path,
    ) -> None:
        self._run, self._bundle, self._identity = run, bundle, identity
        self._min_cohort = min_cohort
        self._aggregator, self._transcript = aggregator, transcript
        self._state_file = state_file

    def welcome(
        self, hellos: Mapping[str, bytes], configuration: bytes
    ) -> tuple[dict[str, bytes], tuple[Rejection, ...]]:
        """The valid hellos, which all markets get, and who sent no valid one.

        Args:
            hellos: by the market that each connection belongs to.
            configuration: hash of the configuration that all must run.
        """
        valid: dict[str, bytes] = {}
        rejections = []
        for market, message in sorted(hellos.items()):
            try:
                wanted = hello_header(self._run, market, self._bundle.digest)
                if Hello.from_bytes(self._expect(message, market, wanted)).configuration != configuration:
                    raise MessageError("runs another configuration")
                valid[market] = message
                self._record(message, "hello", Order(HELLO_STAGE, 0, 0, ()), market, ("server", "markets"), 1)
            except MessageError as error:
                rejections.append(Rejection(market, 0, str(error)))
        return valid, tuple(rejections)

    def run_round(self, stage: str, round: int, present: Sequence[str], collect: Collect) -> RoundResult:
        """Collect and add up the updates of a round; starts again with fewer where a sum needs its whole cohort.

        Raises:
            CohortTooSmallError: fewer valid updates than the minimum cohort.
        """
        order = self._order_in_hand(stage, round) or Order(stage, round, 0, tuple(sorted(present)))
        rejections: list[Rejection] = []
        while True:
            self._refuse_small(order, order.cohort, rejections)
            write_json(self._state_file, asdict(order))
            payloads, rejected = self._valid(order, collect(order))
            rejections += rejected
            self._refuse_small(order, payloads, rejections)
            complete = tuple(payloads) == order.cohort
            if complete or not self._aggregator.needs_whole_cohort:
                return self._close(order, payloads, rejections)
            order = Order(stage, round, order.attempt + 1, tuple(payloads))  # strictly fewer: this ends

    def _order_in_hand(self, stage: str, round: int) -> Order | None:
        if not self._state_file.exists():
            return None
        kept = json.loads(self._state_file.read_text(encoding="utf-8"))
        order = Order(kept["stage"], kept["round"], kept["attempt"], tuple(kept["cohort"]))
        return order if (order.stage, order.round) == (stage, round) else None

    def _valid(self, order: Order, replies: Replies) -> tuple[dict[str, bytes], list[Rejection]]:
        payloads: dict[str, bytes] = {}
        seen: set[bytes] = set()
        rejections = []
        for market in sorted(set(order.cohort) | set(replies)):
            try:
                if market not in order.cohort:
                    raise MessageError("not a market of this round's cohort")
                message = replies.get(market, Absence("sent nothing"))
                if isinstance(message, Absence):
                    raise MessageError(message.reason)
                payload = self._expect(message, market, self._header("update", order, market, order.cohort))
                self._aggregator.check(payload)
                digest = sha256(payload).digest()
                if digest in seen:
                    raise MessageError("the same payload as another market's")
                seen.add(digest)
                payloads[market] = payload
                self._record(message, "update", order, market, ("server",), 1)
            except (MessageError, AggregationError) as error:
                rejections.append(Rejection(market, order.round, str(error)))
        return payloads, rejections

    def _expect(self, message: bytes, market: str, wanted: Header) -> bytes:
        if market not in self._bundle.markets:
            raise MessageError("not a market of this federation")
        return expect(message, wanted, self._bundle.cards[market])

    def _header(self, kind: MessageKind, order: Order, sender: str, cohort: tuple[str, ...]) -> Header:
        return Header(kind, self._run, order.stage, order.round, order.attempt, sender, self._bundle.digest, cohort)

    def _refuse_small(self, order: Order, cohort: Sequence[str] | Mapping[str, bytes], found: list[Rejection]) -> None:
        if len(cohort) < self._min_cohort:
            reasons = "; ".join(f"{one.market}: {one.reason}" for one in found) or "no more are there"
            raise CohortTooSmallError(
                f"{order.stage}, round {order.round}: {len(cohort)} valid updates, {self._min_cohort} are needed "
                f"({reasons})"
            )

    def _close(self, order: Order, payloads: Mapping[str, bytes], rejections: Sequence[Rejection]) -> RoundResult:
        cohort = tuple(payloads)
        header = self._header("aggregate", order, SERVER, cohort)
        message = pack(header, self._aggregator.aggregate(list(payloads.values())), self._identity.sign)
        self._record(message, "aggregate", order, SERVER, ("server", "markets"), len(cohort))
        return RoundResult(message, cohort, tuple(rejections))

    def _record(
        self,
        message: bytes,
        kind: MessageKind,
        order: Order,
        sender: str,
        visible_to: tuple[str, ...],
        receivers: int,
    ) -> None:
        self._transcript.add(
            message,
            kind=kind,
            stage=order.stage,
            round=order.round,
            attempt=order.attempt,
            sender=sender,
            visible_to=visible_to,
            receivers=receivers,
        )
