"""Requests of a server to a market's process and what it answers, as bounded JSON; both ends read them here."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.orders import Order, Place
from privacy.foreign import ForeignFileError, json_object
from privacy.json_text import json_text

MAX_REQUEST_BYTES = 64 * 2**20
MAX_MARKETS = 10_000
Step = Literal["hello", "state", "update", "finish"]
_RUN_ID = re.compile(r"[0-9a-f]{32}")
# what reading something made up may run into
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error, ForeignFileError)
_ALWAYS = 2**20  # bytes that are read, and answered with a refusal, whatever the plan
_ROOM = 4096  # of a header, a signature and a small payload; of one round in the order to start
_MOST_PARTS = 4 * MAX_MARKETS  # values of a request: each costs a hundred times its own bytes once it is parsed
_FIELDS = frozenset({"step", "run", "start", "hellos", "order", "statements", "aggregate"})


class RequestError(Exception):
    """A request that no honest server sends."""


@dataclass(frozen=True)
class Request:
    """One question to a market.

    Attributes:
        step: ``hello`` (who are you), ``state`` (state that you take part), ``update``, or ``finish``.
        run: id of the run.
        start: the signed order to start, in a ``hello``.
        hellos: signed hellos of all who take part, in the first ``state``.
        order: in a ``state`` and an ``update``.
        statements: of the order's cohort in an ``update``; of the aggregate's where the market was not in it.
        aggregate: the sum of the round that the market is in, in a ``state`` or ``finish``.
    """

    step: Step
    run: str
    start: bytes = b""
    hellos: Mapping[str, bytes] = field(default_factory=dict)
    order: Order | None = None
    statements: Mapping[str, bytes] = field(default_factory=dict)
    aggregate: bytes = b""

    def to_bytes(self) -> bytes:
        """As JSON, without what is empty."""
        fields: dict[str, Any] = {"step": self.step, "run": self.run}
        for name in ("start", "aggregate"):
            if getattr(self, name):
                fields[name] = encode_bytes(getattr(self, name))
        for name in ("hellos", "statements"):
            if getattr(self, name):
                fields[name] = {market: encode_bytes(message) for market, message in getattr(self, name).items()}
        if self.order is not None:
            fields["order"] = asdict(self.order)
        return json_text(fields, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, longest: int = MAX_REQUEST_BYTES) -> Request:
        """Raises ``RequestError`` on anything that ``to_bytes`` does not write, or that is longer than it may be."""
        if len(data) > longest:
            raise RequestError(f"a request of {len(data)} bytes")
        try:
            fields = _parsed(data)
            if not fields.keys() <= _FIELDS:
                raise ValueError
            step, run = fields["step"], fields["run"]
            if step not in get_args(Step) or not _RUN_ID.fullmatch(run):
                raise ValueError
            order = Order.from_data(fields["order"]) if step in ("state", "update") else None
            return cls(
                step,
                run,
                _bytes(fields.get("start", "")),
                _messages(fields.get("hellos", {})),
                order,
                _messages(fields.get("statements", {})),
                _bytes(fields.get("aggregate", "")),
            )
        except _MALFORMED:
            raise RequestError("a malformed request") from None


@dataclass(frozen=True)
class Reply:
    """What a market answers: a message, the round that it is in, that it has all, or why there is nothing."""

    message: bytes = b""
    behind: Place | None = None
    done: bool = False
    absent: str = ""

    def to_bytes(self) -> bytes:
        """As JSON: one of the things that a market may answer."""
        fields: dict[str, Any] = {"absent": self.absent}
        if self.message:
            fields = {"message": encode_bytes(self.message)}
        elif self.behind is not None:
            fields = {"behind": list(self.behind)}
        elif self.done:
            fields = {"done": True}
        return json_text(fields).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reply:
        """Raises ``RequestError`` on anything that ``to_bytes`` does not write."""
        if len(data) > MAX_REQUEST_BYTES:
            raise RequestError(f"a reply of {len(data)} bytes")
        try:
            fields = _parsed(data)
            if "message" in fields:
                return cls(message=_bytes(fields["message"]))
            if "behind" in fields:
                stage, round = fields["behind"]
                if type(stage) is not str or type(round) is not int:
                    raise ValueError
                return cls(behind=(stage, round))
            return cls(done=fields["done"] is True) if "done" in fields else cls(absent=_line(fields["absent"]))
        except _MALFORMED:
            raise RequestError("sent a malformed reply") from None


def _parsed(data: bytes) -> dict[str, Any]:
    """The object in some bytes, which are counted first: it holds texts, and few of them."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MOST_PARTS:
        raise ValueError
    return json_object(data, "request")


def longest_request(names: Collection[str], aggregate: int, places: int) -> int:
    """Bytes of the longest request that an honest server sends.

    Args:
        names: of the markets.
        aggregate: bytes of the longest sum.
        places: rounds of all stages, which the order to start names.
    """
    written = sum(len(json_text(name)) + 4 for name in names)  # in a header, and before a message
    message = _ROOM + written
    parts = aggregate + (2 * len(names) + 2) * message + _ROOM * (1 + places)
    return min(max(_ROOM + 2 * written + 4 * parts // 3, _ALWAYS), MAX_REQUEST_BYTES)


def is_run_id(text: str) -> bool:
    """Whether a text is the id of a run, which is the name of its folder too."""
    return _RUN_ID.fullmatch(text) is not None


def require_run_id(text: str) -> None:
    """Raises ``ConfigError`` unless a text that somebody gives to go on with a run is the id of one."""
    if not is_run_id(text):
        raise ConfigError(f"{text!r:.60} is not the id of a run, which has 32 hexadecimal digits")


def encode_bytes(data: bytes) -> str:
    """Bytes as they stand in requests and replies."""
    return base64.b64encode(data).decode()


def _line(text: Any) -> str:
    """A reason on one line, which logs and terminals do nothing with but show: it is quoted among lines of ours."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text)[:500])


def _messages(fields: Any) -> dict[str, bytes]:
    if len(fields) > MAX_MARKETS:
        raise ValueError
    return {str(market): _bytes(message) for market, message in fields.items()}


def _bytes(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)
