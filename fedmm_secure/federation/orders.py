"""What a server asks of markets, what comes back, and what markets state to each other before they send anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fedmm_secure.federation.messages import HELLO_STAGE, Header, MessageError
from privacy.accounting.lines import canonical_json
from privacy.aggregation.bundle import SERVER, Bundle
from privacy.errors import StoppedError
from privacy.hexadecimal import bytes_of

Place = tuple[str, int]  # stage and round
HISTORY_BYTES = 32


class OrderError(StoppedError):
    """The server asks for what a market must not send."""


class RunEndedError(StoppedError):
    """The run is over at this market: a sum was not what the markets sent. One text for all reasons."""

    def __init__(self) -> None:
        super().__init__("this run is over at this market; going on takes new keys and another run")


@dataclass(frozen=True)
class Order:
    """What the server asks of the markets: an update for one attempt of one round.

    Attributes:
        stage: stage of the run.
        round: round number.
        attempt: 0, then 1 more each time the round starts again with fewer markets.
        cohort: markets whose updates will be added up, sorted.
    """

    stage: str
    round: int
    attempt: int
    cohort: tuple[str, ...]

    @classmethod
    def from_data(cls, fields: Mapping[str, Any]) -> Order:
        """What ``asdict`` gives; raises ``TypeError``, ``KeyError`` or ``AttributeError`` on anything else."""
        texts, numbers = (fields["stage"], *fields["cohort"]), (fields["round"], fields["attempt"])
        if not all(type(text) is str for text in texts) or not all(type(number) is int for number in numbers):
            raise TypeError("a field of another type")
        return cls(fields["stage"], fields["round"], fields["attempt"], tuple(fields["cohort"]))

    @classmethod
    def of(cls, header: Header) -> Order:
        """The order that a message answers."""
        return cls(header.stage, header.round, header.attempt, header.cohort)

    @property
    def place(self) -> Place:
        """Stage and round."""
        return self.stage, self.round


@dataclass(frozen=True)
class Absence:
    """Why a market sent nothing; ``passing`` where asking again within the round's time may help."""

    reason: str
    passing: bool = False


@dataclass(frozen=True)
class Rejection:
    """A market that was left out of a round."""

    market: str
    round: int
    reason: str


@dataclass(frozen=True)
class Start:
    """What a run is, before anybody takes part: the server signs it, and each market compares it with its own.

    Attributes:
        configuration: hash of the configuration that all run, 32 bytes.
        stages: stages with rounds, in order, each with its number of rounds.
    """

    configuration: bytes
    stages: tuple[tuple[str, int], ...]

    @property
    def places(self) -> list[Place]:
        """Stage and round of every sum, in order."""
        return [(stage, round) for stage, rounds in self.stages for round in range(rounds)]

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal for equal runs."""
        stages = [list(stage) for stage in self.stages]
        return canonical_json({"configuration": self.configuration.hex(), "stages": stages})


def start_header(run: str, bundle: Bundle) -> Header:
    """The header of the server's order to start."""
    return Header("start", run, HELLO_STAGE, 0, 0, SERVER, bundle.digest, bundle.markets)


@dataclass(frozen=True)
class Statement:
    """What every market of a cohort signs before any of them trains: the order, and all that went before it.

    Attributes:
        order: the attempt of the round that is agreed to.
        history: ``history_of`` the run up to it, 32 bytes.
    """

    order: Order
    history: bytes

    def header(self, run: str, market: str, parameters: str) -> Header:
        """Header of the message that states it."""
        order = self.order
        return Header(
            "statement", run, order.stage, order.round, order.attempt, market, parameters, tuple(order.cohort)
        )

    def check(self, payload: bytes, market: str) -> None:
        """Raises ``MessageError`` unless a market's signed payload is this history."""
        if payload != self.history:
            raise MessageError(f"market {market} states another history of the run")


def beginning(start: str, hellos: Mapping[str, str]) -> bytes:
    """History before the first round, from SHA-256 (hexadecimal) of the start order and of each market's hello."""
    named = {"start": start, "hellos": dict(hellos)}
    return sha256(b"fedmm-secure history\0" + canonical_json(named)).digest()


def after(history: bytes, aggregate: str) -> bytes:
    """History once a round's aggregate message, of this SHA-256 (hexadecimal), was taken."""
    return sha256(history + bytes_of(aggregate)).digest()
