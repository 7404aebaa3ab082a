"""The in-process engine: server and markets in one process, real messages between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.introductions import introduce, meet
from fedmm_secure.federation.parties import Federation, configuration_hash, make_server
from fedmm_secure.federation.server import Absence, AggregationServer, Order, Rejection
from fedmm_secure.federation.transcript import Transcript
from privacy.aggregation import AggregationError

OnRound = Callable[[int, Sequence[MarketClient], Sequence[Rejection]], None]


class MarketLostError(Exception):
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
    )
    hellos, rejections = server.welcome(introduce(federation), configuration_hash(federation.config))
    if rejections:
        raise AggregationError(f"market {rejections[0].market}: {rejections[0].reason}")
    meet(federation, hellos)
    return server


def run_rounds(
    stage: str,
    rounds: int,
    clients: Sequence[MarketClient],
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
    lost: dict[str, int] = {}
    for round in range(min(client.next_round for client in clients), rounds):
        present = {client.plan.market: client for client in clients if client.plan.market not in lost}
        message = transcript.find(kind="aggregate", stage=stage, round=round, sender="server")
        rejections: Sequence[Rejection] = ()
        if message is None:

            def collect(order: Order, present: dict[str, MarketClient] = present) -> dict[str, bytes | Absence]:
                replies = {
                    market: _ask(present[market], order, timeout) for market in order.cohort if market in present
                }
                lost.update({market: order.round for market, reply in replies.items() if reply is _TOO_LATE})
                return replies

            result = server.run_round(stage, round, list(present), collect)
            message, rejections = result.message, result.rejections
        for market, client in present.items():
            if market not in lost and client.next_round == round:
                client.apply(message)
        if on_round is not None:
            on_round(round, clients, rejections)
    if lost:
        missing = ", ".join(f"{market} (round {round})" for market, round in lost.items())
        raise MarketLostError(f"{stage}: no answer within {timeout:g} s from {missing}; resume to let it catch up")


_TOO_LATE = Absence("no answer in time")


def _ask(client: MarketClient, order: Order, timeout: float | None) -> bytes | Absence:
    """One market's update, or why there is none."""
    inbox: list[bytes] = []
    failure: list[Exception] = []

    def answer() -> None:
        try:
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
