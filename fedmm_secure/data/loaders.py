"""Read one market from a delimited text file (plain or gzip) or a Parquet file with a column mapping.

Each row is read by itself, under the file's header and the configuration alone: no row changes how another is read.
With ``on_bad_rows: skip`` a bad row is left out, and nothing else happens. With ``error`` it refuses the whole file,
which tells whoever sees the refusal that there was one: that is outside every guarantee.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedmm_secure.config import MarketFile
from fedmm_secure.config.choices import LARGE_SHARE, MISSING, BadRows
from fedmm_secure.data.advice import advice_on_catalogue, advice_on_ids, advice_on_lone_rows, advice_on_people
from fedmm_secure.data.catalogue import read_catalogue
from fedmm_secure.data.columns import Encoded, global_codes, read_ids, read_ratings, read_times
from fedmm_secure.data.faults import BadRowsError
from fedmm_secure.data.market import FloatArray, IntArray, Market, Rows, index_market
from fedmm_secure.data.parquet import ParquetRows
from fedmm_secure.data.reading import Reading
from fedmm_secure.data.text import Block, Dialect, TextFile, refuse_duplicates, split_header
from fedmm_secure.data.times import utc_text
from fedmm_secure.errors import DataError

SEPARATORS = (",", "\t", ";", "|", " ")
_NAMED = {"\t": '"\\t"'}
_MAGNITUDES = (("s", 1e8, 1e11), ("ms", 1e11, 1e14), ("us", 1e14, 1e17), ("ns", 1e17, 1e19))


def load_market(
    file: MarketFile,
    name: str,
    *,
    on_bad_rows: BadRows = "error",
    missing: Sequence[str] = MISSING,
    large_share: float = LARGE_SHARE,
) -> Market:
    """Load one market, and its catalogue where one is named.

    A row is bad when its quotation marks or its number of fields are wrong, a mapped field is missing, the rating is
    not a finite number, or the time is none.

    Args:
        file: where and how.
        name: of the market.
        on_bad_rows: refuse the file, or leave them out.
        missing: spellings of a field in which there is nothing.
        large_share: of all rows; an id that holds more is named in ``Market.advice``.

    Raises:
        DataError: the file or its catalogue cannot be read, a mapped column is missing, a row is bad while
            ``on_bad_rows`` is ``"error"`` (message: file, line, what), or the market is too small.
    """
    catalogue = None if file.catalogue is None else read_catalogue(file.catalogue)
    found, rows, header = _read(file, name, on_bad_rows, missing)
    market = index_market(name, rows, source=str(file.path), catalogue=catalogue)
    reading = found.reading(rows, market, header=header)
    told = tuple(_advice(file, rows, found, market, large_share))
    return replace(market, reading=reading, users=str(file.user), advice=told)


def load_rows(file: MarketFile, name: str, *, on_bad_rows: BadRows, missing: Sequence[str]) -> Rows:
    """Interactions of a file, read as ``load_market`` reads them; there may be few.

    Raises:
        DataError: as ``load_market``, but for the market's size.
    """
    return _read(file, name, on_bad_rows, missing)[1]


def _read(file: MarketFile, name: str, on_bad_rows: BadRows, missing: Sequence[str]) -> tuple[_Found, Rows, int]:
    """What a file's blocks come to, its good rows, and how many lines are header."""
    path = file.path
    if not path.is_file():
        raise DataError(f"{path}: no such file (market {name})")
    found = _Found()
    with ExitStack() as stack:
        source = _open(file, name, stack)
        for block in source.blocks:
            found.add(block, file, missing, numbers=on_bad_rows == "error")
            if source.text is not None:
                found.lines = source.text.line
        found.blank += source.blank
        if not found.n_good and source.text is not None:
            source.text.refuse_other_kinds()
    if found.n_bad and on_bad_rows == "error":
        assert found.first_bad is not None
        line, fault = found.first_bad
        raise BadRowsError(f"{path}:{line}: {fault}", found.n_bad, found.n_good)
    if found.first_number is not None and found.first_iso is not None:
        raise DataError(
            f"{path}:{max(found.first_number, found.first_iso)}: a time that is a number in one row and ISO 8601 in "
            f"another, line {min(found.first_number, found.first_iso)}; set data.markets.{name}.time_unit"
        )
    if not found.n_good:
        why = f"{path}:{found.first_bad[0]}: {found.first_bad[1]}" if found.first_bad else "it has no rows"
        raise DataError(f"{path}: no interactions ({why})")
    calendar = file.time is not None and found.first_number is None
    return found, replace(found.rows(file), calendar=calendar), source.header


