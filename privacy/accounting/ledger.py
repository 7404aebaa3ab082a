"""The privacy ledger of one market: append-only, hash-chained, written before a release is sent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent

from privacy.accounting.events import UnknownEventError, event_from_data, event_to_data
from privacy.errors import InputError

GENESIS = "0" * 64
FORMAT_VERSION = 3


class LedgerError(InputError):
    """A ledger line that was edited, dropped, reordered or cannot be read; names file and line."""


@dataclass(frozen=True)
class Entry:
    """One release, or one stage whose result later releases depend on.

    Attributes:
        market: whose ledger it is.
        stage: what was computed, e.g. ``quantizer/0``; unique per independent repetition.
        event: its privacy event, as data.
        mechanism: name of the mechanism, for readers.
        audience: the views that observe the release; empty for a stage that is only depended on.
        depends_on: stages whose outputs this one was computed from.
        sensitivity: the clipping norm in force, None where nothing bounds it.
        unit: the privacy unit.
        delta: δ at which this ledger is read.
        seeded: whether the noise came from a seed (a test), which is unfit for compliance.
        round: federation round, None outside the rounds.
        attempt: which attempt of the round, None outside the rounds.
        message_sha256: hash of the bytes that were sent, None if none were.
        remark: what a reader must know beside the numbers.
        view_events: events of views that observe less, or more, than ``event`` says.
    """

    market: str
    stage: str
    event: DpEvent
    mechanism: str
    audience: tuple[str, ...]
    depends_on: tuple[str, ...]
    sensitivity: float | None
    delta: float
    seeded: bool
    unit: str = "user"
    round: int | None = None
    attempt: int | None = None
    message_sha256: str | None = None
    remark: str | None = None
    view_events: Mapping[str, DpEvent] = field(default_factory=dict)

    def event_for(self, view: str) -> DpEvent:
        """What the entry means for one view."""
        return self.view_events.get(view, self.event)

    def to_data(self) -> dict[str, Any]:
        data = dict(vars(self))
        data["event"] = event_to_data(self.event)
        data["view_events"] = {view: event_to_data(event) for view, event in self.view_events.items()}
        data["audience"], data["depends_on"] = list(self.audience), list(self.depends_on)
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Entry:
        fields = dict(data)
        fields["event"] = event_from_data(fields["event"])
        fields["view_events"] = {view: event_from_data(found) for view, found in fields["view_events"].items()}
        fields["audience"] = tuple(fields["audience"])
        fields["depends_on"] = tuple(fields["depends_on"])
        return cls(**fields)


def stage_group(stage: str) -> str:
    """The stage without its repetition: ``quantizer`` of ``quantizer/0``."""
    return stage.split("/")[0]


class Ledger:
    """Appends entries to ``path``; each line is fsynced before ``append`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.head = GENESIS
        if path.exists():
            drop_torn_tail(path)
            self.entries, self.head = read_ledger(path)

    def append(self, entry: Entry) -> None:
        """Write one line; when this returns, the line survives a crash."""
        line, head = _line(entry, len(self.entries), self.head)
        append_line(self.path, line)
        self.entries.append(entry)
        self.head = head


def read_ledger(path: Path) -> tuple[list[Entry], str]:
    """Entries and head hash of a ledger, the chain checked.

    Raises:
        LedgerError: naming the first line that does not follow from the one before.
    """
    entries: list[Entry] = []
    head = GENESIS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from error
    if content and not content.endswith(b"\n"):
        last = len(content.splitlines())
        raise LedgerError(f"{path}:{last}: the last line is incomplete")
    for number, raw in enumerate(content.splitlines(keepends=True), start=1):
        try:
            data = json.loads(raw)
            entry = Entry.from_data(data["entry"])
            line, expected = _line(entry, number - 1, head)
        except (ValueError, KeyError, TypeError, AttributeError, UnknownEventError) as error:
            raise LedgerError(f"{path}:{number}: not a ledger line: {error}") from error
        if data.get("sequence") != number - 1:
            raise LedgerError(f"{path}:{number}: sequence {data.get('sequence')} where {number - 1} was expected")
        if data.get("previous") != head:
            raise LedgerError(f"{path}:{number}: does not follow from the line before: dropped, edited or reordered")
        if raw != line:
            raise LedgerError(f"{path}:{number}: its hash does not match its content")
        entries.append(entry)
        head = expected
    return entries, head


def depended_on(entries: Sequence[Entry], visible: Sequence[Entry]) -> list[Entry]:
    """The visible entries and all that they depend on, in ledger order."""
    wanted = {entry.stage for entry in visible}
    needed = set(map(id, visible))
    grew = True
    while grew:
        stages = {stage for entry in entries if id(entry) in needed for stage in entry.depends_on}
        grew = not stages <= wanted
        wanted |= stages
        needed |= {id(entry) for entry in entries if entry.stage in stages}
    return [entry for entry in entries if id(entry) in needed]


def _line(entry: Entry, sequence: int, previous: str) -> tuple[bytes, str]:
    body = {
        "version": FORMAT_VERSION,
        "sequence": sequence,
        "previous": previous,
        "entry": entry.to_data(),
    }
    digest = hashlib.sha256(canonical_json(body)).hexdigest()
    return canonical_json({**body, "hash": digest}) + b"\n", digest


def canonical_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def append_line(path: Path, line: bytes) -> None:
    """Add a line to an append-only file; when this returns, the line survives a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if created:
        _sync_directory(path.parent)


def drop_torn_tail(path: Path) -> None:
    """Cut an incomplete last line: its fsync never returned, so what it stands for was never released."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
