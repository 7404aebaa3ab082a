"""Ids and ratings of a column, exactly as they are written; nothing is guessed, and nothing passes through a float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedmm_secure.config.choices import TimeUnit
from fedmm_secure.data.faults import Faults, Mask
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.times import PER_UNIT, REACH, ParsedTimes, is_text, parse_times
from fedmm_secure.errors import DataError

_EXPECTED: dict[TimeUnit | None, str] = {
    None: "neither ISO 8601 (YYYY-MM-DDThh:mm:ss) nor a whole number",
    "iso": "not ISO 8601 (YYYY-MM-DDThh:mm:ss)",
    "number": "not a whole number",
    **{unit: f"not a plain number of {unit}, to the nanosecond" for unit in PER_UNIT},
}
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Encoded:
    """A column as its distinct values and, for each row, which; -1 for a null.

    Attributes:
        values: ``(n_values,)``.
        codes: ``(n,)``.
    """

    values: pa.Array
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, column: pa.Array) -> Encoded:
        """The distinct values of a column, and which of them each row has."""
        if pa.types.is_dictionary(column.type):  # as the file has it: rows may be few, unused words many
            picked = cls.of(column.indices)
            inner = cls.of(column.dictionary.take(picked.values))
            return cls(inner.values, np.append(inner.codes, np.int32(-1))[picked.codes])
        if pa.types.is_null(column.type):
            return cls(column.slice(0, 0), np.full(len(column), -1, dtype=np.int32))
        found = column.dictionary_encode()
        codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return cls(found.dictionary, np.asarray(codes, dtype=np.int32))

    def rows(self, of_values: Mask, *, null: bool) -> Mask:
        """For each row, what is said of its value, ``(n_values,)``; ``null`` for nulls."""
        return np.asarray(np.append(of_values, null)[self.codes])

    def text(self, row: int) -> str:
        """What a message shows of a row's value."""
        code = int(self.codes[row])
        if code < 0:
            return ""
        if pa.types.is_temporal(self.values.type):  # Python's own types do not reach as far
            return f"{self.values[code].value} ({self.values.type})"
        return str(self.values[code].as_py())[:100]


def read_ids(column: pa.Array, role: str, faults: Faults, missing: Sequence[str], where: str) -> Encoded:
    """Ids of users or items as texts; rows in which there is none are bad.

    Raises:
        DataError: the column's type holds no ids.
    """
    found = Encoded.of(column)
    kind, types = found.values.type, pa.types
    problem = np.zeros(len(found.values), dtype=bool)
    if types.is_null(kind):
        texts = pa.array([], pa.string())
    elif is_text(kind):
        texts = found.values
    elif types.is_integer(kind) or types.is_decimal(kind):
        texts = found.values.cast(pa.string())
    elif types.is_binary(kind) or types.is_large_binary(kind):
        texts, problem = _decoded(found.values)
    elif types.is_floating(kind):
        raise DataError(f"{where} holds {kind}, which keeps no id exactly; store ids as integers or texts")
    else:
        raise DataError(f"{where} holds {kind}, which is no id; store ids as integers or texts")
    found = Encoded(texts, found.codes)
    absent = _mask(pc.is_in(pc.utf8_trim_whitespace(texts), value_set=pa.array(missing, texts.type)))
    faults.mark(found.rows(problem, null=False), lambda _: f"{role} id is not UTF-8 text")
    faults.mark(found.rows(absent, null=True), lambda row: _none(f"{role} id", found.text(row)), missing=True)
    return found


