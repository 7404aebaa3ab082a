"""Rows of a Parquet file, a batch at a time; types are the file's, and every digit is kept.

Texts are read as their dictionary, so that one which a file repeats is in memory once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedmm_secure.data.faults import Faults
from fedmm_secure.data.int96 import Int96Seconds, int96_columns
from fedmm_secure.data.text import Block, refuse_columns, refuse_duplicates
from fedmm_secure.errors import DataError
from fedmm_secure.foreign.growth import refuse_cells
from fedmm_secure.foreign.parquet_pages import column_chunks, largest_batch, unpacked_pages

BATCH_ROWS = 2**18
# kinds that every kernel that is used here knows: Arrow grows others faster than kernels for them
_PLAIN = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_decimal128,
    pa.types.is_decimal256,
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
)
MAX_BATCH_BYTES = 2**30  # unpacked, of all columns that are read together: so much is in memory at a time


class ParquetRows:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._source = pa.OSFile(str(path))
            schema = pq.read_schema(self._source)
            texts = [field.name for field in schema if _repeats(field.type)]
            self._file = pq.ParquetFile(self._source, read_dictionary=texts, pre_buffer=False)
            self.names: list[str] = list(schema.names)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._refusal(error) from error
        refuse_columns(len(self.names), path)
        refuse_duplicates(path, self.names)

    def is_plain(self, position: int) -> bool:
        """Whether a column holds one plain value a row."""
        kind = self._file.schema_arrow.field(position).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        return any(is_it(kind) for is_it in _PLAIN)

    def heads(self, positions: Sequence[int], rows: int, letters: int) -> Iterator[pa.Array]:
        """The first rows of columns of plain values, ``(n,)`` each with n up to ``rows``.

        One column is read at a time, and a text is cut to so many letters while it is in the dictionary once.

        Raises:
            DataError: as ``blocks``.
        """
        try:  # all of them together: one that is in the file once is read once
            column_chunks(self._source, self._file.metadata, {self.names[position] for position in positions})
        except ValueError as error:
            raise self._refusal(error) from error
        yield from (self._head(position, rows, letters) for position in positions)

    def _head(self, position: int, rows: int, letters: int) -> pa.Array:
        block = next(self.blocks({"value": position}, rows), None)
        if block is None:
            return pa.nulls(0)
        try:
            column = block.columns["value"].slice(0, rows)
            if not pa.types.is_dictionary(column.type):
                return column
            # words that rows have: one that none has is not copied
            used = pc.unique(column.indices.drop_null())
            words = _cut(column.dictionary.take(used), letters)
            return words.take(pc.index_in(column.indices, used))
        except (ValueError, LookupError, pa.ArrowException) as error:
            raise self._refusal(error) from error

    def blocks(self, positions: Mapping[str, int], rows: int = BATCH_ROWS) -> Iterator[Block]:
        """All rows, of the columns at some positions, so many at a time.

        Raises:
            DataError: a column holds no plain values, or the file is damaged.
        """
        for role, position in positions.items():
            if not self.is_plain(position):
                kind = self._file.schema_arrow.field(position).type
                where = f"{self.path}: {role} column {self.names[position]!r}"
                raise DataError(f"{where} holds {str(kind)[:100]}; {_remedy(kind)}")
        names = sorted({self.names[position] for position in positions.values()})
        before = 0
        try:
            refuse_cells(self._file.metadata.num_rows, len(names), self._source.size())
            pages = unpacked_pages(self._source, self._file.metadata, set(names))
            if largest_batch(pages, rows) > MAX_BATCH_BYTES:
                raise DataError(
                    f"{self.path}: pages of {rows} rows unpack to more than {MAX_BATCH_BYTES} bytes; write smaller ones"
                )
            old = int96_columns(self._file) & set(names)
            seconds = Int96Seconds(self._source, old, rows)
            for batch in self._file.iter_batches(batch_size=rows, columns=names, use_threads=False):
                n, faults = batch.num_rows, Faults(batch.num_rows)
                columns = {role: _plain(batch.column(self.names[at])) for role, at in positions.items()}
                for role, at in positions.items():
                    if self.names[at] in old:
                        columns[role] = seconds.without_others(self.names[at], columns[role], faults)
                yield Block(np.arange(before + 1, before + n + 1), columns, faults, 0)
                before += n
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise self._refusal(error) from error
        if before != self._file.metadata.num_rows:
            raise DataError(f"{self.path}: {before} rows where it says {self._file.metadata.num_rows}")

    def _refusal(self, error: Exception) -> DataError:
        found = str(error).splitlines()[0][:200].rstrip(".")
        return DataError(f"{self.path}: cannot be read as Parquet: {found}; write it anew, or save it as CSV")


def _remedy(kind: pa.DataType) -> str:
    """What to do about a column of a type that is not read."""
    if pa.types.is_fixed_size_binary(kind):
        return "a column of plain values is needed: write UUIDs as text"
    return "a column of plain values is needed: write one number, text or time a row"


def _repeats(kind: pa.DataType) -> bool:
    """Whether values have lengths of their own."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def _cut(words: pa.Array, letters: int) -> pa.Array:
    """Texts or bytes, no longer than so much."""
    if pa.types.is_binary(words.type) or pa.types.is_large_binary(words.type):
        return pc.binary_slice(words, 0, letters)
    is_text = pa.types.is_string(words.type) or pa.types.is_large_string(words.type)
    return pc.utf8_slice_codeunits(words, 0, letters) if is_text else words


def _plain(column: pa.Array) -> pa.Array:
    """The same values, where kernels know their type; what is a dictionary stays one."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        # indices outside of the dictionary are refused here
        return pa.DictionaryArray.from_arrays(column.indices, _plain(column.dictionary))
    if pa.types.is_string_view(kind):
        return _valid(column.cast(pa.large_string(), safe=False))
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _valid(column)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.int64()).cast(pa.timestamp(kind.unit))  # counted in UTC, whatever the zone is called
    return column


def _valid(column: pa.Array) -> pa.Array:
    """The same texts, with a null where bytes are no UTF-8."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for value in column.cast(pa.large_binary()).to_pylist():
            try:
                texts.append(None if value is None else value.decode("utf-8"))
            except UnicodeDecodeError:
                texts.append(None)
        return pa.array(texts, pa.large_string())
