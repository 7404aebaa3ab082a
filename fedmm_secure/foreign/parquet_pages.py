"""How large a Parquet file becomes, by what every one of its pages says of itself; nothing is unpacked for it.

The footer's figures are an account of the file, and bind nobody. What a reader does obey is the header of each page
(Apache Parquet, ``PageHeader`` in Thrift's compact protocol): it makes room for as many bytes as the header says, and
unpacks into that room and no further. So the sizes in the headers bound what arrives, whatever the compressed bytes
hold. One kind of encoding needs no compression to grow: values that are written as differences from the one before
(``DELTA_LENGTH_BYTE_ARRAY``, ``DELTA_BYTE_ARRAY``), of which a few bytes are a long text each. They are refused.

A header is read by the letter of its definition: fields that it knows, of the type that it gives them, once each. What
is unknown here may be known to another reader, which keeps 16 bits of a field's number. And nothing is read twice:
columns do not overlap, and so the work is no larger than the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

MAX_PAGES, MAX_ROW_GROUPS, MAX_ROWS = 200_000, 2**15, 2**31
MAX_PAGE_HEADER_BYTES, MAX_HEADERS_BYTES = 2**16, 2**26  # of one page, and of all together
_FIRST_BYTES = 256
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1
_GROWING = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}

Fields = dict[int, Any]
Layout = dict[int, Any]  # by field, its type in Thrift's compact protocol, or the layout of a structure

_BOOLEAN, _FALSE, _I32, _I64, _BINARY, _STRUCT = 1, 2, 5, 6, 8, 12
# parquet.thrift of Apache Parquet 2.12
_STATISTICS: Layout = {
    **dict.fromkeys((1, 2, 5, 6), _BINARY),
    **dict.fromkeys((3, 4, 9), _I64),
    **dict.fromkeys((7, 8), _BOOLEAN),
}
_DATA: Layout = {**dict.fromkeys((1, 2, 3, 4), _I32), 5: _STATISTICS}
_DICTIONARY: Layout = {1: _I32, 2: _I32, 3: _BOOLEAN}
_DATA_2: Layout = {**dict.fromkeys((1, 2, 3, 4, 5, 6), _I32), 7: _BOOLEAN, 8: _STATISTICS}
_HEADER: Layout = {**dict.fromkeys((1, 2, 3, 4), _I32), 5: _DATA, 7: _DICTIONARY, 8: _DATA_2}
_TYPE, _UNPACKED, _PACKED, _VALUES = 1, 2, 3, 1
# by type of a page: its own part of the header, and there, how its values are written
_PARTS = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
_OF_DICTIONARY = 2


class PageError(ValueError):
    """Pages that no reader should follow; one line."""


class Page(NamedTuple):
    """One page of a column.

    Attributes:
        size: bytes that it unpacks to.
        first: row of the file that it begins with; a dictionary's, that its row group does.
        end: row behind the last one that needs it.
    """

    size: int
    first: int
    end: int


def unpacked_pages(source: pa.NativeFile, metadata: pq.FileMetaData, columns: Collection[str]) -> Iterator[Page]:
    """Pages of some columns that hold one plain value a row, in turn.

    Args:
        source: the file, open.
        metadata: its footer.
        columns: names of those that are going to be read.

    Raises:
        PageError: a page is no page, leads out of its column, or grows as it is read; columns overlap; row groups have
            other rows than the file; or there is too much of anything.
    """
    seen, left = 0, MAX_HEADERS_BYTES
    for chunk in column_chunks(source, metadata, columns):
        for page, length in _chunk_pages(source, chunk):
            seen, left = seen + 1, left - length
            if seen > MAX_PAGES or left < 0:
                raise PageError(f"more than {MAX_PAGES} pages, or {MAX_HEADERS_BYTES} bytes of their headers")
            yield page


def largest_batch(pages: Iterable[Page], rows: int) -> int:
    """Most bytes that have to be unpacked, of all columns together, for so many rows at a time."""
    sizes: Counter[int] = Counter()
    for page in pages:
        for batch in range(page.first // rows, max(page.end - 1, page.first) // rows + 1):
            sizes[batch] += page.size
    return max(sizes.values(), default=0)


class Chunk(NamedTuple):
    """One column of one row group, from its first byte to its last: where a reader's own count ends is not asked."""

    at: int
    end: int
    first: int  # row of the file
    rows: int
    where: str


