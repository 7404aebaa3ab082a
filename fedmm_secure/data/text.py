"""Delimited text, plain or gzip, block by block: a line is a row, and every row is read by itself.

A quotation mark that is not closed on its own line makes that row a bad one. Were quotes allowed to span lines, as
other readers do, one user's quotation mark would swallow the rows of others.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedmm_secure.data.faults import Faults, Mask
from fedmm_secure.errors import DataError
from fedmm_secure.foreign.file_kinds import HEAD_BYTES, FileKindError, refuse_other_kinds
from fedmm_secure.foreign.growth import GrowthError, Unzipped, refuse_cells
from privacy.arrays import IntArray

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 2 * 2**20
MAX_ROW_BYTES = 2**20
MAX_BLANK = 10_000  # lines before the header
MAX_COLUMNS = 1000
_NEWLINE, _RETURN, _QUOTE = ord("\n"), ord("\r"), ord('"')
_TOO_LONG = b"\0"  # stands for a line without end


class TooManyColumnsError(DataError):
    """A table with more columns than one of interactions has."""


@dataclass(frozen=True)
class Dialect:
    """How a line becomes fields.

    Attributes:
        separator: one ASCII character.
        quoting: whether ``"`` around a field encloses it.
        width: fields of every row; ``None``: at least those that are mapped.
    """

    separator: str
    quoting: bool
    width: int | None


@dataclass(frozen=True)
class Block:
    """Some of a file's rows.

    Attributes:
        lines: number of each row's line, ``(n,)``; of a table, the row's own number.
        columns: by role, ``(n,)`` each.
        faults: what is wrong with them so far.
        blank: lines between them that hold nothing.
        fields: how many fields most of them have; 0 where nobody has counted.
    """

    lines: IntArray
    columns: Mapping[str, pa.Array]
    faults: Faults
    blank: int
    fields: int = 0


class TextFile:
    """An open text file, read once from its beginning to its end."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path = path
        self.line = 0  # lines read so far
        self._binary = Unzipped(raw)
        self._carry = self._read().removeprefix(codecs.BOM_UTF8)
        self._head = self._carry[:HEAD_BYTES]

    def header(self) -> tuple[str, int]:
        """The first line that is not blank, and how many blank ones come before; empty at the end of the file.

        Raises:
            DataError: it is no text, or holds what no header does.
        """
        self.refuse_other_kinds()
        blank = at = 0  # what is before that is done with, and cut off once
        while True:
            while (end := self._carry.find(b"\n", at)) < 0 and len(self._carry) - at <= MAX_ROW_BYTES:
                more = self._read()
                if not more:
                    end = len(self._carry)
                    break
                self._carry, at = self._carry[at:] + more, 0
            line = self._carry[at:] if end < 0 else self._carry[at:end]
            if at >= len(self._carry):
                return "", blank
            at = len(self._carry) if end < 0 else end + 1
            self.line += 1
            if line.strip():
                break
            blank += 1
            if blank > MAX_BLANK:
                raise DataError(f"{self.path}: more than {MAX_BLANK} blank lines before the first that is none")
        self._carry = self._carry[at:]
        where = f"{self.path}:{self.line}"
        if b"\0" in line:
            raise DataError(f"{where}: not UTF-8 text (UTF-16, perhaps, or no text at all); convert it first")
        if len(line) > MAX_ROW_BYTES:
            raise DataError(f"{where}: a line of more than {MAX_ROW_BYTES} bytes; is this a text file?")
        line = line.removesuffix(b"\r")
        if b"\r" in line:
            raise DataError(f"{where}: lines end in a carriage return alone; convert the file's line ends first")
        try:
            return line.decode("utf-8"), blank
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text; convert it first") from error

    def refuse_other_kinds(self) -> None:
        """Raises ``DataError`` where this begins as a file does that is no text."""
        try:
            refuse_other_kinds(self._head)
        except FileKindError as error:
            raise DataError(f"{self.path}: {error}") from error

    def blocks(self, positions: Mapping[str, int], dialect: Dialect, header: str | None = None) -> Iterator[Block]:
        """All rows that are left, of the columns at some positions; a line that is the header again is a bad one."""
        again = None if header is None else header.encode()
        for data in self._lines():
            try:
                refuse_cells(self.line + data.count(b"\n"), len(positions), self._binary.size)
            except GrowthError as error:
                raise DataError(f"{self.path}: {error}") from error
            block, lines = _block(data, self.line, positions, dialect, again)
            self.line += lines
            yield block

    def _lines(self) -> Iterator[bytes]:
        """Whole lines, each with its end, some megabytes at a time; one that is too long is a bad one in their place.

        Of a line whose end has not been read no more is kept than a row may have.
        """
        data, rest = self._carry, b""
        self._carry = b""
        while True:
            cut = data.rfind(b"\n") + 1
            if cut:
                yield rest + data[:cut]
                rest = b""
            rest += data[cut:]
            if len(rest) > MAX_ROW_BYTES:
                rest = _TOO_LONG
            data = self._read()
            if not data:
                break
        if rest:
            yield rest + b"\n"

    def _read(self) -> bytes:
        try:
            return self._binary.read(BLOCK_BYTES)
        except GrowthError as error:
            raise DataError(f"{self.path}: {error}") from error