@dataclass
class _Source:
    """An open file: its blocks, and what comes before them."""

    blocks: Iterator[Block]
    header: int = 0
    blank: int = 0
    text: TextFile | None = None


@dataclass
class _Found:
    """What a file's blocks come to."""

    lines: int = 0
    blank: int = 0
    n_good: int = 0
    n_bad: int = 0
    n_missing: int = 0
    first_bad: tuple[int, str] | None = None
    first_number: int | None = None
    first_iso: int | None = None
    widths: Counter[int] = field(default_factory=Counter)
    users: list[Encoded] = field(default_factory=list)
    items: list[Encoded] = field(default_factory=list)
    ratings: list[FloatArray] = field(default_factory=list)
    times: list[IntArray] = field(default_factory=list)

    def add(self, block: Block, file: MarketFile, missing: Sequence[str], *, numbers: bool) -> None:
        """Read a block's columns, and keep its good rows."""
        faults = block.faults
        named = {role: f"{file.path}: {role} column {column!r}" for role, column in file.roles.items()}
        ids = {role: read_ids(block.columns[role], role, faults, missing, named[role]) for role in ("user", "item")}
        if file.rating is not None:
            ratings = read_ratings(block.columns["rating"], faults, missing, named["rating"])
        if file.time is not None:
            times = read_times(block.columns["time"], file.time_unit, faults, missing, named["time"], numbers=numbers)
        good = ~faults.bad
        for kept, role in ((self.users, "user"), (self.items, "item")):
            kept.append(Encoded(ids[role].values, ids[role].codes[good]))
        if file.rating is not None:
            self.ratings.append(ratings[good])
        if file.time is not None:
            self.times.append(times.value[good])
            self.first_number = _earlier(self.first_number, block.lines[good & times.number])
            self.first_iso = _earlier(self.first_iso, block.lines[good & ~times.number])
        if self.first_bad is None and faults.first is not None:
            self.first_bad = (int(block.lines[faults.first[0]]), faults.first[1])
        self.n_good += int(good.sum())
        self.n_bad += int(faults.bad.sum())
        self.n_missing += int(faults.missing.sum())
        self.widths[block.fields] += len(block.lines)
        self.blank += block.blank
        self.lines += len(block.lines)

    def rows(self, file: MarketFile) -> Rows:
        """The good rows, in the file's order; they are no longer here after."""
        user_ids, user = global_codes(self.users)
        item_ids, item = global_codes(self.items)
        rating = None if file.rating is None else np.concatenate(self.ratings)
        time = None if file.time is None else np.concatenate(self.times)
        self.ratings.clear()
        self.times.clear()
        return Rows(user_ids, item_ids, user, item, rating, time)

    def reading(self, rows: Rows, market: Market, *, header: int) -> Reading:
        """The record of them all."""
        first, last = None, None
        if rows.time is not None:
            shown = utc_text if market.calendar else str
            first, last = shown(int(rows.time.min())), shown(int(rows.time.max()))
        return Reading(
            lines=self.lines,
            header=header,
            blank=self.blank,
            bad=self.n_bad,
            missing=self.n_missing,
            merged=self.n_good - market.n_rows,
            rows=market.n_rows,
            users=market.n_users,
            items=len(rows.item_ids),
            largest_user=int(np.bincount(rows.user).max()),
            first=first,
            last=last,
        )


def _earlier(known: int | None, lines: IntArray) -> int | None:
    return int(lines[0]) if known is None and len(lines) else known


