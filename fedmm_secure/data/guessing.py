"""What a market's file seems to hold, from its first rows; where two answers fit, a question instead of a guess.

The rows are read by the reader that a run uses, so what is guessed is what will be read. A column is taken for users,
items, ratings or times by its name, and for times by its values; users and items are never told apart by values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedmm_secure.config import MarketFile
from fedmm_secure.config.choices import MISSING, TimeUnit
from fedmm_secure.data.loaders import SEPARATORS, default_separator, is_parquet
from fedmm_secure.data.questions import NO, NONE, YES, Answers, OpenQuestion, UndecidedError
from fedmm_secure.data.sample import Sample, first_bytes, parquet_sample, split_sample
from fedmm_secure.data.text import Dialect, refuse_duplicates
from fedmm_secure.data.times import PER_UNIT, is_text, parse_times
from fedmm_secure.errors import DataError

_FITS = 0.9  # share of a sample's rows that have to have one number of fields; the others are bad rows
_CERTAIN = 0.98  # share of a column's values
_EARLIEST, _LATEST = 631_152_000 * 10**9, 4_102_444_800 * 10**9  # 1990 and 2100: in these, a number fits one unit
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"
# by role, names without case and punctuation, the surest first
_NAMES: Mapping[str, Sequence[frozenset[str]]] = {
    "user": (
        frozenset({"user", "userid", "uid", "userkey", "usernumber"}),
        frozenset({"customer", "customerid", "member", "memberid", "reviewer", "reviewerid", "buyer", "buyerid"}),
        frozenset({"visitor", "visitorid", "account", "accountid", "client", "clientid", "shopper", "shopperid"}),
        frozenset({"kunde", "kundenr", "kundennummer", "nutzer", "utilisateur", "usuario", "cliente"}),
    ),
    "item": (
        frozenset({"item", "itemid", "iid", "itemkey", "itemnumber"}),
        frozenset({"parentasin"}),
        frozenset({"product", "productid", "asin", "sku", "article", "articleid", "gtin", "ean", "offer", "offerid"}),
        frozenset({"movie", "movieid", "book", "bookid", "isbn", "track", "trackid", "song", "songid", "artikel"}),
    ),
    "rating": (
        frozenset({"rating", "ratings", "rate", "stars", "overall", "starrating", "ratingvalue"}),
        frozenset({"score", "grade"}),
    ),
    "time": (
        frozenset({"time", "timestamp", "date", "datetime", "ts", "unixtime", "unixreviewtime", "tdat"}),
        frozenset({"eventtime", "createdat", "created", "reviewtime", "reviewdate", "ratedat", "purchasedate"}),
    ),
}
ROLES = tuple(_NAMES)
OPTIONAL = frozenset({"rating", "time"})


def guess_file(path: Path, answers: Answers) -> MarketFile:
    """How to read a market's file.

    Args:
        path: of the file; delimited text, plain or gzip, or Parquet.
        answers: by key of a question, what was answered.

    Raises:
        DataError: the file cannot be read, or an answer names no column.
        UndecidedError: two answers fit.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    table = parquet_sample(path) if is_parquet(path) else _text(path, answers)
    if table.names is not None:
        refuse_duplicates(path, table.names)
    roles: dict[str, str] = {}
    for role in ROLES:
        found = _column(table, role, answers, taken=frozenset(roles.values()))
        if found is not None:
            roles[role] = found
    unit: TimeUnit | None = None
    if "time" in roles:
        unit, kept = _time_unit(table, roles["time"], answers)
        if not kept:
            del roles["time"]
    named = {role: name if table.names is not None else int(name) for role, name in roles.items()}
    mapped = MarketFile.model_validate({"path": path, **named, "time_unit": unit})
    dialect = table.dialect
    if dialect is None:
        return mapped
    headed = table.names is not None
    return mapped.model_copy(
        update={
            "separator": None if dialect.separator == default_separator(path) else dialect.separator,
            "quoting": dialect.quoting,
            "header": headed,
            "width": None if headed else len(table.columns),
        }
    )


# -- how rows are split ------------------------------------------------------------------------------------------------


