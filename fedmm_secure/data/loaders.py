"""Read one market from a delimited text file (plain or gzip) or a Parquet file with a column mapping."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.lib
from pydantic import BaseModel, ConfigDict, Field

from fedmm_secure.data.catalogue import GZIP_MAGIC, is_shipped, read_catalogue
from fedmm_secure.data.market import FloatArray, IntArray, Market, build_market
from fedmm_secure.errors import DataError

BadRows = Literal["error", "skip"]


class MarketFile(BaseModel):
    """Where a market's rows are and which column means what.

    Columns are named by their header, or by position (from 0) where ``header`` is false.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    user: str | int = "userId"
    item: str | int = "itemId"
    rating: str | int | None = None
    time: str | int | None = None
    separator: str | None = None
    header: bool = True
    catalogue: Path | None = Field(None, description="file of public item ids, one a line; or `shipped:FOLDER/NAME`")

    def located(self, root: Path) -> MarketFile:
        """The same with its files below ``root``; a catalogue that comes with the package stays where it is."""
        catalogue = self.catalogue
        if catalogue is not None and not is_shipped(catalogue):
            catalogue = root / catalogue
        return self.model_copy(update={"path": root / self.path, "catalogue": catalogue})


def load_market(file: MarketFile, name: str, *, on_bad_rows: BadRows = "error") -> Market:
    """Load one market, and its catalogue where one is named.

    A row is bad when a mapped field is missing, the user or item id is empty, the rating is not a finite
    number, or the time is neither ISO 8601 nor a number.

    Raises:
        DataError: the file or its catalogue cannot be read, a mapped column is missing, a row is bad while
            ``on_bad_rows`` is ``"error"`` (message: file, line, what), or the market is too small.
    """
    path = file.path
    if not path.is_file():
        raise DataError(f"{path}: no such file (market {name})")
    catalogue = None if file.catalogue is None else read_catalogue(file.catalogue)
    rows = _read_parquet(file) if path.suffix == ".parquet" else _read_delimited(file)
    lines, columns, bad = rows
    bad_reason = dict(bad)
    ratings = _parse_ratings(columns["rating"], lines, bad_reason) if file.rating is not None else None
    times, calendar = None, False
    if file.time is not None:
        times, calendar = _parse_times(columns["time"], lines, bad_reason)
    for role in ("user", "item"):
        for line, value in zip(lines, columns[role], strict=True):
            if not value:
                bad_reason.setdefault(line, f"empty {role} id")
    if bad_reason and on_bad_rows == "error":
        line = min(bad_reason)
        rest = f" ({len(bad_reason)} bad rows in all; on_bad_rows: skip leaves them out)"
        raise DataError(f"{path}:{line}: {bad_reason[line]}{rest}")
    keep = np.array([line not in bad_reason for line in lines], dtype=bool)
    return build_market(
        name,
        [value for value, ok in zip(columns["user"], keep, strict=True) if ok],
        [value for value, ok in zip(columns["item"], keep, strict=True) if ok],
        None if ratings is None else ratings[keep],
        None if times is None else times[keep],
        calendar=calendar,
        skipped_rows=len(bad_reason),
        source=str(path),
        catalogue=catalogue,
    )


_Rows = tuple[list[int], dict[str, list[str]], dict[int, str]]


def _roles(file: MarketFile) -> dict[str, str | int]:
    mapped = {"user": file.user, "item": file.item, "rating": file.rating, "time": file.time}
    return {role: column for role, column in mapped.items() if column is not None}