def _advice(file: MarketFile, rows: Rows, found: _Found, market: Market, large_share: float) -> Iterator[str]:
    yield from advice_on_ids(rows, large_share)
    yield from advice_on_people(rows)
    if file.time is None and file.rating is None:  # with them, what is no row is a bad one
        yield from advice_on_lone_rows(rows)
    if market.catalogue is not None:
        yield from advice_on_catalogue(market, market.catalogue)
    if rows.time is not None and file.time_unit is None and found.first_number is not None:
        middle = float(np.abs(np.median(rows.time)))
        unit = next((unit for unit, low, high in _MAGNITUDES if low <= middle < high), "number")
        yield f"times are numbers without a unit: their order alone counts; set time_unit: {unit}, if they are that"
    if not file.header and file.width is None and found.widths:
        yield f"how many fields a row has is not checked; set width: {found.widths.most_common(1)[0][0]}"


# -- columns -----------------------------------------------------------------------------------------------------------


def _open(file: MarketFile, name: str, stack: ExitStack) -> _Source:
    """Open a file and find its columns."""
    if is_parquet(file.path):
        table = ParquetRows(file.path)
        return _Source(table.blocks(_positions(file, name, table.names, None)))
    try:
        raw = stack.enter_context(file.path.open("rb"))
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror}") from error
    text = TextFile(file.path, raw)
    dialect = Dialect(file.separator or default_separator(file.path), file.quoting, file.width)
    if not file.header:
        for role, column in file.roles.items():
            if isinstance(column, str):
                raise DataError(
                    f"{file.path}: {role} column {column!r} needs a header; give a position, counted from 0"
                )
            _check_position(file, role, column, file.width)
        return _Source(text.blocks({role: int(column) for role, column in file.roles.items()}, dialect), text=text)
    line, blank = text.header()
    if not line:
        raise DataError(f"{file.path}: no interactions; the file has no header either")
    where = f"{file.path}:{text.line}"
    names = split_header(line, dialect, where)
    if any(isinstance(column, str) for column in file.roles.values()):
        refuse_duplicates(where, names)
    positions = _positions(file, name, names, line)
    blocks = text.blocks(positions, replace(dialect, width=len(names)), line)
    return _Source(blocks, header=1, blank=blank, text=text)


def is_parquet(path: Path) -> bool:
    """Whether a file is read as Parquet, by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def default_separator(path: Path) -> str:
    """What separates the fields of a text file, by its name."""
    suffix = path.suffix.lower()
    bare = Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
    return {".csv": ",", ".tsv": "\t"}.get(bare, " ")


def _positions(file: MarketFile, market: str, names: Sequence[str], header: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for role, column in file.roles.items():
        if isinstance(column, int):
            _check_position(file, role, column, len(names))
            found[role] = column
        elif column in names:
            found[role] = names.index(column)
        else:
            raise DataError(f"{file.path}: no column {column!r} for {role}; {_hint(file, market, role, names, header)}")
    if len(set(found.values())) < len(found):
        raise DataError(f"{file.path}: two of {', '.join(found)} are the same column")
    return found


def _check_position(file: MarketFile, role: str, column: int, width: int | None) -> None:
    if column < 0 or (width is not None and column >= width):
        has = "" if width is None else f": the file has {width}"
        raise DataError(f"{file.path}: {role} column {column} is out of range{has}")


def _hint(file: MarketFile, market: str, role: str, names: Sequence[str], header: str | None) -> str:
    """What the header holds, and which key of the configuration is likely wrong."""
    key = f"data.markets.{market}"
    wanted = {column for column in file.roles.values() if isinstance(column, str)}
    if header is not None and not wanted & set(names):
        for separator in SEPARATORS:
            others = [name.strip().strip('"') for name in header.split(separator)]
            if len(others) > len(names) and wanted & set(others):
                shown = _NAMED.get(separator, f'"{separator}"')
                return f"the header is {header[:200]!r}: set {key}.separator: {shown}"
    held = f"the header holds {', '.join(map(repr, names))[:300]}"
    column = str(file.roles[role])
    lowered = {name.lower(): name for name in names if name}
    near = difflib.get_close_matches(column.lower(), lowered, n=1)
    if near:
        return f"did you mean {lowered[near[0]]!r}? set {key}.{role}: {lowered[near[0]]} ({held})"
    return f"{held}; set {key}.{role}"