def _text(path: Path, answers: Answers) -> Sample:
    data = first_bytes(path)
    separators = answers.get("separator") or SEPARATORS
    tried = [split_sample(path, data, Dialect(separator, True, None)) for separator in separators]
    found = [table for table in tried if table is not None and (len(table.columns) > 1 and table.share >= _FITS)]
    unquoted = NO in answers.get("quoting", ())
    if unquoted or not found:
        tried = [split_sample(path, data, Dialect(separator, False, None)) for separator in separators]
        found = [table for table in tried if table is not None and len(table.columns) > 1 and table.share >= _FITS]
    if not found:
        start = data.split(b"\n", 1)[0][:100].decode("utf-8", "replace").rstrip("\r")
        two = "; separators of two characters, as in a::b, cannot be read" if "::" in start else ""
        raise DataError(f"{path}: no separator splits its first rows into equal numbers of fields ({start!r}){two}")
    table = _one_table(path, found)
    if not unquoted and YES not in answers.get("quoting", ()):
        _ask_about_quotes(path, data, table)
    return _with_header(path, data, table, answers)


def _one_table(path: Path, found: Sequence[Sample]) -> Sample:
    """The one separator under which most columns have names that say what they are."""

    def known(table: Sample) -> int:
        return sum(bool(_by_name(table, role)) for role in ("user", "item"))

    most = max(known(table) for table in found)
    found = [table for table in found if known(table) == most]
    usual = default_separator(path)
    separators = [table.dialect.separator for table in found if table.dialect is not None]
    if len(found) > 1 and usual not in separators:
        text = f"{path}: which character separates the fields? Several fit"
        raise UndecidedError(OpenQuestion("separator", text, tuple(separators)))
    return found[separators.index(usual)] if len(found) > 1 else found[0]


def _ask_about_quotes(path: Path, data: bytes, table: Sample) -> None:
    dialect = table.dialect
    if dialect is None or not dialect.quoting or table.share == 1.0 or b'"' not in data:
        return
    plain = split_sample(path, data, replace(dialect, quoting=False, width=None))
    if plain is not None and plain.share > table.share:
        text = (
            f'{path}: some quotation marks (") are not closed. Do they enclose fields (then those rows are broken), '
            "or are they part of the values?"
        )
        raise UndecidedError(OpenQuestion("quoting", text, (YES, NO)))


def _with_header(path: Path, data: bytes, table: Sample, answers: Answers) -> Sample:
    """The same table, without a header where the first line is a row like the others."""
    given = answers.get("header")
    if given:
        headed = YES in given
    elif any(_by_name(table, role) for role in ROLES):
        headed = True
    else:
        typed = [
            (_is_typed(pa.array([name]), where), _is_typed(column, where))
            for name, column in zip(table.labels, table.columns, strict=True)
            for where in (_where(table, name),)
        ]
        below = [first for first, rest in typed if rest]
        if not below or (any(below) and not all(below)):
            text = f"{path}: does the first line name the columns? It is {', '.join(table.labels)[:200]!r}"
            raise UndecidedError(OpenQuestion("header", text, (YES, NO)))
        headed = not all(below)
    if headed or table.dialect is None:
        return table
    found = split_sample(path, data, replace(table.dialect, width=None), header=False)
    assert found is not None  # the same line was split before
    return found


# -- columns -----------------------------------------------------------------------------------------------------------


def _column(table: Sample, role: str, answers: Answers, *, taken: frozenset[str]) -> str | None:
    """The label of a role's column; ``None`` where there is none."""
    given = answers.get(role)
    if given:
        named = [name for name in given if name in table.labels]
        if named:
            return named[0]
        if NONE in given and role in OPTIONAL:
            return None
        if role not in OPTIONAL:
            held = ", ".join(map(repr, table.labels))[:300]
            raise DataError(f"{table.path}: no column {' or '.join(map(repr, given))} for {role}; it has {held}")
    found = [label for label in _by_name(table, role) if label not in taken]
    if not found and role == "time":
        found = [label for label in _by_times(table) if label not in taken]
    if len(found) == 1:
        return found[0]
    if not found and role in OPTIONAL:
        return None
    left = tuple(found) or tuple(_id_columns(table, taken))
    if not left:
        raise DataError(
            f"{table.path}: no column is left for {role}; it has {', '.join(map(repr, table.labels))[:300]}"
        )
    what = {"user": "user ids", "item": "item ids", "rating": "ratings", "time": "times"}[role]
    shown = "" if table.names is not None else f" (positions from 0; the first row is {_first_row(table)!r})"
    text = f"{table.path}: which column holds {what}?{shown}"
    raise UndecidedError(OpenQuestion(role, text, left + ((NONE,) if role in OPTIONAL else ())))


