"""The aggregation server: adds what it cannot read, and rejects what it should not add."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from fedmm_secure.federation.messages import (
    HELLO_STAGE,
    Header,
    Hello,
    MessageError,
    expect,
    hello_header,
    pack,
)
from fedmm_secure.federation.orders import (
    Absence,
    Order,
    Place,
    Rejection,
    Start,
    Statement,
    after,
    beginning,
    start_header,
)
from fedmm_secure.federation.transcript import (
    AGGREGATE,
    HELLO,
    SERVER_AND_MARKETS,
    START,
    STATEMENT,
    UPDATE,
    Transcript,
)
from privacy.aggregation import AggregationError, ServerAggregator
from privacy.aggregation.bundle import SERVER, Bundle
from privacy.aggregation.identities import Identity
from privacy.errors import StoppedError
from privacy.files import write_json


class CohortTooSmallError(StoppedError):
    """Too few valid updates: the round stopped and nothing was released."""


@dataclass(frozen=True)
class RoundResult:
    """An aggregate message and whose updates it adds up."""

    message: bytes
    cohort: tuple[str, ...]
    rejections: tuple[Rejection, ...]


Replies = Mapping[str, bytes | Absence]


class Markets(Protocol):
    """The way to the markets; each engine has its own."""

    def state(self, order: Order) -> Replies:
        """Each market's statement that it takes part in an attempt."""
        ...

    def update(self, order: Order, statements: Mapping[str, bytes]) -> Replies:
        """Each market's update, once it has seen the statements of all."""
        ...


