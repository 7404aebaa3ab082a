"""Ways in which a market fails or cheats, the same for every engine, and what must come of each."""

import threading
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from fedmm_secure.config import Config
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.messages import pack, unpack
from fedmm_secure.federation.orders import Order
from privacy.aggregation import AuthenticatedMarket, CKKSMarket, MaskedMarket
from tests.conftest import TINY, tiny

Send = Callable[[bytes], None]
LONGEST = 60.0  # seconds that whoever hangs waits to be let go

_let_go = threading.Event()
_hanging: list[threading.Thread] = []


def crash(client: MarketClient, order: Order, send: Send) -> None:
    raise OSError("disk full")


def hang(client: MarketClient, order: Order, send: Send) -> None:
    _hanging.append(threading.current_thread())
    _let_go.wait(LONGEST)


def send_late(client: MarketClient, order: Order, send: Send) -> None:
    hang(client, order, send)
    MarketClient.local_update(client, order, send)


def let_go() -> None:
    """Whoever hangs goes on, and has come to its end when this returns."""
    _let_go.set()
    while _hanging:
        _hanging.pop().join()
    _let_go.clear()


def send_twice(client: MarketClient, order: Order, send: Send) -> None:
    MarketClient.local_update(client, order, send)
    MarketClient.local_update(client, order, send)


def send_nan(client: MarketClient, order: Order, send: Send) -> None:
    client._bounded = lambda movement: movement * np.nan
    try:
        MarketClient.local_update(client, order, send)
    finally:
        del client._bounded


def _cheat(times: int, client: MarketClient, order: Order, send: Send) -> None:
    """A market that leaves out its own checks, and moves each coordinate by ``times`` the range."""
    honest, train = client.door.channel, client._train
    client.door.channel = replace(honest, aggregator=_without_checks(honest.aggregator.inner))

    def cheating(number: int, source: Any) -> Any:
        steps, values = train(number, source)
        return steps, np.full_like(values, times * 2**honest.codec.bits)

    client._train = cheating
    try:
        MarketClient.local_update(client, order, send)
    finally:
        client.door.channel = honest
        del client._train


def _without_checks(aggregator: Any) -> Any:
    changed = copy(aggregator)
    if isinstance(aggregator, MaskedMarket):
        changed._bound = 2**40
        changed._inner = _without_checks(aggregator._inner)
    elif isinstance(aggregator, AuthenticatedMarket):
        changed.carrier = _without_checks(aggregator.carrier)
    elif isinstance(aggregator, CKKSMarket):
        changed.parameters = replace(aggregator.parameters, value_bound=2**40)
    return changed


def send_twice_the_range(client: MarketClient, order: Order, send: Send) -> None:
    _cheat(2, client, order, send)


def send_eight_times_the_range(client: MarketClient, order: Order, send: Send) -> None:
    _cheat(8, client, order, send)


def send_old_round(client: MarketClient, order: Order, send: Send) -> None:
    old = client.door._transcript.find(
        kind="update", stage=order.stage, round=order.round - 1, sender=client.plan.market
    )
    assert old is not None
    send(old)


def _resigned(client: MarketClient, order: Order, send: Send, **changed: object) -> None:
    sent: list[bytes] = []
    MarketClient.local_update(client, order, sent.append)
    header, payload = unpack(sent[0])
    send(pack(replace(header, **changed), payload, client.door.channel.identity.sign))


def send_another_run(client: MarketClient, order: Order, send: Send) -> None:
    _resigned(client, order, send, run="another run")


def send_changed_byte(client: MarketClient, order: Order, send: Send) -> None:
    sent: list[bytes] = []
    MarketClient.local_update(client, order, sent.append)
    changed = bytearray(sent[0])
    changed[len(changed) // 2] ^= 1
    send(bytes(changed))


FAULTS = {
    "crashes": crash,
    "hangs": hang,
    "sends late": send_late,
    "sends twice": send_twice,
    "computes NaN": send_nan,
    "sends twice the range": send_twice_the_range,
    "sends 8 times the range": send_eight_times_the_range,
    "sends an old round's message": send_old_round,
    "sends another run's message": send_another_run,
    "sends one changed byte": send_changed_byte,
}

AGAIN = "round again without it"
WAITS = "run stops, goes on once it is back"
STOPPED = "markets refuse the sum; stopped"
COUNTED = "not seen; counted"
ONCE = "counted once"

KINDS = ("plaintext", "ckks", "masked-ckks")
EXPECTED = {(fault, kind): WAITS if kind == "masked-ckks" else AGAIN for fault in FAULTS for kind in KINDS} | {
    # encryption keeps the server from looking; a sum that leaves its range is noticed by the markets
    ("sends twice the range", "ckks"): COUNTED,
    ("sends twice the range", "masked-ckks"): COUNTED,
    ("sends 8 times the range", "ckks"): STOPPED,
    ("sends 8 times the range", "masked-ckks"): STOPPED,
}


# of CTR models, where a test is about the rounds before them
LEAST = {"model": "logistic", "features": ["counts"], "refit": False, "baselines": []}


def configuration(kind: str = "ckks", markets: int = 4, **sections: Any) -> Config:
    """Markets enough for one of them to fail."""
    synthetic = TINY["data"]["synthetic"] | {"markets": markets}
    return tiny(aggregation={"kind": kind}, data={"synthetic": synthetic}, ctr=LEAST, **sections)
