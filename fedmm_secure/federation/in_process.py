"""The in-process engine: server and markets in one process, real messages between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedmm_secure.federation.introductions import introduce, meet
from fedmm_secure.federation.orders import Absence, Order, Rejection
from fedmm_secure.federation.parties import Federation, make_server
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transcript import AGGREGATE, Transcript
from privacy.aggregation import AggregationError
from privacy.errors import StoppedError

OnRound = Callable[[int, Sequence[Rejection]], None]


class MarketLostError(StoppedError):
    """A market did not answer in time; the others completed the rounds without it."""


def connect(federation: Federation) -> AggregationServer:
    """The server, once all markets have said who they are and know each other."""
    if federation.server is None:
        raise ValueError("the federation's server is not in this process")
    server = make_server(
        federation.config,
        federation.directory,
        federation.run,
        federation.bundle,
        federation.server,
        federation.transcript,
        federation.course,
    )
    hellos, rejections = server.welcome(introduce(federation, server.start()))
    if rejections:
        raise AggregationError(f"market {rejections[0].market}: {rejections[0].reason}")
    meet(federation, hellos)
    return server


def run_rounds(
    stage: str,
    rounds: int,
    clients: Sequence[RoundClient],
    server: AggregationServer,
    transcript: Transcript,
    on_round: OnRound | None = None,
    timeout: float | None = None,
) -> None:
    """Run the round loop, from wherever each client's kept state stands.

    A round that was interrupted goes on: updates that were kept are sent again, an aggregate that was
    recorded is applied by the clients that lack it. A market that fails is left out of the round.

    Args:
        stage: stage of the run.
        rounds: number of rounds.
        clients: one for each market.
        server: the aggregation server.
        transcript: what each party sees.
        on_round: told after each round.
        timeout: seconds that a market may take for an update; None is no limit.

    Raises:
        CohortTooSmallError: too few valid updates; nothing was released.
        MarketLostError: a market exceeded ``timeout``; raised once the others are done.
    """
    ways = _Calls({client.market: client for client in clients}, timeout)
    for round in range(min(client.next_round for client in clients), rounds):
        message = transcript.find(kind=AGGREGATE, stage=stage, round=round, sender="server")
        rejections: Sequence[Rejection] = ()
        if message is None:
            result = server.run_round(stage, round, list(ways.present), ways)
            message, rejections = result.message, result.rejections
        for client in ways.present.values():
            if client.next_round == round:
                client.apply(message)
        if on_round is not None:
            on_round(round, rejections)
    if ways.lost:
        missing = ", ".join(f"{market} (round {round})" for market, round in ways.lost.items())
        raise MarketLostError(f"{stage}: no answer within {timeout:g} s from {missing}; resume to let it catch up")


_TOO_LATE = Absence("no answer in time")


@dataclass
class _Calls:
    """The markets of this process; who was too late once is left out until the run is resumed."""

    clients: Mapping[str, RoundClient]
    timeout: float | None
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def present(self) -> dict[str, RoundClient]:
        return {market: client for market, client in self.clients.items() if market not in self.lost}

    def state(self, order: Order) -> dict[str, bytes | Absence]:
        return {market: _statement(self.present[market], order) for market in order.cohort if market in self.present}

    def update(self, order: Order, statements: Mapping[str, bytes]) -> dict[str, bytes | Absence]:
        asked = {market: self.present[market] for market in order.cohort if market in self.present}
        replies = {market: _ask(client, order, statements, self.timeout) for market, client in asked.items()}
        self.lost |= {market: order.round for market, reply in replies.items() if reply is _TOO_LATE}
        return replies


def _statement(client: RoundClient, order: Order) -> bytes | Absence:
    try:
        return client.state(order)
    except OSError as error:
        return Absence(f"failed: {error}")


def _ask(client: RoundClient, order: Order, statements: Mapping[str, bytes], timeout: float | None) -> bytes | Absence:
    """One market's update, or why there is none."""
    inbox: list[bytes] = []
    failure: list[Exception] = []

    def answer() -> None:
        try:
            client.agree(order, statements)
            client.local_update(order, inbox.append)
        except Exception as error:  # handed to the caller's thread
            failure.append(error)

    if timeout is None:
        answer()
    else:
        worker = threading.Thread(target=answer, daemon=True)
        worker.start()
        worker.join(timeout)
        if worker.is_alive():
            return _TOO_LATE
    if failure:
        if isinstance(failure[0], AggregationError | OSError):
            return Absence(f"failed: {failure[0]}")
        raise failure[0]
    if len(inbox) != 1:
        return Absence(f"sent {len(inbox)} messages where one was expected")
    return inbox[0]
