"""Parties of a small federation for tests."""

from collections.abc import Iterable
from functools import cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.aggregation import AuthenticatedMarket, Carrier, PairwiseMasks, PlaintextMarket, SharedKey, SumTags
from privacy.aggregation.authentication import limb_count
from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import SERVER, Bundle, found_federation

MARKETS = ("a", "b", "c", "d")
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
