"""What each party saw, byte for byte: the evidence that attacks and verification work from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.messages import MessageError
from privacy.accounting.lines import append_line, drop_torn_tail
from privacy.files import private_folder, write_atomic
from privacy.foreign import (
    MAX_BYTES,
    MAX_LINES_BYTES,
    ForeignDirectory,
    ForeignFileError,
    is_inside,
    json_object,
    lines_of,
    read_bytes,
)
from privacy.json_text import json_text

INDEX = "index.jsonl"
START, HELLO, STATEMENT, UPDATE, AGGREGATE = "start", "hello", "statement", "update", "aggregate"
PUBLICATION, OWN_UPDATE, SUM, METER = "publication", "own-update", "sum", "meter"
SERVER_AND_MARKETS = ("server", "markets")


@dataclass(frozen=True)
class Record:
    """One message or value.

    Attributes:
        file: file below the transcript directory.
        kind: ``start``, ``hello``, ``statement``, ``update``, ``aggregate``, ``publication``, ``own-update``, ``sum``
            or ``meter`` (spare coordinates); all but updates and aggregates are in the clear.
        stage: stage of the run.
        round: round number.
        attempt: attempt of the round.
        sender: who sent or computed it.
        visible_to: ``server``, ``markets`` (all of them), or ``owner:<market>``.
        receivers: number of parties it was sent to; 0 for what was not sent.
        size: bytes.
        sha256: hash of the bytes.
    """

    file: str
    kind: str
    stage: str
    round: int
    sender: str
    visible_to: tuple[str, ...]
    receivers: int
    size: int
    sha256: str
    attempt: int = 0


class Placed(Protocol):
    """A release, or an entry of a ledger, by its place in a run."""

    @property
    def stage(self) -> str:
        """Stage of the run."""
        ...

    @property
    def round(self) -> int | None:
        """Round; None for what belongs to none."""
        ...

    @property
    def attempt(self) -> int | None:
        """Attempt of the round; None for what belongs to none."""
        ...


class RepeatedRecordError(MessageError):
    """A second message, or value, where there is one for all time."""


class Transcript:
    """Append-only directory of records, in which the first of each name stays.

    What was seen is what statements, sums and reports follow from. So nothing takes the place of a record: the same one
    again changes nothing, and another one is refused. The index is as long as there are names.

    It is for who goes on writing alone, in a run of his own; ``read_index`` reads those of others, and changes nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        private_folder(directory)
        index = directory / INDEX
        if index.is_file() and not index.is_symlink():
            drop_torn_tail(index)  # or the next record would join it
        self.records = read_index(directory) if index.exists() else []
        self._known: dict[str, Record] = {}
        self._latest: dict[tuple[str, str, int, str], Record] = {}
        for record in self.records:
            self._note(record)

    def add(
        self,
        data: bytes,
        *,
        kind: str,
        stage: str,
        round: int,
        sender: str,
        visible_to: tuple[str, ...],
        receivers: int,
        attempt: int = 0,
    ) -> Record:
        """Keep ``data``; the file is complete before the index names it.

        Raises:
            RepeatedRecordError: something else was recorded under this name.
        """
        file = record_file(stage, round, attempt, kind, sender)
        digest = hashlib.sha256(data).hexdigest()
        record = Record(file, kind, stage, round, sender, visible_to, receivers, len(data), digest, attempt)
        known = self._known.get(file)
        if known is not None and (known.sha256, known.visible_to) == (digest, visible_to):
            return known  # every party of a process records what it sees
        if known is not None:
            raise RepeatedRecordError(f"another {kind} of {sender} for {stage}, round {round} than there was before")
        write_atomic(self.directory / file, data)
        append_line(self.directory / INDEX, _line(record))
        self.records.append(record)
        self._note(record)
        return record

    def add_release(
        self, release: Placed, data: bytes, *, kind: str, sender: str, visible_to: str, receivers: int = 0
    ) -> Record:
        """Keep what a market released or charged; what belongs to no round stands at round 0. See ``add``."""
        return self.add(
            data,
            kind=kind,
            stage=release.stage,
            round=release.round or 0,
            attempt=release.attempt or 0,
            sender=sender,
            visible_to=(visible_to,),
            receivers=receivers,
        )

    def record(self, kind: str, stage: str, round: int, attempt: int, sender: str) -> Record | None:
        """The record of one message, None if there is none."""
        return self._known.get(record_file(stage, round, attempt, kind, sender))

    def read(self, record: Record) -> bytes:
        """Bytes of a record."""
        return read_record(self.directory, record)

    def latest(self, *, kind: str, stage: str, round: int, sender: str) -> Record | None:
        """The record of the latest attempt, None if there is none."""
        return self._latest.get((kind, stage, round, sender))

    def _note(self, record: Record) -> None:
        self._known[record.file] = record
        key = (record.kind, record.stage, record.round, record.sender)
        if key not in self._latest or self._latest[key].attempt <= record.attempt:
            self._latest[key] = record

    def settle(self) -> None:
        """Write the index anew once nothing is added any more: one line a record, by name, and no torn one."""
        write_atomic(self.directory / INDEX, index_bytes(self.records))

    def find(self, *, kind: str, stage: str, round: int, sender: str) -> bytes | None:
        """Bytes of the record of the latest attempt, None if there is none."""
        record = self.latest(kind=kind, stage=stage, round=round, sender=sender)
        return None if record is None else self.read(record)


