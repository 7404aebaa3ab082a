"""The privacy ledger of one market: append-only, hash-chained; a release is charged before it is computed.

Lines are of five kinds. ``open``, the first, commits to what the run was given. A release is two lines: its *charge*,
written before a private row is read, and its *seal*, the digest of what was computed. ``note`` records what spends
nothing by itself but is built upon. ``close``, the last, commits to what the run left, and is signed. What is charged
is spent, whether or not a seal follows: a crash over-counts, and never under-counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent

from privacy.accounting.events import UnknownEventError, event_from_data, event_to_data
from privacy.accounting.lines import append_line, canonical_json, drop_torn_tail
from privacy.errors import InputError
from privacy.foreign import MAX_LINE_BYTES, MAX_LINES_BYTES, ForeignFileError, json_object, lines_of, read_bytes

GENESIS = "0" * 64
FORMAT_VERSION = 4
OPEN, CHARGE, SEAL, NOTE, CLOSE = "open", "charge", "seal", "note", "close"


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
        remark: what a reader must know beside the numbers.
        view_events: events of views that observe less, or more, than ``event`` says.
        coordinates: values of discrete noise that were drawn, spare ones included, over all steps; 0 where none were.
        extra_delta: probability of failure that the event does not carry.
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
    remark: str | None = None
    view_events: Mapping[str, DpEvent] = field(default_factory=dict)
    coordinates: int = 0
    extra_delta: float = 0.0

    def event_for(self, view: str) -> DpEvent:
        """What the entry means for one view."""
        return self.view_events.get(view, self.event)

    @property
    def identity(self) -> tuple[str, int | None, int | None]:
        """What happens once in a run: stage, round, attempt."""
        return self.stage, self.round, self.attempt

    def to_data(self) -> dict[str, Any]:
        """JSON-ready form."""
        data = dict(vars(self))
        data["event"] = event_to_data(self.event)
        data["view_events"] = {view: event_to_data(event) for view, event in self.view_events.items()}
        data["audience"], data["depends_on"] = list(self.audience), list(self.depends_on)
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Entry:
        """The entry of its JSON form; raises ``UnknownEventError``, ``KeyError`` or ``TypeError`` on anything
        malformed.
        """
        fields = dict(data)
        fields["event"] = event_from_data(fields["event"])
        fields["view_events"] = {view: event_from_data(found) for view, found in fields["view_events"].items()}
        fields["audience"] = tuple(fields["audience"])
        fields["depends_on"] = tuple(fields["depends_on"])
        return cls(**fields)


def stage_group(stage: str) -> str:
    """The stage without its repetition: ``quantizer`` of ``quantizer/0``."""
    return stage.split("/")[0]


@dataclass(frozen=True)
class Charge:
    """A release that is paid for.

    Attributes:
        sequence: number of its line.
        entry: what it is.
        data: keyed fingerprint of the rows that it reads; empty where it reads none.
        key: hash of the key of its randomness; empty where it draws none.
        line: number of its line in the file, from 1.
    """

    sequence: int
    entry: Entry
    data: str
    key: str

    @property
    def line(self) -> int:
        """Number of its line in the ledger, from 1."""
        return self.sequence + 1


@dataclass(frozen=True)
class Seal:
    """What a charge was spent on.

    Attributes:
        charge: sequence of the charge.
        digest: SHA-256 of the result's bytes.
        meter: SHA-256 of the spare coordinates' bytes; empty where there are none.
    """

    charge: int
    digest: str
    meter: str


@dataclass(frozen=True)
class LedgerContent:
    """What a ledger says, its chain checked.

    Attributes:
        opening: what the first line commits to; empty where there is none yet.
        entries: charges and notes, in order.
        charges: in order.
        seals: by the charge's sequence.
        closing: what the last line commits to; None while the ledger is open.
        kinds: kind of each line.
        head: hash of the last line.
        previous: hash of the line before it.
        opening_hash: hash of the first line; empty where there is none yet.
    """

    opening: Mapping[str, Any]
    entries: tuple[Entry, ...]
    charges: tuple[Charge, ...]
    seals: Mapping[int, Seal]
    closing: Mapping[str, Any] | None
    kinds: tuple[str, ...]
    head: str
    previous: str
    opening_hash: str = ""

    @property
    def released(self) -> frozenset[str]:
        """Digests of all sealed results."""
        return frozenset(seal.digest for seal in self.seals.values())


class Ledger:
    """Appends lines to ``path``; each is synced before the call that appends it returns.

    An append that fails leaves the ledger unusable until it is opened again: what is on the disk is then the truth. So
    does a line that somebody else appended: of two processes or threads in one run directory, the slower one stops.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.charges: list[Charge] = []
        self.seals: dict[int, Seal] = {}
        self.opening: Mapping[str, Any] = {}
        self.closing: Mapping[str, Any] | None = None
        self.head, self.length, self._failed, self._size = GENESIS, 0, False, 0
        self.opening_hash = ""
        if path.exists():
            drop_torn_tail(path)
            self._size = path.stat().st_size
            found = read_ledger(path)
            self.entries, self.charges, self.seals = list(found.entries), list(found.charges), dict(found.seals)
            self.opening, self.closing = found.opening, found.closing
            self.opening_hash = found.opening_hash
            self.head, self.length = found.head, len(found.kinds)

    def open(self, commitments: Mapping[str, Any]) -> None:
        """The first line; once.

        Raises:
            LedgerError: it is there, and commits to something else; the first difference is named.
        """
        if self.length:
            for name in sorted({*commitments, *self.opening}):
                if self.opening.get(name) != commitments.get(name):
                    raise LedgerError(f"{self.path}:1: the run was opened with another {name.replace('_', ' ')}")
            return
        self._append(OPEN, {"commitments": dict(commitments)})
        self.opening, self.opening_hash = dict(commitments), self.head

    def charge(self, entry: Entry, *, data: str = "", key: str = "") -> Charge:
        """Pay for a release; what it reads may be read when this returns."""
        found = Charge(self.length, entry, data, key)
        self._append(CHARGE, {"entry": entry.to_data(), "data": data, "key": key})
        self.entries.append(entry)
        self.charges.append(found)
        return found

    def seal(self, charge: Charge, digest: str, meter: str = "") -> None:
        """Say what a charge was spent on.

        Raises:
            LedgerError: it is sealed already.
        """
        if charge.sequence in self.seals:
            raise LedgerError(f"{self.path}:{charge.line}: is sealed already")
        found = Seal(charge.sequence, digest, meter)
        self._append(SEAL, dict(vars(found)))
        self.seals[charge.sequence] = found

    def note(self, entry: Entry) -> None:
        """Record a stage that is built upon."""
        self._append(NOTE, {"entry": entry.to_data()})
        self.entries.append(entry)

    def close(self, statement: Mapping[str, Any]) -> None:
        """The last line; nothing follows it."""
        self._append(CLOSE, {"statement": dict(statement)})
        self.closing = dict(statement)

    def ready(self) -> None:
        """Raises ``LedgerError`` where no line can be added: what belongs to the next line must not be made then."""
        if self._failed:
            raise LedgerError(f"{self.path}: a line could not be written; open the ledger again")
        if self.closing is not None:
            raise LedgerError(f"{self.path}: is closed")

    def _append(self, kind: str, body: Mapping[str, Any]) -> None:
        self.ready()
        line, head = encode_line(kind, body, self.length, self.head)
        if len(line) > MAX_LINE_BYTES or self._size + len(line) > MAX_LINES_BYTES:
            raise LedgerError(f"{self.path}: cannot hold a line of {len(line)} bytes: nobody could read it")
        self._failed = True  # until the line is there
        append_line(self.path, line, after=self._size)
        self._failed = False
        self.head, self.length, self._size = head, self.length + 1, self._size + len(line)


