"""The bytes that travel: a bounded header that binds a payload to one run, round and sender, and a signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from privacy.aggregation.exchange import is_usable
from privacy.aggregation.identities import Card
from privacy.errors import StoppedError
from privacy.foreign import ForeignFileError, json_object
from privacy.json_text import json_text

VERSION = 3
MAX_HEADER_BYTES = 64 * 2**10
MAX_PAYLOAD_BYTES = 64 * 2**20
_LENGTH_BYTES = 4
_SIGNATURE_BYTES = 64
MessageKind = Literal["start", "hello", "statement", "update", "aggregate"]
HELLO_STAGE = "keys"
Sign = Callable[[bytes], bytes]


class MessageError(StoppedError):
    """A message that is malformed, forged, or belongs to another run, round, sender or configuration."""


@dataclass(frozen=True)
class Header:
    """What a message is bound to.

    Attributes:
        kind: ``start`` and ``aggregate`` (server to markets), ``hello`` and ``statement`` (market to all), or
            ``update`` (market to server).
        run: id of the run.
        stage: stage of the run, e.g. ``quantizer/0``.
        round: round number, from 0.
        attempt: attempt of the round, from 0; in a hello, how often the market's state was restored from a copy.
        sender: market name, or ``server``.
        parameters: hash of the federation's bundle: parties, keys, aggregation.
        cohort: markets whose updates are added up, sorted; empty in a hello.
    """

    kind: str
    run: str
    stage: str
    round: int
    attempt: int
    sender: str
    parameters: str
    cohort: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.run, self.stage, self.sender, self.parameters, *self.cohort)
        numbers = (self.round, self.attempt)
        if self.kind not in get_args(MessageKind) or not all(type(text) is str for text in texts):
            raise MessageError("malformed header: unknown kind, or a text field that is none")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise MessageError("malformed header: round and attempt are counted from 0")


def pack(header: Header, payload: bytes, sign: Sign) -> bytes:
    """Message bytes: header, payload, Ed25519 signature of both."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    text = _head(header) + payload
    return text + sign(text)


def unpack(message: bytes) -> tuple[Header, bytes]:
    """Header and payload, whoever signed them; raises ``MessageError`` on a form that ``pack`` does not write."""
    if len(message) > _LENGTH_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES + _SIGNATURE_BYTES:
        raise MessageError("oversized message")
    length = int.from_bytes(message[:_LENGTH_BYTES], "big")
    start = _LENGTH_BYTES + length
    if len(message) < start + _SIGNATURE_BYTES or not 0 < length <= MAX_HEADER_BYTES:
        raise MessageError("truncated message or oversized header")
    try:
        header = _header(json_object(message[_LENGTH_BYTES:start], "header"))
        canonical = _head(header) == message[:start]
    except (ForeignFileError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MessageError(f"malformed header: {error!r:.200}") from error
    if not canonical:
        raise MessageError("header is not in canonical form")
    return header, message[start:-_SIGNATURE_BYTES]


def verify(message: bytes, card: Card) -> tuple[Header, bytes]:
    """Header and payload of a message that the owner of ``card`` sent and signed; raises ``MessageError``."""
    header, payload = unpack(message)
    if header.sender != card.name:
        raise MessageError(f"sender is {header.sender!r}, {card.name!r} was expected")
    try:
        card.verify(message[-_SIGNATURE_BYTES:], message[:-_SIGNATURE_BYTES])
    except ValueError as error:
        raise MessageError(str(error)) from error
    return header, payload


def expect(message: bytes, wanted: Header, card: Card) -> bytes:
    """Payload of a signed message whose header must equal ``wanted``; raises ``MessageError`` naming the difference."""
    header, payload = verify(message, card)
    for field in vars(wanted):
        found, needed = getattr(header, field), getattr(wanted, field)
        if found != needed:
            raise MessageError(f"{field} is {found!r:.100}, {needed!r} was expected")
    return payload


def _head(header: Header) -> bytes:
    text = json_text({"version": VERSION, **vars(header)}, sort_keys=True).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise MessageError(f"header of {len(text)} bytes exceeds {MAX_HEADER_BYTES}")
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text


def _header(fields: Any) -> Header:
    if fields.pop("version") != VERSION:
        raise MessageError("unknown message version")
    fields["cohort"] = tuple(fields["cohort"])
    return Header(**fields)


@dataclass(frozen=True)
class Hello:
    """What a market says before the first round.

    Attributes:
        mask_key: its X25519 public key for this run, 32 bytes.
        configuration: hash of the configuration that it runs, 32 bytes.
    """

    mask_key: bytes
    configuration: bytes

    def to_bytes(self) -> bytes:
        """Mask key and configuration hash, one after the other."""
        return self.mask_key + self.configuration

    @classmethod
    def from_bytes(cls, payload: bytes) -> Hello:
        """Raises ``MessageError`` on a length that it has not, or a mask key that leads to no secret."""
        if len(payload) != 64:
            raise MessageError(f"a hello of {len(payload)} bytes where 64 were expected")
        if not is_usable(payload[:32]):
            raise MessageError("a hello whose mask key is not usable")
        return cls(payload[:32], payload[32:])


def hello_header(run: str, market: str, parameters: str, course: int = 0) -> Header:
    """The header of a market's hello."""
    return Header("hello", run, HELLO_STAGE, 0, course, market, parameters)