def _read_delimited(file: MarketFile) -> _Rows:
    separator = file.separator or {".csv": ",", ".tsv": "\t"}.get(_bare_suffix(file.path), " ")
    reader = csv.reader(_text_lines(file.path), delimiter=separator)
    lines: list[int] = []
    columns: dict[str, list[str]] = {role: [] for role in _roles(file)}
    bad: dict[int, str] = {}
    positions: dict[str, int] | None = None
    width = 0
    try:
        for fields in reader:
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue  # blank line
            if positions is None:
                positions = _positions(file, fields)
                width = len(fields)
                if file.header:
                    continue
            if len(fields) != width:
                bad[reader.line_num] = f"{len(fields)} fields where {width} were expected"
                continue
            lines.append(reader.line_num)
            for role, position in positions.items():
                columns[role].append(fields[position].strip())
    except csv.Error as error:
        raise DataError(f"{file.path}:{reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file.path}: not UTF-8 text near line {reader.line_num + 1}; convert it first") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.path}: cannot be read: {error}") from error
    return lines, columns, bad


def _bare_suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _text_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        binary = gzip.GzipFile(fileobj=raw) if zipped else raw
        yield from io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")


def _positions(file: MarketFile, first: Sequence[str]) -> dict[str, int]:
    names = [name.strip() for name in first]
    found: dict[str, int] = {}
    for role, column in _roles(file).items():
        if isinstance(column, int):
            if not 0 <= column < len(names):
                raise DataError(f"{file.path}: {role} column {column} is out of range: the file has {len(names)}")
            found[role] = column
        elif not file.header:
            raise DataError(f"{file.path}: {role} column {column!r} needs a header; give a position, counted from 0")
        else:
            found[role] = _named(file, role, column, names)
    return found


def _named(file: MarketFile, role: str, column: str, names: Sequence[str]) -> int:
    if column in names:
        return names.index(column)
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(map(repr, names))}"
    raise DataError(f"{file.path}: no column {column!r} for {role}; {hint}")


def _read_parquet(file: MarketFile) -> _Rows:
    try:
        frame = pd.read_parquet(file.path)
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise DataError(f"{file.path}: cannot be read as Parquet: {error}") from error
    names = [str(name) for name in frame.columns]
    columns: dict[str, list[str]] = {}
    for role, column in _roles(file).items():
        position = column if isinstance(column, int) else _named(file, role, column, names)
        if not 0 <= position < len(names):
            raise DataError(f"{file.path}: {role} column {column} is out of range: the file has {len(names)}")
        values = frame.iloc[:, position]
        if pd.api.types.is_datetime64_any_dtype(values):
            text = values.dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
        else:
            text = values.astype(object).map(lambda value: "" if pd.isna(value) else str(value))
        columns[role] = text.fillna("").tolist()
    return list(range(1, len(frame) + 1)), columns, {}


def _parse_ratings(values: list[str], lines: list[int], bad: dict[int, str]) -> FloatArray:
    ratings = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), dtype=np.float64)
    for index in np.flatnonzero(~np.isfinite(ratings)):
        bad.setdefault(lines[index], f"rating {values[index]!r} is not a number")
    return ratings


def _parse_times(values: list[str], lines: list[int], bad: dict[int, str]) -> tuple[IntArray, bool]:
    """Nanoseconds since 1970 and True (ISO 8601), or ranks of plain numbers, in their own unit, and False."""
    series = pd.Series(values, dtype=object)
    numbers = np.asarray(pd.to_numeric(series, errors="coerce"), dtype=np.float64)
    calendar = not (len(numbers) and np.isfinite(numbers).mean() > 0.5)
    if not calendar:
        ok = np.isfinite(numbers)
        # ranks keep the order exactly, whatever the unit, and cannot overflow
        times = np.unique(np.where(ok, numbers, 0.0), return_inverse=True)[1].astype(np.int64)
    else:
        parsed = pd.to_datetime(series, errors="coerce", format="ISO8601", utc=True)
        ok = parsed.notna().to_numpy()
        times = np.asarray(parsed.dt.as_unit("ns").astype("int64"), dtype=np.int64)
    for index in np.flatnonzero(~ok):
        bad.setdefault(lines[index], f"time {values[index]!r} is neither ISO 8601 nor a number")
    return times, calendar