def split_header(line: str, dialect: Dialect, where: str) -> list[str]:
    """Fields of a header; raises ``DataError``."""
    if not dialect.quoting:
        fields = line.split(dialect.separator)
        refuse_columns(len(fields), where)
        return [name.strip() for name in fields]
    try:
        (fields,) = csv.reader([line], delimiter=dialect.separator, strict=True)
    except csv.Error as error:
        raise DataError(
            f"{where}: a quotation mark in the header that is not closed, or stands inside a name"
        ) from error
    refuse_columns(len(fields), where)
    return [name.strip() for name in fields]


def refuse_columns(columns: int, where: Path | str) -> None:
    """Raises ``TooManyColumnsError``: before one of them is built, for each costs as much as a table."""
    if columns > MAX_COLUMNS:
        raise TooManyColumnsError(
            f"{where}: more than {MAX_COLUMNS} columns; keep those of users, items, ratings and times"
        )


def refuse_duplicates(where: Path | str, names: Sequence[str]) -> None:
    """Raise ``DataError`` where two columns have one name."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name and name in first:
            raise DataError(
                f"{where}: columns {first[name]} and {position} (from 0) are both named {name!r}; rename one"
            )
        first.setdefault(name, position)


def _block(
    data: bytes, before: int, positions: Mapping[str, int], dialect: Dialect, header: bytes | None
) -> tuple[Block, int]:
    text = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    n_lines = len(ends)
    stops = ends - ((ends > starts) & (text[np.maximum(ends - 1, 0)] == _RETURN))
    separators = np.flatnonzero(text == ord(dialect.separator))
    quotes = np.flatnonzero(text == _QUOTE) if dialect.quoting and b'"' in data else np.zeros(0, dtype=np.int64)
    if len(quotes):
        separators = separators[_outside(separators, quotes, starts)]
    first = np.searchsorted(separators, starts)
    count = np.diff(np.append(first, len(separators)))
    blank = _blank(text, starts, stops, count)
    faults = Faults(n_lines)
    faults.bad |= blank  # no rows, whatever is marked below
    if header is not None and header in data:
        again = _equal_to(header, text, starts, stops)
        faults.mark(again, lambda _: "is the header again; are these several files in one?")
    _mark_bytes(data, starts, ends, stops, faults)
    if len(quotes):
        _mark_quotes(text, quotes, separators, starts, stops, faults)
    _mark_width(count + 1, positions, dialect, faults)
    kept = np.flatnonzero(~blank)
    bad = faults.bad
    columns = {}
    for role, position in positions.items():
        left, right = _bounds(position, separators, first, count, starts, stops)
        left, right = np.where(bad, 0, left)[kept], np.where(bad, 0, right)[kept]
        columns[role] = _field(text, left, right, quoted=len(quotes) > 0)
    fields = int(np.bincount(count[kept] + 1).argmax()) if len(kept) else 0
    return Block(kept + before + 1, columns, _of_rows(faults, kept), int(blank.sum()), fields), n_lines


def _equal_to(line: bytes, text: Bytes, starts: IntArray, stops: IntArray) -> Mask:
    """Which lines are one line, with or without the byte order mark that begins a file."""
    found = np.zeros(len(starts), dtype=bool)
    for wanted in (line, codecs.BOM_UTF8 + line):
        as_long = np.flatnonzero(stops - starts == len(wanted))
        for part in np.array_split(as_long, 1 + len(as_long) * len(wanted) // BLOCK_BYTES):
            held = text[starts[part][:, None] + np.arange(len(wanted))]
            found[part] = (held == np.frombuffer(wanted, dtype=np.uint8)).all(axis=1)
    return found


def _outside(separators: IntArray, quotes: IntArray, starts: IntArray) -> Mask:
    """Which separators have an even number of quotation marks before them on their line."""
    line = np.searchsorted(starts, separators, side="right") - 1
    before = np.searchsorted(quotes, separators) - np.searchsorted(quotes, starts)[line]
    return np.asarray(before % 2 == 0)


def _blank(text: Bytes, starts: IntArray, stops: IntArray, count: IntArray) -> Mask:
    """Lines without a separator in which there is nothing but blanks."""
    blank = (stops == starts) & (count == 0)
    if ((count == 0) & ~blank).any():
        seen = np.concatenate([[0], np.cumsum(~np.isin(text, np.frombuffer(b" \t", dtype=np.uint8)))])
        blank = (count == 0) & (seen[stops] == seen[starts])
    return np.asarray(blank)


def _mark_bytes(data: bytes, starts: IntArray, ends: IntArray, stops: IntArray, faults: Faults) -> None:
    """Rows with bytes that no text of one line has."""
    if b"\0" in data:
        text = np.frombuffer(data, dtype=np.uint8)
        faults.mark(_holding(np.flatnonzero(text == 0), starts), lambda _: "holds a NUL character, or never ends")
    if b"\r" in data:
        returns = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _RETURN)
        line = np.searchsorted(starts, returns, side="right") - 1
        inside = _holding(returns[returns < stops[line]], starts)
        faults.mark(inside, lambda _: "holds a carriage return inside the row; a line holds one row")
    faults.mark(stops - starts > MAX_ROW_BYTES, lambda _: f"is longer than {MAX_ROW_BYTES} bytes")
    try:
        codecs.utf_8_decode(data, "strict", True)
    except UnicodeDecodeError:
        broken = _holding(ill_formed(np.frombuffer(data, dtype=np.uint8)), starts)
        faults.mark(broken, lambda _: "not UTF-8 text; convert the file first")


def ill_formed(text: Bytes) -> IntArray:
    """Where bytes are no UTF-8, in one pass however often they are none (Unicode 15, table 3-7)."""
    high = np.flatnonzero(text >= 0x80)
    lead = text[high]
    padded = np.concatenate([text, np.zeros(3, dtype=np.uint8)])
    second = padded[high + 1]
    more = (lead >= 0xC2).astype(np.int8) + (lead >= 0xE0) + (lead >= 0xF0)  # bytes that have to follow
    least = np.select([lead == 0xE0, lead == 0xF0], [0xA0, 0x90], 0x80)
    most = np.select([lead == 0xED, lead == 0xF4], [0x9F, 0x8F], 0xBF)
    fine = (lead >= 0xC2) & (lead <= 0xF4) & (second >= least) & (second <= most)
    following = np.zeros(len(padded), dtype=bool)
    for step in (2, 3):
        fine &= (more < step) | (padded[high + step] & 0xC0 == 0x80)
    for step in (1, 2, 3):
        following[high[fine & (more >= step)] + step] = True
    return high[~(fine | following[high])]


def _mark_quotes(
    text: Bytes, quotes: IntArray, separators: IntArray, starts: IntArray, stops: IntArray, faults: Faults
) -> None:
    """Rows with a quotation mark that neither encloses a whole field nor is doubled inside such a field."""
    line = np.searchsorted(starts, quotes, side="right") - 1
    begins = np.searchsorted(quotes, starts)
    odd = np.diff(np.append(begins, len(quotes))) % 2 == 1
    hint = "; set quoting: false if quotation marks are part of the values"
    faults.mark(odd, lambda _: 'a quotation mark (") that is not closed on its line' + hint)
    opens = (np.arange(len(quotes)) - begins[line]) % 2 == 0
    is_separator = np.zeros(len(text) + 1, dtype=bool)
    is_separator[separators] = True
    before, after = quotes - 1, quotes + 1
    starts_field = (quotes == starts[line]) | is_separator[before]
    ends_field = (after == stops[line]) | is_separator[after]
    is_quote = text[np.minimum(np.stack([np.maximum(before, 0), after]), len(text) - 1)] == _QUOTE
    doubled_before = is_quote[0] & (quotes > starts[line])
    fine = np.where(opens, starts_field | doubled_before, ends_field | is_quote[1])
    inside = _holding(quotes[~fine], starts)
    faults.mark(inside, lambda _: 'a quotation mark (") inside a field' + hint)


def _holding(at: IntArray, starts: IntArray) -> Mask:
    """Lines that hold some bytes."""
    found = np.zeros(len(starts), dtype=bool)
    found[np.searchsorted(starts, at, side="right") - 1] = True
    return found


def _mark_width(fields: IntArray, positions: Mapping[str, int], dialect: Dialect, faults: Faults) -> None:
    width = dialect.width
    if width is not None:
        faults.mark(fields != width, lambda row: f"{fields[row]} fields where {width} were expected")
    else:
        least = max(positions.values()) + 1
        faults.mark(fields < least, lambda row: f"{fields[row]} fields where at least {least} were expected")


def _bounds(
    position: int, separators: IntArray, first: IntArray, count: IntArray, starts: IntArray, stops: IntArray
) -> tuple[IntArray, IntArray]:
    """Where a field of each line begins and ends; anything where the line has no such field."""
    padded = np.append(separators, 0)
    left = starts if position == 0 else padded[np.minimum(first + position - 1, len(separators))] + 1
    right = np.where(count > position, padded[np.minimum(first + position, len(separators))], stops)
    return left, right


def _field(text: Bytes, left: IntArray, right: IntArray, *, quoted: bool) -> pa.Array:
    """Texts between some positions of valid UTF-8, without the quotation marks around them."""
    enclosed = np.zeros(len(left), dtype=bool)
    if quoted:
        enclosed = (right - left >= 2) & (text[np.minimum(left, len(text) - 1)] == _QUOTE)
        left, right = left + enclosed, right - enclosed
    length = right - left
    offsets = np.concatenate([[0], np.cumsum(length)])
    index = np.repeat((left - offsets[:-1]).astype(np.int32), length)
    index += np.arange(offsets[-1], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text[index])]
    found = pa.StringArray.from_buffers(len(left), buffers[1], buffers[2])
    if enclosed.any():
        found = pc.if_else(pa.array(enclosed), pc.replace_substring(found, '""', '"'), found)
    return found


def _of_rows(faults: Faults, kept: IntArray) -> Faults:
    """The faults of lines as those of rows; a blank line is none, and has no faults."""
    found = Faults(len(kept))
    found.bad = faults.bad[kept]
    if found.bad.any() and faults.first is not None:
        found.first = (int(np.searchsorted(kept, faults.first[0])), faults.first[1])
    return found
