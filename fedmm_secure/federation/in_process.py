"""The in-process engine: server and markets in one process, real messages between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.messages import unpack
from fedmm_secure.federation.server import AggregationServer, Rejection
from fedmm_secure.federation.transcript import Transcript

OnRound = Callable[[int, Sequence[MarketClient], Sequence[Rejection]], None]


def run_rounds(
    stage: str,
    rounds: int,
    clients: Sequence[MarketClient],
    server: AggregationServer,
    transcript: Transcript,
    on_round: OnRound | None = None,
) -> None:
    """Run the round loop, from wherever each client's kept state stands.

    A round that was interrupted goes on: updates that were kept are sent again, an aggregate that was
    recorded is applied by the clients that lack it.
    """
    first = min(client.next_round for client in clients)
    for round in range(first, rounds):
        recorded = transcript.find(kind="aggregate", stage=stage, round=round, sender="server")
        rejections: Sequence[Rejection] = ()
        if recorded is None:
            inbox: dict[str, bytes] = {}
            for client in clients:
                client.local_update(round, partial(inbox.__setitem__, client.plan.market))
            result = server.aggregate(stage, round, inbox)
            recorded, rejections = result.message, result.rejections
        header, payload = unpack(recorded)
        for client in clients:
            if client.next_round == round:
                total = client.apply(round, payload, len(header.cohort))
                transcript.add(
                    total.astype("<i8").tobytes(),
                    kind="sum",
                    stage=stage,
                    round=round,
                    sender=header.sender,
                    visible_to=("markets",),
                    receivers=0,
                )
        if on_round is not None:
            on_round(round, clients, rejections)