def _by_name(table: Sample, role: str) -> list[str]:
    """Columns whose names say that they are it; of the surest names alone."""
    if table.names is None:
        return []
    plain = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in table.names}
    for names in _NAMES[role]:
        found = [name for name, short in plain.items() if short in names]
        if found:
            return found
    return []


def _by_times(table: Sample) -> list[str]:
    """Columns that hold nothing but calendar times."""
    return [
        label
        for label, column in zip(table.labels, table.columns, strict=True)
        if column is not None and _calendar_unit(column, _where(table, label)) is not False
    ]


def _id_columns(table: Sample, taken: frozenset[str]) -> list[str]:
    return [
        label
        for label, column in zip(table.labels, table.columns, strict=True)
        if label and label not in taken and column is not None and not pa.types.is_floating(column.type)
    ]


def _first_row(table: Sample) -> str:
    return " | ".join("" if column is None else str(column[0].as_py()) for column in table.columns)[:200]


def _present(column: pa.Array) -> pa.Array:
    """Values that are there."""
    column = column.drop_null()
    if not is_text(column.type):
        return column
    texts = pc.utf8_trim_whitespace(column)
    return texts.filter(pc.invert(pc.is_in(texts, value_set=pa.array(MISSING, texts.type))))


def _is_typed(column: pa.Array | None, where: str) -> bool:
    """Whether nearly all values are numbers or times."""
    if column is None:
        return False
    values = _present(column)
    if not is_text(values.type):
        return True
    if not len(values):
        return False
    number = pc.match_substring_regex(values, _NUMBER).to_numpy(zero_copy_only=False)
    return bool(np.mean(number) >= _CERTAIN or np.mean(parse_times(values, "iso", where).ok) >= _CERTAIN)


# -- times -------------------------------------------------------------------------------------------------------------


def _where(table: Sample, label: str) -> str:
    """How a message names a column that may hold times."""
    return f"{table.path}: time column {label!r}"


def _calendar_unit(column: pa.Array, where: str) -> TimeUnit | bool | None:
    """The unit of nearly all values as calendar times; ``None`` where they say it themselves, False where none fits."""
    values = _present(column)
    kind, types = values.type, pa.types
    if types.is_timestamp(kind) or types.is_date(kind):
        return None
    if not len(values) or not (is_text(kind) or types.is_integer(kind) or types.is_floating(kind)):
        return False
    if is_text(kind) and np.mean(parse_times(values, "iso", where).ok) >= _CERTAIN:
        return None
    for unit in PER_UNIT:
        found = parse_times(values, unit, where)
        if np.mean(found.ok & (found.value >= _EARLIEST) & (found.value < _LATEST)) >= _CERTAIN:
            return unit
    return False


def _time_unit(table: Sample, label: str, answers: Answers) -> tuple[TimeUnit | None, bool]:
    """The unit of the times of a column, and whether the column can be read as times at all."""
    column, where = table.columns[table.labels.index(label)], _where(table, label)
    if column is None:
        raise DataError(f"{table.path}: column {label!r} holds no plain values, so no times")
    given: list[TimeUnit] = [unit for unit in ("iso", *PER_UNIT, "number") if unit in answers.get("time_unit", ())]
    values = _present(column)
    temporal = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    if given and not temporal:
        return given[0], True
    found = _calendar_unit(column, where)
    if not isinstance(found, bool):
        return found, True
    if NONE in answers.get("time_unit", ()):
        return None, False
    whole = len(values) > 0 and bool(np.mean(parse_times(values, "number", where).ok) >= _CERTAIN)
    example = str(values[0].as_py())[:60] if len(values) else ""
    text = (
        f"{table.path}: column {label!r} holds {example!r}, neither ISO 8601 (YYYY-MM-DDThh:mm:ss) nor seconds, "
        "milli-, micro- or nanoseconds since 1970. What does it count? number: their order alone counts; none: leave "
        "the times out"
    )
    if not whole:
        text = (
            f"{table.path}: column {label!r} holds {example!r}, which is no ISO 8601 (YYYY-MM-DDThh:mm:ss): convert it "
            "first, or leave the times out"
        )
    raise UndecidedError(OpenQuestion("time_unit", text, ((*PER_UNIT, "number", NONE) if whole else (NONE,))))
