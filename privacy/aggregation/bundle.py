"""Who the parties of a federation are and how they aggregate, signed by its founder; and the key, sealed for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import (
    Card,
    Identity,
    fingerprint,
    read_public,
    seal,
    write_public,
)
from privacy.aggregation.shared_key import SharedKey
from privacy.files import KeyFileError
from privacy.hexadecimal import bytes_of, is_digest
from privacy.names import is_name

FORMAT = 3
SERVER = "server"
BUNDLE_FILE = "federation.json"
MIN_MARKETS = 3
_MOST_COUNTED = 10**9  # epochs, and rounds of a key: an integer of thousands of digits has room for a message


@dataclass(frozen=True)
class Bundle:
    """The public description of a federation, signed by its founder.

    Attributes:
        epoch: 1, then one more at each rotation.
        founder: the market that signed it.
        cards: all parties, the server among them.
        aggregation: kind, fixed-point format and encryption parameters.
        key_fingerprint: of the shared key.
        rotate_after: rounds that the key may protect; None is no limit.
        sizes: public numbers of users and items of the markets that stated them; 0 items are yet to be found.
        signature: of the rest, by the founder.
    """

    epoch: int
    founder: str
    cards: Mapping[str, Card]
    aggregation: Mapping[str, Any]
    key_fingerprint: str
    rotate_after: int | None
    sizes: Mapping[str, tuple[int, int]]
    signature: str

    def __post_init__(self) -> None:
        positive = all(users >= 1 and items >= 0 for users, items in self.sizes.values())
        if not positive or not self.sizes.keys() <= set(self.markets):
            raise ValueError("sizes of markets are positive, and of markets in the federation")
        if not _counts(self.epoch) or SERVER not in self.cards or self.founder not in self.markets:
            raise ValueError("an epoch, a server and a founder among the markets are expected")
        if not (self.rotate_after is None or _counts(self.rotate_after)):
            raise ValueError("rotate_after counts rounds")
        if not is_name(self.aggregation.get("kind")) or not 0 <= self.colluders < len(self.cards):
            raise ValueError("a kind of aggregation and a number of colluders are expected")
        if not is_digest(self.key_fingerprint):
            raise ValueError("a hash of the shared key is expected")
        if any(name != card.name for name, card in self.cards.items()):
            raise ValueError("a card under another name")
        self.cards[self.founder].verify(bytes_of(self.signature), self.signed_text)

    @property
    def markets(self) -> tuple[str, ...]:
        """Names of all parties but the server, in order."""
        return tuple(sorted(name for name in self.cards if name != SERVER))

    @property
    def colluders(self) -> int:
        """Markets that may collude: what the aggregation and its noise are made for."""
        return int(self.aggregation.get("colluders", 0))

    @cached_property
    def signed_text(self) -> bytes:
        """What the founder signs: all of it."""
        return _bundle_text(
            self.epoch,
            self.founder,
            self.cards,
            self.aggregation,
            self.key_fingerprint,
            self.rotate_after,
            self.sizes,
        )

    @property
    def digest(self) -> str:
        """Hash that every message is bound to."""
        return sha256(self.signed_text).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Short hash of what is signed, for people to compare."""
        return fingerprint(self.signed_text)

    def to_json(self) -> dict[str, Any]:
        """As it is written to ``bundle.json``."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Any) -> Bundle:
        """Raises ``ValueError`` unless all signatures hold."""
        try:
            fields = dict(fields)
            if repr(fields.pop("format")) != repr(FORMAT):  # True is no 1
                raise ValueError("unknown format")
            fields["cards"] = {name: Card(**card) for name, card in fields["cards"].items()}
            fields["sizes"] = {name: (int(users), int(items)) for name, (users, items) in fields["sizes"].items()}
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a bundle: {error!r}") from error


def found_federation(
    founder: Identity,
    others: Mapping[str, Card],
    aggregation: Mapping[str, Any],
    key: SharedKey,
    *,
    epoch: int = 1,
    rotate_after: int | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> tuple[Bundle, dict[str, bytes]]:
    """A signed bundle, and the shared key sealed for each market.

    Raises:
        KeyFileError: two parties of one name, or no server.
    """
    name = founder.card.name
    if name in others or SERVER not in others or name == SERVER:
        raise KeyFileError("each party needs a card of its own: the founder, other markets, and one server")
    cards = dict(sorted({**others, name: founder.card}.items()))
    stated = dict(sorted((sizes or {}).items()))
    text = _bundle_text(epoch, name, cards, aggregation, key.fingerprint, rotate_after, stated)
    signature = founder.sign(text).hex()
    bundle = Bundle(epoch, name, cards, aggregation, key.fingerprint, rotate_after, stated, signature)
    sealed = {market: seal(key.to_bytes(), cards[market], _context(bundle)) for market in bundle.markets}
    return bundle, sealed


def open_key(identity: Identity, bundle: Bundle, sealed: bytes) -> SharedKey:
    """The shared key of a bundle; raises ``ValueError`` unless it is the one that the founder named."""
    key = SharedKey.from_bytes(identity.open(sealed, _context(bundle)))
    if key.fingerprint != bundle.key_fingerprint:
        raise ValueError("the sealed key is not the one that the bundle names")
    return key


def read_bundle(path: Path, below: Path | None = None) -> Bundle:
    """A bundle whose signatures hold; of one inside a foreign directory, ``below`` is that. Raises ``KeyFileError``."""
    try:
        return Bundle.from_json(read_public(path, below))
    except ValueError as error:
        raise KeyFileError(f"{path}: not a valid bundle: {error}") from error


def write_invitation(path: Path, bundle: Bundle, sealed: bytes) -> None:
    """A bundle with the key sealed for one market, to hand to that market."""
    write_public(path, {"bundle": bundle.to_json(), "sealed": sealed.hex()})


def read_invitation(path: Path) -> tuple[Bundle, bytes]:
    """What ``write_invitation`` wrote; raises ``KeyFileError`` unless all signatures hold."""
    try:
        fields = read_public(path)
        return Bundle.from_json(fields["bundle"]), bytes_of(fields["sealed"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path}: not a valid invitation: {error}") from error


def _counts(number: object) -> bool:
    return type(number) is int and 1 <= number <= _MOST_COUNTED


def _context(bundle: Bundle) -> bytes:
    return bytes_of(bundle.digest)


def _bundle_text(
    epoch: int,
    founder: str,
    cards: Mapping[str, Card],
    aggregation: Mapping[str, Any],
    key_fingerprint: str,
    rotate_after: int | None,
    sizes: Mapping[str, tuple[int, int]],
) -> bytes:
    fields = {
        "epoch": epoch,
        "founder": founder,
        "cards": {name: asdict(card) for name, card in cards.items()},
        "aggregation": dict(aggregation),
        "key_fingerprint": key_fingerprint,
        "rotate_after": rotate_after,
        "sizes": {name: list(size) for name, size in sizes.items()},
    }
    return b"fedmm-secure bundle\0" + canonical_json(fields)
