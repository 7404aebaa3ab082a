"""Rows of a Parquet file, a batch at a time; types are the file's, and every digit is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedmm_secure.data.faults import Faults
from fedmm_secure.data.text import Block
from fedmm_secure.errors import DataError

BATCH_ROWS = 2**18


class ParquetRows:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
            self.names: list[str] = list(self._file.schema_arrow.names)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._refusal(error) from error

    def is_plain(self, position: int) -> bool:
        """Whether a column holds one plain value a row."""
        kind = self._file.schema_arrow.field(position).type
        return not (pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType))

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


def _plain(column: pa.Array) -> pa.Array:
    """The same values, where kernels know their type."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
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
