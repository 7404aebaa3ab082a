"""Parties of a small federation for tests."""

from collections.abc import Iterable
from functools import cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.messages import pack
from fedmm_secure.federation.orders import Start, Statement
from fedmm_secure.federation.transcript import Transcript
from privacy.aggregation import AuthenticatedMarket, Carrier, PairwiseMasks, PlaintextMarket, SharedKey, SumTags
from privacy.aggregation.authentication import limb_count
from privacy.aggregation.bundle import SERVER, Bundle, found_federation
from privacy.aggregation.identities import Identity

MARKETS = ("a", "b", "c", "d")
START = Start(bytes(32), (("s", 9),))
LIMB_BITS = 20


@cache
def identity(name: str) -> Identity:
    return Identity.generate(name)


@cache
def shared_key() -> SharedKey:
    return SharedKey.generate(None)


@cache
def bundle(markets: tuple[str, ...] = MARKETS) -> Bundle:
    others = {name: identity(name).card for name in (*markets[1:], SERVER)}
    return found_federation(identity(markets[0]), others, {"kind": "plaintext"}, shared_key())[0]


def acquainted(names: Iterable[str]) -> dict[str, PairwiseMasks]:
    """Fresh masks of markets that know each other's public keys."""
    masks = {name: PairwiseMasks(name, X25519PrivateKey.generate()) for name in names}
    for name, own in masks.items():
        own.meet({other: masks[other].public for other in masks if other != name})
    return masks


def authenticated(
    carriers: dict[str, Carrier], length: int, masks: dict[str, PairwiseMasks] | None = None
) -> dict[str, AuthenticatedMarket]:
    """Markets whose sums of ``length`` values are believed only if they are what they sent."""
    masks = masks or acquainted(carriers)
    tags = SumTags(shared_key().tag, length, LIMB_BITS)
    return {name: AuthenticatedMarket(carrier, tags, masks[name]) for name, carrier in carriers.items()}


def plaintext_markets(length: int, names: Iterable[str] = MARKETS) -> dict[str, AuthenticatedMarket]:
    carrier = PlaintextMarket(length + limb_count(LIMB_BITS))
    return authenticated(dict.fromkeys(names, carrier), length)


def agreement(market, directory, *, min_cohort=3, run="run", start=START):
    """What a market of the small federation agrees to."""
    transcript = Transcript(directory / "transcript")
    parts = {"run": run, "start": start, "bundle": bundle(), "identity": identity(market), "transcript": transcript}
    return Agreement(market=market, min_cohort=min_cohort, directory=directory, **parts)


class Agreeing:
    """Markets that state what they are asked to, and send what ``update`` gives."""

    def __init__(self, server, update):
        self.server, self.update_of = server, update

    def state(self, order):
        statement = Statement(order, self.server._history(order.place))
        return {
            market: pack(statement.header("run", market, bundle().digest), statement.history, identity(market).sign)
            for market in order.cohort
        }

    def update(self, order, statements):
        return self.update_of(order)


def agree(clients, order):
    """Let the real clients of a cohort state an order to each other."""
    cohort = [client for client in clients if client.plan.market in order.cohort]
    statements = {client.plan.market: client.state(order) for client in cohort}
    for client in cohort:
        client.agree(order, statements)
    return statements
