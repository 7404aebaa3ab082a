"""Rows of a Parquet file, a batch at a time; types are the file's, and every digit is kept.

Texts are read as their dictionary, so that one which a file repeats is in memory once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedmm_secure.data.faults import Faults
from fedmm_secure.data.text import Block
from fedmm_secure.errors import DataError
from fedmm_secure.parquet_pages import unpacked_sizes

BATCH_ROWS = 2**18
MAX_PAGE_BYTES = 2**29  # of one page, unpacked: of a column so much is in memory at a time


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

    def is_plain(self, position: int) -> bool:
        """Whether a column holds one plain value a row."""
        kind = self._file.schema_arrow.field(position).type
        return not (pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind) or _is_extension(kind))

    def blocks(self, positions: Mapping[str, int]) -> Iterator[Block]:
        """All rows, of the columns at some positions.

        Raises:
            DataError: a column holds no plain values, or the file is damaged.
        """
        for role, position in positions.items():
            if not self.is_plain(position):
                kind = self._file.schema_arrow.field(position).type
                where = f"{self.path}: {role} column {self.names[position]!r}"
                raise DataError(f"{where} holds {str(kind)[:100]}; a column of plain values is needed")
        names = sorted({self.names[position] for position in positions.values()})
        before = 0
        try:
            if any(page > MAX_PAGE_BYTES for page in unpacked_sizes(self._source, self._file.metadata, set(names))):
                raise DataError(f"{self.path}: a page unpacks to more than {MAX_PAGE_BYTES} bytes; write smaller ones")
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False):
                n = batch.num_rows
                columns = {role: _plain(batch.column(self.names[at])) for role, at in positions.items()}
                yield Block(np.arange(before + 1, before + n + 1), columns, Faults(n), 0)
                before += n
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise self._refusal(error) from error
        if before != self._file.metadata.num_rows:
            raise DataError(f"{self.path}: {before} rows where it says {self._file.metadata.num_rows}")

    def _refusal(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be read as Parquet: {str(error).splitlines()[0][:200]}")


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


def _is_extension(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


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
