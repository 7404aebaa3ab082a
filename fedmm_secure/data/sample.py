"""The first rows of a file, read by the reader that a run uses."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from fedmm_secure.data.parquet import ParquetRows
from fedmm_secure.data.text import Dialect, TextFile, TooManyColumnsError, split_header
from fedmm_secure.errors import DataError
from fedmm_secure.foreign.file_kinds import FileKindError, refuse_other_kinds
from fedmm_secure.foreign.growth import GrowthError, Unzipped

SAMPLE_BYTES = 2**18
SAMPLE_ROWS, SAMPLE_CELLS = 10_000, 2**20  # of a Parquet file; with more columns, fewer rows
LETTERS = 100  # of a text in it: numbers, times and names are no longer


@dataclass(frozen=True)
class Sample:
    """First rows of a file under one dialect.

    Attributes:
        path: of the file.
        names: of the columns; ``None`` without a header.
        columns: the good rows, ``(n,)`` each; ``None`` where a column holds no plain values.
        share: of the rows that are good.
        dialect: how they were split; ``None`` for Parquet.
    """

    path: Path
    names: tuple[str, ...] | None
    columns: tuple[pa.Array | None, ...]
    share: float
    dialect: Dialect | None

    @property
    def labels(self) -> tuple[str, ...]:
        """How a configuration names the columns: by header, or by position."""
        return self.names if self.names is not None else tuple(map(str, range(len(self.columns))))


def parquet_sample(path: Path) -> Sample:
    """First rows of a Parquet file; raises ``DataError``."""
    source = ParquetRows(path)
    names = source.names
    rows = min(SAMPLE_ROWS, SAMPLE_CELLS // max(len(names), 1))
    plain = [position for position in range(len(names)) if source.is_plain(position)]
    columns: list[pa.Array | None] = [None] * len(names)
    for position, column in zip(plain, source.heads(plain, rows, LETTERS), strict=True):
        columns[position] = column
    if not any(column is not None and len(column) for column in columns):
        raise DataError(f"{path}: no interactions; it has no rows, or no columns of plain values")
    return Sample(path, tuple(names), tuple(columns), 1.0, None)


def first_bytes(path: Path) -> bytes:
    """Whole lines from a file's beginning."""
    try:
        with path.open("rb") as raw:
            source = Unzipped(raw)
            data = source.read(SAMPLE_BYTES)
            more = bool(source.read(1))
        refuse_other_kinds(data)
    except (GrowthError, FileKindError) as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return data[: data.rfind(b"\n") + 1] if more and b"\n" in data else data


def split_sample(path: Path, data: bytes, dialect: Dialect, *, header: bool = True) -> Sample | None:
    """The sample under a dialect; ``None`` where its first line cannot be split so."""
    text = TextFile(path, io.BytesIO(data))
    line, _ = text.header()
    if not line:
        raise DataError(f"{path}: no interactions; the file is empty")
    try:
        names = split_header(line, dialect, f"{path}:{text.line}")
    except TooManyColumnsError:
        raise
    except DataError:
        return None
    dialect = replace(dialect, width=len(names))
    if not header:
        text = TextFile(path, io.BytesIO(data))
    block = next(text.blocks({str(at): at for at in range(len(names))}, dialect), None)
    if block is None or not len(block.lines):
        raise DataError(f"{path}: no interactions; it holds one line alone")
    good = pa.array(~block.faults.bad)
    columns = tuple(block.columns[str(at)].filter(good) for at in range(len(names)))
    return Sample(path, tuple(names) if header else None, columns, float(np.mean(~block.faults.bad)), dialect)