class AggregationServer:
    """Holds public material, and a key of its own to sign with.

    Args:
        run: id of the run.
        start: what the run is.
        bundle: the parties and the aggregation.
        identity: the server's.
        min_cohort: fewer updates are not added up.
        aggregator: the server's side of it.
        wide: the same by stage, for those whose updates have another length.
        transcript: what each party sees.
        state: folder where the order in hand is kept, so that a restarted server asks for the same again.
        course: of the markets' state, where they are in this process.
    """

    def __init__(
        self,
        *,
        run: str,
        start: Start,
        bundle: Bundle,
        identity: Identity,
        min_cohort: int,
        aggregator: ServerAggregator,
        transcript: Transcript,
        state: Path,
        course: int = 0,
        wide: Mapping[str, ServerAggregator] | None = None,
    ) -> None:
        self._run, self._plan, self._bundle, self._identity = run, start, bundle, identity
        self._min_cohort, self._course = min_cohort, course
        self._aggregator, self._wide, self._transcript = aggregator, dict(wide or {}), transcript
        self._order_file, self._roster_file = state / "order.json", state / f"roster-{course}.json"
        self.hellos = self._roster()

    def start(self) -> bytes:
        """The order to start, without which no market introduces itself."""
        message = pack(start_header(self._run, self._bundle), self._plan.to_bytes(), self._identity.sign)
        everyone = len(self._bundle.markets)
        self._record(message, START, Order(HELLO_STAGE, 0, 0, ()), SERVER, SERVER_AND_MARKETS, everyone)
        return message

    def welcome(self, hellos: Mapping[str, bytes]) -> tuple[dict[str, bytes], tuple[Rejection, ...]]:
        """The valid hellos, which all markets get, and who sent no valid one.

        Args:
            hellos: by the market that each connection belongs to.
        """
        valid: dict[str, bytes] = {}
        rejections = []
        for market, message in sorted(hellos.items()):
            try:
                wanted = hello_header(self._run, market, self._bundle.digest, self._course)
                if Hello.from_bytes(self._expect(message, market, wanted)).configuration != self._plan.configuration:
                    raise MessageError("runs another configuration")
                if self._roster_file.exists() and self.hellos.get(market) != message:
                    raise MessageError("was not there, or was another, when the run began")
                self._record(message, HELLO, Order(HELLO_STAGE, 0, self._course, ()), market, SERVER_AND_MARKETS, 1)
                valid[market] = message
            except MessageError as error:
                rejections.append(Rejection(market, 0, str(error)))
        self.hellos |= valid
        return valid, tuple(rejections)

    def run_round(self, stage: str, round: int, present: Sequence[str], markets: Markets) -> RoundResult:
        """Let a cohort agree, collect and add up their updates; starts again with fewer where one is missing.

        Raises:
            CohortTooSmallError: fewer valid updates than the minimum cohort.
        """
        order = self._order_in_hand(stage, round) or Order(stage, round, 0, tuple(sorted(present)))
        rejections: list[Rejection] = []
        while True:
            self._refuse_small(order, order.cohort, rejections)
            self._begin(order)
            statement = Statement(order, self._history(order.place))
            statements, rejected = self._stated(statement, markets.state(order))
            rejections += rejected
            found: Mapping[str, bytes] = statements
            if tuple(statements) == order.cohort:
                found, rejected = self._valid(order, markets.update(order, statements))
                rejections += rejected
                if tuple(found) == order.cohort:
                    return self._close(order, found, rejections)
            self._refuse_small(order, found, rejections)
            order = Order(stage, round, order.attempt + 1, tuple(found))  # strictly fewer: this ends

    def statements(self, header: Header) -> dict[str, bytes]:
        """What the cohort of an aggregate had stated, for a market that was not in it."""
        found = {
            market: self._transcript.record(STATEMENT, header.stage, header.round, header.attempt, market)
            for market in header.cohort
        }
        return {market: self._transcript.read(record) for market, record in found.items() if record is not None}

    def _begin(self, order: Order) -> None:
        """Keep the order, and with the first one who takes part in this run."""
        if not self._roster_file.exists():
            write_json(self._roster_file, sorted(self.hellos))
        write_json(self._order_file, asdict(order))

    def _roster(self) -> dict[str, bytes]:
        """Hellos of those who take part, once the run has begun."""
        if not self._roster_file.exists():
            return {}
        names = json.loads(self._roster_file.read_text(encoding="utf-8"))
        found = {name: self._transcript.record(HELLO, HELLO_STAGE, 0, self._course, name) for name in names}
        return {name: self._transcript.read(record) for name, record in found.items() if record is not None}

    def _order_in_hand(self, stage: str, round: int) -> Order | None:
        if not self._order_file.exists():
            return None
        order = Order.from_data(json.loads(self._order_file.read_text(encoding="utf-8")))
        return order if order.place == (stage, round) else None

    def _history(self, place: Place) -> bytes:
        hellos = {market: sha256(message).hexdigest() for market, message in self.hellos.items()}
        history = beginning(sha256(self.start()).hexdigest(), hellos)
        for stage, round in self._plan.places[: self._plan.places.index(place)]:
            record = self._transcript.latest(kind=AGGREGATE, stage=stage, round=round, sender=SERVER)
            history = after(history, "" if record is None else record.sha256)
        return history

    def _stated(self, statement: Statement, replies: Replies) -> tuple[dict[str, bytes], list[Rejection]]:
        """Valid statements of an order's cohort, and who made none."""

        def check(market: str, message: bytes) -> bytes:
            wanted = statement.header(self._run, market, self._bundle.digest)
            statement.check(self._expect(message, market, wanted), market)
            return message

        return self._checked(statement.order, replies, check, STATEMENT, SERVER_AND_MARKETS)

    def _valid(self, order: Order, replies: Replies) -> tuple[dict[str, bytes], list[Rejection]]:
        """Valid payloads of an order's cohort, and who sent none."""
        seen: set[bytes] = set()

        def check(market: str, message: bytes) -> bytes:
            payload = self._expect(message, market, self._header(UPDATE, order, market, order.cohort))
            self._aggregator_of(order).check(payload)
            digest = sha256(payload).digest()
            if digest in seen:
                raise MessageError("the same payload as another market's")
            seen.add(digest)
            return payload

        return self._checked(order, replies, check, UPDATE, ("server",))

    def _checked(
        self,
        order: Order,
        replies: Replies,
        check: Callable[[str, bytes], bytes],
        kind: str,
        visible_to: tuple[str, ...],
    ) -> tuple[dict[str, bytes], list[Rejection]]:
        found: dict[str, bytes] = {}
        rejections = []
        for market in sorted(set(order.cohort) | set(replies)):
            try:
                if market not in order.cohort:
                    raise MessageError("not a market of this round's cohort")
                message = replies.get(market, Absence("sent nothing"))
                if isinstance(message, Absence):
                    raise MessageError(message.reason)
                payload = check(market, message)
                self._record(message, kind, order, market, visible_to, 1)
                found[market] = payload
            except (MessageError, AggregationError) as error:
                rejections.append(Rejection(market, order.round, str(error)))
        return found, rejections

    def _expect(self, message: bytes, market: str, wanted: Header) -> bytes:
        if market not in self._bundle.markets:
            raise MessageError("not a market of this federation")
        return expect(message, wanted, self._bundle.cards[market])

    def _aggregator_of(self, order: Order) -> ServerAggregator:
        return self._wide.get(order.stage, self._aggregator)

    def _header(self, kind: str, order: Order, sender: str, cohort: tuple[str, ...]) -> Header:
        return Header(kind, self._run, order.stage, order.round, order.attempt, sender, self._bundle.digest, cohort)

    def _refuse_small(self, order: Order, cohort: Sequence[str] | Mapping[str, bytes], found: list[Rejection]) -> None:
        if len(cohort) >= self._min_cohort:
            return
        reasons = "; ".join(f"{one.market}: {one.reason}" for one in found) or "no more are there"
        needed = f"{len(cohort)} valid updates, {self._min_cohort} are needed"
        text = f"{order.stage}, round {order.round}: {needed} ({reasons})"
        if self._min_cohort == len(self._bundle.markets):
            missing = ", ".join(market for market in self._bundle.markets if market not in cohort)
            text += (
                f"; nobody may be left out of this sum: go on with this run once {missing} is back, or make keys "
                "without it (fedmm keys rotate --without MARKET) and start another"
            )
        raise CohortTooSmallError(text)

    def _close(self, order: Order, payloads: Mapping[str, bytes], rejections: Sequence[Rejection]) -> RoundResult:
        header = self._header(AGGREGATE, order, SERVER, order.cohort)
        message = pack(header, self._aggregator_of(order).aggregate(list(payloads.values())), self._identity.sign)
        self._record(message, AGGREGATE, order, SERVER, SERVER_AND_MARKETS, len(order.cohort))
        return RoundResult(message, order.cohort, tuple(rejections))

    def _record(
        self,
        message: bytes,
        kind: str,
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
