"""Parties of a small federation for tests."""

from functools import cache

from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import SERVER, Bundle, found_federation

MARKETS = ("a", "b", "c", "d")


@cache
def identity(name: str) -> Identity:
    return Identity.generate(name)


@cache
def bundle(markets: tuple[str, ...] = MARKETS) -> Bundle:
    others = {name: identity(name).card for name in (*markets[1:], SERVER)}
    return found_federation(identity(markets[0]), others, {"kind": "plaintext"}, None)[0]
