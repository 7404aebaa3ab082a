"""The bytes that travel: a bounded header that binds a payload to one run, round and sender."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

VERSION = 1
MAX_HEADER_BYTES = 4096
MAX_PAYLOAD_BYTES = 64 * 2**20
_LENGTH_BYTES = 4
MessageKind = Literal["update", "aggregate"]


class MessageError(Exception):
    """A message that is malformed or belongs to another run, round, sender or configuration."""


@dataclass(frozen=True)
class Header:
    """What a message is bound to.

    Attributes:
        kind: ``update`` (market to server) or ``aggregate`` (server to markets).
        run: id of the run.
        stage: stage of the run, e.g. ``quantizer/0``.
        round: round number, from 0.
        sender: market name, or ``server``.
        parameters: hash of the aggregation parameters.
        cohort: markets whose updates an aggregate adds up; empty in an update.
    """

    kind: MessageKind
    run: str
    stage: str
    round: int
    sender: str
    parameters: str
    cohort: tuple[str, ...] = ()


def pack(header: Header, payload: bytes) -> bytes:
    """Message bytes."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    head = json.dumps({"version": VERSION, **asdict(header)}, sort_keys=True).encode()
    return len(head).to_bytes(_LENGTH_BYTES, "big") + head + payload


def unpack(message: bytes) -> tuple[Header, bytes]:
    """Header and payload; raises ``MessageError`` on anything that ``pack`` would not have written."""
    length = int.from_bytes(message[:_LENGTH_BYTES], "big")
    if len(message) < _LENGTH_BYTES + length or not 0 < length <= MAX_HEADER_BYTES:
        raise MessageError("truncated message or oversized header")
    payload = message[_LENGTH_BYTES + length :]
    try:
        fields = json.loads(message[_LENGTH_BYTES : _LENGTH_BYTES + length])
        if fields.pop("version") != VERSION:
            raise MessageError("unknown message version")
        fields["cohort"] = tuple(fields["cohort"])
        header = Header(**fields)
        canonical = pack(header, payload) == message
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MessageError(f"malformed header: {error!r}") from error
    if not canonical:
        raise MessageError("header is not in canonical form")
    return header, payload


def expect(message: bytes, wanted: Header) -> bytes:
    """Payload of a message whose header must equal ``wanted``; raises ``MessageError`` naming the difference."""
    header, payload = unpack(message)
    for field in ("kind", "run", "stage", "round", "sender", "parameters", "cohort"):
        found, needed = getattr(header, field), getattr(wanted, field)
        if found != needed:
            raise MessageError(f"{field} is {found!r}, {needed!r} was expected")
    return payload
