"""How large a Parquet file becomes, by what every one of its pages says of itself; nothing is unpacked for it.

The footer's figures are an account of the file, and bind nobody. What a reader does obey is the header of each page
(Apache Parquet, ``PageHeader`` in Thrift's compact protocol): it makes room for as many bytes as the header says, and
unpacks into that room and no further. So the sizes in the headers bound what arrives, whatever the compressed bytes
hold. One kind of encoding needs no compression to grow: values that are written as differences from the one before
(``DELTA_LENGTH_BYTE_ARRAY``, ``DELTA_BYTE_ARRAY``), of which a few bytes are a long text each. They are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_PAGES = 200_000
_MAX_HEADER_BYTES, _FIRST_BYTES = 2**20, 256
_MAX_DEPTH = 8
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1
_GROWING = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
# fields of a page header: sizes, and where each kind of page says how its values are written
_UNPACKED, _PACKED = 2, 3
_ENCODING = {5: 2, 8: 4}
# types of Thrift's compact protocol
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

Fields = dict[int, Any]


class PageError(ValueError):
    """Pages that no reader should follow; one line."""


def unpacked_sizes(source: pa.NativeFile, metadata: pq.FileMetaData, columns: Collection[str]) -> Iterator[int]:
    """Bytes that each page of some columns unpacks to, in turn.

    Args:
        source: the file, open.
        metadata: its footer.
        columns: names of those that are going to be read, with all that is nested below them.

    Raises:
        PageError: a page is no page, leads out of the file, or grows as it is read; or there are too many.
    """
    size, seen = source.size(), 0
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for chunk in (group.column(index) for index in range(group.num_columns)):
            path = chunk.path_in_schema
            if path in columns or any(path.startswith(f"{name}.") for name in columns):
                for found in _chunk_pages(source, size, chunk):
                    seen += 1
                    if seen > MAX_PAGES:
                        raise PageError(f"more than {MAX_PAGES} pages")
                    yield found


def _chunk_pages(source: pa.NativeFile, size: int, chunk: pq.ColumnChunkMetaData) -> Iterator[int]:
    """Of one column of one row group, from its first byte to its last: where a reader's own count ends is not asked."""
    if not chunk.num_values:
        return  # then a reader asks for no page
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    where = f"column {chunk.path_in_schema[:100]!r}"
    if not 0 <= at <= end <= size:
        raise PageError(f"{where} lies outside of the file")
    values = 0
    while at < end:
        header, length = _header(source, at, end)
        unpacked, packed = _whole(header, _UNPACKED), _whole(header, _PACKED)
        at += length + packed
        if at > end:
            raise PageError(f"a page leads out of {where}")
        for kind, encoding in _ENCODING.items():
            if kind in header:
                values += _whole(header[kind], 1)
                name = _GROWING.get(_whole(header[kind], encoding))
                if name:
                    raise PageError(
                        f"{where} is encoded as {name}, of which a few bytes can be a long text each; write it again "
                        "with plain or dictionary encoding"
                    )
        yield unpacked
    if values < chunk.num_values:  # or a reader looks for more behind the column's end
        raise PageError(f"{where} has fewer values than the file says")


def _whole(fields: Any, name: int) -> int:
    found = fields.get(name) if isinstance(fields, dict) else None
    if type(found) is not int or found < 0:
        raise PageError("a page's header does not say how large it is, or how it is written")
    return found


def _header(source: pa.NativeFile, at: int, end: int) -> tuple[Fields, int]:
    """A page's header, and its length in bytes."""
    length = _FIRST_BYTES
    while True:
        data = source.read_at(min(length, end - at), at)
        try:
            return _struct(data, 0)
        except IndexError:
            if len(data) < length or length >= _MAX_HEADER_BYTES:
                raise PageError("a page's header has no end") from None
            length *= 16


# -- Thrift's compact protocol: numbers and structures are kept, all else is passed over ------------------------------


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[Fields, int]:
    if depth > _MAX_DEPTH:
        raise PageError("a page's header is nested too deep")
    found: Fields = {}
    name = 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            name += kind >> 4
        else:
            name, at = _number(data, at)
        if name in found:  # two readers could take one each
            raise PageError("a page's header says something twice")
        found[name], at = _value(data, at, kind & 15, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int, *, listed: bool = False) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == _TRUE, at + listed
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            number, at = _number(data, at)
            if kind != _I64 and not _SMALLEST <= number <= _LARGEST:  # a reader would cut it
                raise PageError("a page's header holds a number that is too large")
            return number, at
        case 7:
            return None, _within(data, at + 8)
        case 8:
            length, at = _varint(data, at)
            return None, _within(data, at + length)
        case 9 | 10:
            return None, _items(data, at, depth)
        case 11:
            return None, _pairs(data, at, depth)
        case 12:
            return _struct(data, at, depth + 1)
    raise PageError("a page's header holds something unknown")


def _items(data: bytes, at: int, depth: int) -> int:
    head, at = data[at], at + 1
    count = head >> 4
    if count == 15:
        count, at = _varint(data, at)
    for _ in range(count):
        _, at = _value(data, at, head & 15, depth + 1, listed=True)
    return at


def _pairs(data: bytes, at: int, depth: int) -> int:
    count, at = _varint(data, at)
    if count:
        head, at = data[at], at + 1
        for _ in range(count):
            for kind in (head >> 4, head & 15):
                _, at = _value(data, at, kind, depth + 1, listed=True)
    return at


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