def column_chunks(source: pa.NativeFile, metadata: pq.FileMetaData, columns: Collection[str]) -> list[Chunk]:
    """The chunks of some columns that hold one plain value a row.

    Raises:
        PageError: they overlap, lie outside of the file, or have other rows than it.
    """
    if metadata.num_row_groups > MAX_ROW_GROUPS or metadata.num_rows > MAX_ROWS:
        raise PageError(f"more than {MAX_ROW_GROUPS} row groups, or {MAX_ROWS} rows")
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]  # a reader goes by these
    below = tuple(f"{name}." for name in columns)
    wanted = [index for index, path in enumerate(paths) if path in columns or path.startswith(below)]
    found: list[Chunk] = []
    rows, size = 0, source.size()
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        if group.num_columns != len(paths) or group.num_rows < 0:
            raise PageError("a row group has other columns than the file, or fewer rows than none")
        for index in wanted if group.num_rows else ():
            where = f"column {paths[index][:100]!r}"
            found.append(_chunk(group.column(index), rows, group.num_rows, size, where))
        rows += group.num_rows
    if rows != metadata.num_rows:
        raise PageError(f"its row groups have {rows} rows where it says {metadata.num_rows}")
    spans = sorted((chunk.at, chunk.end) for chunk in found)
    if any(after[0] < before[1] for before, after in pairwise(spans)):
        raise PageError("its columns overlap")
    return found


def _chunk(chunk: pq.ColumnChunkMetaData, first: int, rows: int, size: int, where: str) -> Chunk:
    if chunk.num_values != rows:
        raise PageError(f"{where} has {chunk.num_values} values in {rows} rows")
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    if not 0 <= at <= end <= size:
        raise PageError(f"{where} lies outside of the file")
    return Chunk(at, end, first, rows, where)


def _chunk_pages(source: pa.NativeFile, chunk: Chunk) -> Iterator[tuple[Page, int]]:
    """Pages, and the length of each one's header."""
    at, row, dictionaries = chunk.at, chunk.first, 0
    behind = row + chunk.rows
    while at < chunk.end:
        header, length = _header(source, at, chunk.end)
        size, packed = _whole(header, _UNPACKED), _whole(header, _PACKED)
        at += length + packed
        if at > chunk.end:
            raise PageError(f"a page leads out of {chunk.where}")
        kind = _whole(header, _TYPE)
        part, encoding = _PARTS.get(kind, (0, 0))
        if [name for name in header if isinstance(header[name], dict)] != [part]:
            raise PageError(f"a page of {chunk.where} is none that holds values, or two in one")
        name = _GROWING.get(_whole(header[part], encoding))
        if name:
            raise PageError(
                f"{chunk.where} is encoded as {name}, of which a few bytes can be a long text each; write it again "
                "with plain or dictionary encoding"
            )
        first, end = chunk.first, behind
        if kind == _OF_DICTIONARY:
            dictionaries += 1
        else:
            first, end = row, row + _whole(header[part], _VALUES)
            row = end
        if dictionaries > 1 or row > behind:
            raise PageError(f"{chunk.where} has more values than the file says")
        yield Page(size, first, end), length
    if row != behind:  # or a reader looks for more behind the column's end
        raise PageError(f"{chunk.where} has fewer values than the file says")


def _whole(fields: Fields, name: int) -> int:
    found = fields.get(name)
    if type(found) is not int or found < 0:
        raise PageError("a page's header does not say how large it is, or how it is written")
    return found


def _header(source: pa.NativeFile, at: int, end: int) -> tuple[Fields, int]:
    """A page's header, and its length in bytes."""
    length = _FIRST_BYTES
    while True:
        data = source.read_at(min(length, end - at), at)
        try:
            return _struct(data, 0, _HEADER)
        except IndexError:
            if len(data) < length or length >= MAX_PAGE_HEADER_BYTES:
                raise PageError(f"a page's header has no end within {MAX_PAGE_HEADER_BYTES} bytes") from None
            length *= 16


# -- Thrift's compact protocol -----------------------------------------------------------------------------------------


def _struct(data: bytes, at: int, layout: Layout) -> tuple[Fields, int]:
    found: Fields = {}
    name = 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            name += kind >> 4
        else:
            name, at = _number(data, at)
        if name not in layout or name in found:  # two readers could take it for two things
            raise PageError("a page's header says something unknown, or something twice; write the file again")
        found[name], at = _value(data, at, kind & 15, layout[name])
    return found, at + 1


def _value(data: bytes, at: int, kind: int, wanted: int | Layout) -> tuple[Any, int]:
    if isinstance(wanted, dict):
        if kind == _STRUCT:
            return _struct(data, at, wanted)
    elif wanted == _BOOLEAN:
        if kind in (_BOOLEAN, _FALSE):
            return kind == _BOOLEAN, at
    elif kind == wanted == _BINARY:
        length, at = _varint(data, at)
        return None, _within(data, at + length)
    elif kind == wanted:
        number, at = _number(data, at)
        if kind == _I32 and not _SMALLEST <= number <= _LARGEST:  # a reader would cut it
            raise PageError("a page's header holds a number that is too large")
        return number, at
    raise PageError("a page's header holds something of another type")


def _within(data: bytes, at: int) -> int:
    if at > len(data):
        raise IndexError
    return at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A signed number in zigzag form."""
    found, at = _varint(data, at)
    return (found >> 1) ^ -(found & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at
    raise PageError("a page's header holds a number without end")