def record_file(stage: str, round: int, attempt: int, kind: str, sender: str) -> str:
    """File of a record below the transcript directory."""
    again = f".{attempt}" if attempt else ""
    return f"{stage}/{round:04d}{again}-{kind}-{sender}.bin"


def index_bytes(records: Iterable[Record]) -> bytes:
    """The index of a transcript that is complete, in the order of its files."""
    return b"".join(_line(record) for record in sorted(records, key=lambda record: record.file))


def _line(record: Record) -> bytes:
    return (json_text(vars(record), sort_keys=True) + "\n").encode()


def read_index(directory: Path) -> list[Record]:
    """Records of a transcript; the last line of a file counts, an incomplete last line of the index does not.

    Raises:
        InputError: it cannot be read, or a line is no record.
    """
    # nor may the folder itself be a link: it is a part of the run
    return parse_index(read_bytes(directory / INDEX, MAX_LINES_BYTES, below=directory.parent), directory / INDEX)


def parse_index(data: bytes, index: Path) -> list[Record]:
    """``read_index`` of bytes that were read from a path."""
    latest: dict[str, Record] = {}
    for number, line in lines_of(data, index):
        try:
            record = _record(json_object(line, f"{index}:{number}"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunDirectoryError(f"{index}:{number}: not a transcript record: {error}") from error
        latest[record.file] = record
    return list(latest.values())


def has_own_file(record: Record) -> bool:
    """Whether a record is in the one file that its fields name: nothing is read twice under two names."""
    named = record_file(record.stage, record.round, record.attempt, record.kind, record.sender)
    return record.file == named and not {"", "."} & set(named.split("/")) and is_inside(named)


def read_record(directory: Path, record: Record) -> bytes:
    """The bytes of a record of a transcript.

    Raises:
        ForeignFileError: its file is missing, not the one that its fields name, or holds other bytes than it says.
    """
    path = ForeignDirectory(directory).file(record.file)
    if not has_own_file(record):
        raise ForeignFileError(f"{directory}: {record.file[:200]!r} is another file than its record says")
    data = read_bytes(path, min(max(record.size, 0), MAX_BYTES), below=directory)
    if (len(data), hashlib.sha256(data).hexdigest()) != (record.size, record.sha256):
        raise ForeignFileError(f"{path}: its bytes do not match the index of the transcript")
    return data


def _record(fields: dict[str, Any]) -> Record:
    record = Record(**{**fields, "visible_to": tuple(fields["visible_to"])})
    texts = (record.file, record.kind, record.stage, record.sender, record.sha256, *record.visible_to)
    numbers = (record.round, record.receivers, record.size, record.attempt)
    if not all(type(text) is str for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("a field of another type")
    return record