def read_ratings(column: pa.Array, faults: Faults, missing: Sequence[str], where: str) -> FloatArray:
    """Ratings ``(n,)``; rows in which there is none, or no finite number, are bad.

    Raises:
        DataError: the column's type holds no numbers.
    """
    found = Encoded.of(column)
    kind, types = found.values.type, pa.types
    if is_text(kind):
        texts = pc.utf8_trim_whitespace(found.values)
        shape = pc.match_substring_regex(texts, _NUMBER)
        numbers = pc.utf8_ltrim(pc.if_else(shape, texts, "nan"), "+").cast(pa.float64())
        absent = _mask(pc.is_in(texts, value_set=pa.array(missing, texts.type)))
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        numbers = found.values.cast(pa.float64(), safe=False)
        absent = np.zeros(len(numbers), dtype=bool)
    else:
        raise DataError(f"{where} holds {kind}, which is no number")
    ratings = np.append(np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64), np.nan)[found.codes]
    faults.mark(found.rows(absent, null=True), lambda row: _none("rating", found.text(row)), missing=True)
    faults.mark(~np.isfinite(ratings), lambda row: f"rating {found.text(row)!r} is not a number")
    return np.asarray(ratings)


def read_times(
    column: pa.Array, unit: TimeUnit | None, faults: Faults, missing: Sequence[str], where: str, *, numbers: bool
) -> ParsedTimes:
    """Times ``(n,)``; rows in which there is none are bad.

    Args:
        column: ``(n,)``.
        unit: as declared.
        faults: of the rows.
        missing: spellings of nothing.
        where: names the column.
        numbers: whether texts may be plain numbers although no unit is declared.

    Raises:
        DataError: the column's type holds no times.
    """
    found = Encoded.of(column)
    parsed = parse_times(found.values, unit, where)
    textual = is_text(found.values.type)
    absent = np.zeros(len(found.values), dtype=bool)
    if textual:
        texts = pc.utf8_trim_whitespace(found.values)
        absent = _mask(pc.is_in(texts, value_set=pa.array(missing, texts.type)))
    faults.mark(found.rows(absent, null=True), lambda row: _none("time", found.text(row)), missing=True)
    faults.mark(
        found.rows(parsed.outside, null=False),
        lambda row: f"time {found.text(row)!r} is {REACH}",
    )
    faults.mark(found.rows(~parsed.ok, null=True), lambda row: f"time {found.text(row)!r} is {_EXPECTED[unit]}")
    if textual and unit is None and not numbers:
        faults.mark(
            found.rows(parsed.number, null=False),
            lambda row: f"time {found.text(row)!r} is a number: on_bad_rows: skip needs its time_unit",
        )
    value = np.append(parsed.value, np.int64(0))[found.codes]
    ok, number, outside = (found.rows(mask, null=False) for mask in (parsed.ok, parsed.number, parsed.outside))
    return ParsedTimes(value, ok, number, outside)


def global_codes(parts: list[Encoded]) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """Distinct ids of some columns one after the other, in the order of their code points, and which each row has.

    The list is empty after: of a large file, this is most of what is in memory.
    """
    values = pa.concat_arrays([part.values.cast(pa.large_string()) for part in parts]).dictionary_encode()
    order = pc.sort_indices(values.dictionary)  # of UTF-8 bytes: the order of code points
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    local = rank[values.indices.to_numpy()]
    codes = np.empty(sum(len(part.codes) for part in parts), dtype=np.int32)
    start = row = 0
    for part in parts:
        codes[row : row + len(part.codes)] = local[start : start + len(part.values)][part.codes]
        start, row = start + len(part.values), row + len(part.codes)
    parts.clear()
    used = np.bincount(codes, minlength=len(order)) > 0
    ids = values.dictionary.take(order).filter(pa.array(used)).to_numpy(zero_copy_only=False)
    return np.asarray(ids, dtype=object), (np.cumsum(used, dtype=np.int32) - np.int32(1))[codes]


def _decoded(values: pa.Array) -> tuple[pa.Array, Mask]:
    """Texts of bytes, and which are none."""
    texts: list[str] = []
    problem = np.zeros(len(values), dtype=bool)
    for index, value in enumerate(values.to_pylist()):
        try:
            texts.append(value.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append("?")
            problem[index] = True
    return pa.array(texts, pa.string()), problem


def _none(what: str, text: str) -> str:
    return f"empty {what}" if not text.strip() else f"no {what}: {text!r} says that it is missing (data.missing)"


def _mask(values: pa.Array) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)
