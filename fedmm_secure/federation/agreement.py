"""What one market has agreed to in a run: that it starts, who takes part, and one attempt of one round after the other.

A market trains, charges and sends only what every market of the cohort has stated: the same attempt of the same round,
the same cohort, and the same history, which is a hash chain over the order to start, all hellos, and every aggregate
message that was taken (the consistency round of Bonawitz et al., CCS 2017). So a server cannot tell two markets two
stories and go on with both. Nothing here knows any data: what it signs is names, numbers and hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedmm_secure.federation.messages import (
    HELLO_STAGE,
    Header,
    Hello,
    MessageError,
    expect,
    hello_header,
    pack,
    verify,
)
from fedmm_secure.federation.orders import (
    Order,
    OrderError,
    Place,
    RunEndedError,
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
    Record,
    Transcript,
)
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.bundle import SERVER, Bundle
from privacy.aggregation.identities import Identity
from privacy.files import write_atomic, write_json
from privacy.hexadecimal import bytes_of


@dataclass
class Agreement:
    """One market's part in what all agree on; its state is kept, so that it states no two things for one attempt.

    Attributes:
        market: its name.
        run: id of the run.
        start: what it takes the run to be, from its own configuration.
        bundle: the parties of the federation.
        identity: the market's.
        min_cohort: fewer markets than this are not joined in a sum; as many as the bundle has where single updates are
            to stay hidden from colluders, who sign two cohorts as easily as one.
        transcript: what each party sees.
        directory: the run directory.
        course: 0, and one more for each time that an old copy of the run's state was resumed.
    """

    market: str
    run: str
    start: Start
    bundle: Bundle
    identity: Identity = field(repr=False)
    min_cohort: int
    transcript: Transcript = field(repr=False)
    directory: Path
    course: int = 0
    _agreed: Order | None = None

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Take no further part in this run, now and after a restart."""
        write_atomic(ended_file(self.directory, self.market), b"")

    @property
    def ended(self) -> bool:
        """Whether the market has left the run, for good."""
        return ended_file(self.directory, self.market).exists()

    def require_open(self) -> None:
        """Raises ``RunEndedError`` once the run has ended here."""
        if self.ended:
            raise RunEndedError

    # -- who takes part --------------------------------------------------------------------------------------------

    def hello(self, start: bytes, mask_key: bytes) -> bytes:
        """Answer the server's signed order to start: a public key of this run and a hash of the configuration.

        Raises:
            MessageError: the server did not sign it, or means another run, bundle, configuration or plan, or it is
                another one than came first.
        """
        self.require_open()
        check_start(start, self.run, self.start, self.bundle)
        self._record(start, START, SERVER, receivers=len(self.bundle.markets))
        header = hello_header(self.run, self.market, self.bundle.digest, self.course)
        message = pack(header, Hello(mask_key, self.start.configuration).to_bytes(), self.identity.sign)
        self._record(message, HELLO, self.market, attempt=self.course)
        return message

    def meet(self, hellos: Mapping[str, bytes]) -> dict[str, bytes]:
        """The mask keys of all who take part, from their signed hellos; who takes part is fixed from then on.

        Raises:
            MessageError: a hello is not from the market that it names, is of another configuration or with another
                key than before, or others take part than before; or this market's is not the one that it sent.
        """
        self.require_open()
        keys, found = {}, {}
        for name, message in sorted(hellos.items()):
            if name not in self.bundle.markets:
                raise MessageError(f"a hello of {name!r:.50}, which is not a market of this federation")
            wanted = hello_header(self.run, name, self.bundle.digest, self.course)
            hello = Hello.from_bytes(expect(message, wanted, self.bundle.cards[name]))
            if hello.configuration != self.start.configuration:
                raise MessageError(f"market {name} runs another configuration than market {self.market}")
            keys[name], found[name] = hello.mask_key, sha256(message).hexdigest()
        own = self.transcript.record(HELLO, HELLO_STAGE, 0, self.course, self.market)
        if self.market in found and (own is None or own.sha256 != found[self.market]):
            # of a mask key that this market forgot, say: all others would hide behind what it does not know
            raise MessageError(f"market {self.market}: not the hello that it sent")
        kept = self._kept()
        for name, key in keys.items():
            if kept["keys"].get(name, key.hex()) != key.hex():
                raise MessageError(f"market {name} changed its mask key within the run")
        if kept["hellos"] and kept["hellos"] != found:
            raise MessageError(f"market {self.market}: others take part than when the run began")
        self._keep({**kept, "hellos": found, "keys": kept["keys"] | {name: key.hex() for name, key in keys.items()}})
        for name, message in hellos.items():
            self._record(message, HELLO, name, attempt=self.course)
        return keys

    @property
    def mask_keys(self) -> dict[str, bytes]:
        """Mask keys of the markets that were met, this one's among them."""
        kept = self._kept()
        return {name: bytes_of(kept["keys"][name]) for name in kept["hellos"]}

    @property
    def known_mask_key(self) -> bytes | None:
        """This market's mask key as the others know it; None before they do, and once no round needs it."""
        return None if self.place is None else self.mask_keys.get(self.market)

    # -- one attempt after the other ---------------------------------------------------------------------------------

    @property
    def place(self) -> Place | None:
        """The round whose aggregate is to be taken next; None once all were."""
        return next((place for place in self.start.places if self._taken(place) is None), None)

    def history(self, place: Place) -> bytes:
        """What this market has seen of the run before a round.

        Raises:
            OrderError: nobody introduced the markets, or an earlier round is missing.
        """
        start = self.transcript.record(START, HELLO_STAGE, 0, 0, SERVER)
        hellos = self._kept()["hellos"]
        if start is None or not hellos:
            raise OrderError(f"market {self.market}: knows no other market of this run yet")
        history = beginning(start.sha256, hellos)
        for earlier in self.start.places:
            if earlier == place:
                return history
            taken = self._taken(earlier)
            if taken is None:
                break
            history = after(history, taken.sha256)
        raise OrderError(f"market {self.market}: {place[0]}, round {place[1]} is not next")

    def state(self, order: Order) -> bytes:
        """The signed statement of an order; the same again where it is asked again.

        Raises:
            OrderError: an order that no honest server gives, or that contradicts an earlier one.
        """
        self.require_open()
        self._check(order)
        statement, stated = Statement(order, self.history(order.place)), self._stated()
        if stated is not None and stated.order.place == order.place and stated != statement:
            fewer = order.attempt > stated.order.attempt and set(order.cohort) < set(stated.order.cohort)
            if not fewer or stated.history != statement.history:
                self._refuse(order, f"attempt {order.attempt} contradicts attempt {stated.order.attempt}")
        self._keep({**self._kept(), "stated": {"order": asdict(order), "history": statement.history.hex()}})
        header = statement.header(self.run, self.market, self.bundle.digest)
        message = pack(header, statement.history, self.identity.sign)
        self._record_statement(message, order, self.market)
        return message

    def agree(self, order: Order, statements: Mapping[str, bytes]) -> None:
        """Take the statements of a whole cohort, after which this market may carry out the order.

        Raises:
            OrderError: this market has stated no such order.
            MessageError: a statement is missing, forged, of another order, or of another history.
        """
        self.require_open()
        self._check(order)
        if self._stated() != Statement(order, self.history(order.place)):
            self._refuse(order, "it has not stated that")
        self._witness(order, statements)
        self._agreed = order

    def require(self, order: Order) -> None:
        """Raises ``OrderError`` unless all markets of the cohort have stated this order to each other."""
        self.require_open()
        if self._agreed != order:
            self._refuse(order, "its cohort has not agreed on that")

    def take(self, message: bytes, place: Place, statements: Mapping[str, bytes] | None = None) -> tuple[Header, bytes]:
        """Header and payload of the aggregate of a round, kept before anybody opens it; there is one for each round.

        Args:
            message: as the server sent it.
            place: the round that this market is in.
            statements: of the cohort, where this market was not in it; by default those that it has taken.

        Raises:
            MessageError: the server did not sign it, it is of another run or round, of a cohort that has not agreed,
                or another one than was taken before.
        """
        self.require_open()
        header, payload = verify(message, self.bundle.cards[SERVER])
        order = Order.of(header)
        found = (header.kind, header.run, *order.place, header.parameters)
        wanted = (AGGREGATE, self.run, *place, self.bundle.digest)
        if found != wanted or place not in self.start.places:
            raise MessageError(f"market {self.market}: an aggregate of {found}, {wanted} was expected")
        if not self._is_cohort(order) or len(order.cohort) < self.min_cohort:
            raise MessageError(f"market {self.market}: a sum over {order.cohort}, {self.min_cohort} are needed")
        taken = self._taken(place)
        if taken is not None and taken.sha256 != sha256(message).hexdigest():
            raise MessageError(f"market {self.market}: another sum of {place[0]}, round {place[1]} than was taken")
        self._witness(order, self._witnessed(order) if statements is None else statements)
        self._record(
            message,
            AGGREGATE,
            SERVER,
            stage=order.stage,
            round=order.round,
            attempt=order.attempt,
            receivers=len(order.cohort),
        )
        return header, payload

    def taken(self, place: Place) -> bytes | None:
        """The aggregate message that was taken for a round."""
        record = self._taken(place)
        return None if record is None else self.transcript.read(record)

    def already_taken(self, message: bytes) -> bool:
        """Whether these very bytes were taken before."""
        digest = sha256(message).hexdigest()  # once, however many rounds there were
        return any(taken.sha256 == digest for place in self.start.places if (taken := self._taken(place)))

    # -- insides ------------------------------------------------------------------------------------------------------

    def _check(self, order: Order) -> None:
        problem, missing = None, len(self._kept()["hellos"]) - len(order.cohort)
        if order.place != self.place:
            at = "no round" if self.place is None else f"{self.place[0]}, round {self.place[1]}"
            problem = f"asks for {order.stage}, round {order.round}; {at} is next"
        elif not self._is_cohort(order) or self.market not in order.cohort:
            problem = f"the cohort {', '.join(order.cohort)} is not one of this market's"
        elif len(order.cohort) < self.min_cohort:
            problem = f"a cohort of {len(order.cohort)}, {self.min_cohort} are needed"
        elif not 0 <= order.attempt <= missing:
            problem = f"asks for attempt {order.attempt} where {missing} markets are missing; each has fewer markets"
        if problem:
            self._refuse(order, problem)

    def _is_cohort(self, order: Order) -> bool:
        known = set(self._kept()["hellos"]) & set(self.bundle.markets)
        return set(order.cohort) <= known and order.cohort == tuple(sorted(set(order.cohort)))

    def _refuse(self, order: Order, problem: str) -> None:
        raise OrderError(f"market {self.market}, {order.stage}, round {order.round}: the server {problem}")

    def _witness(self, order: Order, statements: Mapping[str, bytes]) -> None:
        """Verify the statements of a cohort and keep them."""
        statement = Statement(order, self.history(order.place))
        for name in order.cohort:
            if name not in statements:
                raise MessageError(f"market {self.market}: no statement of market {name}")
            header = statement.header(self.run, name, self.bundle.digest)
            statement.check(expect(statements[name], header, self.bundle.cards[name]), name)
        for name in order.cohort:
            self._record_statement(statements[name], order, name)

    def _witnessed(self, order: Order) -> dict[str, bytes]:
        found = {name: self.transcript.record(STATEMENT, *order.place, order.attempt, name) for name in order.cohort}
        return {name: self.transcript.read(record) for name, record in found.items() if record is not None}

    def _taken(self, place: Place) -> Record | None:
        return self.transcript.latest(kind=AGGREGATE, stage=place[0], round=place[1], sender=SERVER)

    def _stated(self) -> Statement | None:
        stated = self._kept()["stated"]
        return None if stated is None else Statement(Order.from_data(stated["order"]), bytes_of(stated["history"]))

    @property
    def _file(self) -> Path:
        return RunDirectory(self.directory).agreement(self.market, self.course)

    def _kept(self) -> dict[str, Any]:
        if not self._file.exists():
            return {"hellos": {}, "keys": {}, "stated": None}
        return dict(json.loads(self._file.read_text(encoding="utf-8")))

    def _keep(self, kept: Mapping[str, Any]) -> None:
        write_json(self._file, kept)

    def _record_statement(self, message: bytes, order: Order, sender: str) -> None:
        self._record(message, STATEMENT, sender, stage=order.stage, round=order.round, attempt=order.attempt)

    def _record(self, message: bytes, kind: str, sender: str, **where: Any) -> None:
        known: dict[str, Any] = {"stage": HELLO_STAGE, "round": 0, "receivers": 1, "visible_to": SERVER_AND_MARKETS}
        self.transcript.add(message, kind=kind, sender=sender, **(known | where))


def check_start(message: bytes, run: str, start: Start, bundle: Bundle) -> None:
    """Raises ``MessageError`` unless the server's identity signed this order to start this run."""
    if expect(message, start_header(run, bundle), bundle.cards[SERVER]) != start.to_bytes():
        raise MessageError("the server starts a run of another configuration or plan")


def ended_file(directory: Path, market: str) -> Path:
    """The mark of a run that has ended at a market. It says nothing of why."""
    return RunDirectory(directory).ended(market)