def read_ledger(path: Path) -> LedgerContent:
    """What a ledger says, the chain and the order of kinds checked; changes nothing, and follows no link.

    Raises:
        LedgerError: naming the first line that does not follow from the one before.
    """
    try:
        # nor does the folder that it stands in: that is a part of the run
        return parse_ledger(read_bytes(path, MAX_LINES_BYTES, below=path.parent.parent), path)
    except ForeignFileError as error:
        raise LedgerError(str(error)) from error


def parse_ledger(content: bytes, path: Path) -> LedgerContent:
    """``read_ledger`` of bytes that were read from a path."""
    reader = _Reader(path)
    for _, raw in lines_of(content, path):
        reader.take(raw)
    if content and not content.endswith(b"\n"):
        raise LedgerError(f"{path}:{len(content.splitlines())}: the last line is incomplete")
    return reader.content()


class _Reader:
    """Reads lines in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opening: Mapping[str, Any] = {}
        self._closing: Mapping[str, Any] | None = None
        self._entries: list[Entry] = []
        self._charges: dict[int, Charge] = {}
        self._seals: dict[int, Seal] = {}
        self._kinds: list[str] = []
        self._head = self._previous = GENESIS
        self._opening_hash = ""

    def content(self) -> LedgerContent:
        return LedgerContent(
            self._opening,
            tuple(self._entries),
            tuple(self._charges.values()),
            self._seals,
            self._closing,
            tuple(self._kinds),
            self._head,
            self._previous,
            self._opening_hash,
        )

    def take(self, raw: bytes) -> None:
        sequence = len(self._kinds)
        where = f"{self._path}:{sequence + 1}"
        try:
            data = json_object(raw, where)
            version, kind, body = data["version"], data["kind"], data["body"]
            if version != FORMAT_VERSION:
                raise LedgerError(f"{where}: format {version!r}; this version reads format {FORMAT_VERSION}")
            line, head = encode_line(kind, body, sequence, self._head)
            if data.get("sequence") != sequence:
                raise LedgerError(f"{where}: sequence {data.get('sequence')} where {sequence} was expected")
            if data.get("previous") != self._head:
                raise LedgerError(f"{where}: does not follow from the line before: dropped, edited or reordered")
            if raw != line:
                raise LedgerError(f"{where}: its hash does not match its content")
            problem = self._keep(kind, body, sequence) or self._more_than_is_read(kind, body, sequence)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnknownEventError) as error:
            raise LedgerError(f"{where}: not a ledger line: {error}") from error
        if problem:
            raise LedgerError(f"{where}: {problem}")
        self._kinds.append(kind)
        self._previous, self._head = self._head, head
        self._opening_hash = self._opening_hash or head

    def _keep(self, kind: str, body: Mapping[str, Any], sequence: int) -> str | None:
        """Take in a line; what is wrong with its place, if anything."""
        if (kind == OPEN) != (sequence == 0):
            return "a ledger begins with its opening line, and has one"
        if self._closing is not None:
            return "follows the closing line"
        match kind:
            case "open":
                self._opening = dict(body["commitments"])
            case "charge":
                entry = Entry.from_data(body["entry"])
                self._charges[sequence] = Charge(sequence, entry, str(body["data"]), str(body["key"]))
                self._entries.append(entry)
            case "seal":
                seal = Seal(**body)
                if seal.charge not in self._charges or seal.charge in self._seals:
                    return f"seals line {seal.charge + 1}, which is no charge without a seal"
                self._seals[seal.charge] = seal
            case "note":
                self._entries.append(Entry.from_data(body["entry"]))
            case "close":
                self._closing = dict(body["statement"])
            case _:
                return f"unknown kind {kind!r}"
        return None

    def _more_than_is_read(self, kind: str, body: Mapping[str, Any], sequence: int) -> str | None:
        """A line holds what is read of it, in its one spelling: there is no room beside."""
        read: dict[str, Any] = {
            OPEN: {"commitments": self._opening},
            NOTE: {"entry": self._entries[-1].to_data() if self._entries else None},
            CLOSE: {"statement": self._closing},
        }
        if kind == CHARGE:
            charge = self._charges[sequence]
            read[CHARGE] = {"entry": charge.entry.to_data(), "data": charge.data, "key": charge.key}
        elif kind == SEAL:
            read[SEAL] = dict(vars(self._seals[body["charge"]]))
        return None if canonical_json(read[kind]) == canonical_json(body) else "holds more than a line of its kind does"


def depended_on(entries: Sequence[Entry], visible: Sequence[Entry]) -> list[Entry]:
    """The visible entries and all that they depend on, in ledger order."""
    built_on: dict[str, list[str]] = {}
    for entry in entries:
        built_on.setdefault(entry.stage, []).extend(entry.depends_on)
    wanted = {stage for entry in visible for stage in entry.depends_on}
    found = list(wanted)
    while found:
        more = set(built_on.pop(found.pop(), ())) - wanted  # each stage once, however often it is named
        wanted |= more
        found += more
    needed = set(map(id, visible))
    return [entry for entry in entries if id(entry) in needed or entry.stage in wanted]


def encode_line(kind: str, body: Mapping[str, Any], sequence: int, previous: str) -> tuple[bytes, str]:
    """A line as it stands in the file, and its hash."""
    fields = {"version": FORMAT_VERSION, "sequence": sequence, "previous": previous, "kind": kind, "body": body}
    digest = hashlib.sha256(canonical_json(fields)).hexdigest()
    return canonical_json({**fields, "hash": digest}) + b"\n", digest
