"""Times as nanoseconds since 1970 in UTC: of ISO 8601 texts, of numbers in a unit, of Parquet's own types.

Every value is read by itself: what a number means comes from the column's type or from the configuration, never from
its size and never from other rows. Nothing passes through a float that was not one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedmm_secure.config.choices import TimeUnit
from fedmm_secure.data.faults import Mask
from fedmm_secure.errors import DataError
from privacy.arrays import IntArray

PER_UNIT: dict[TimeUnit, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DAY_SECONDS = 86_400
REACH = "outside 1677-09-22 to 2262-04-10, which nanoseconds in 64 bits reach"
_LARGEST = 2**63 - 1
REACH_SECONDS = _LARGEST // 10**9 - 1  # to either side of 1970
_WIDTH = 48  # longest text of a time
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
_DAYS_IN = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@dataclass(frozen=True)
class ParsedTimes:
    """Values of a column, ``(n,)`` each.

    Attributes:
        value: nanoseconds since 1970 in UTC, or a plain number.
        ok: whether there is one.
        number: whether it is a plain number, whose order alone means something.
        outside: not ``ok``, for it is a time that 64 bits of nanoseconds do not reach.
    """

    value: IntArray
    ok: Mask
    number: Mask
    outside: Mask


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def utc_text(nanoseconds: int) -> str:
    """A time as text, to the second, or as exactly as it is."""
    seconds, rest = divmod(nanoseconds, 10**9)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"


def parse_times(values: pa.Array, unit: TimeUnit | None, where: str) -> ParsedTimes:
    """Times of a column's values, in which a null is not ``ok``.

    Args:
        values: ``(n,)``, of any type.
        unit: as declared; ``None`` takes ISO 8601 texts and Parquet's own types as times, and numbers as plain numbers.
        where: names the column.

    Raises:
        DataError: the column's type holds no times, or contradicts the declared unit.
    """
    kind = values.type
    types = pa.types
    if types.is_null(kind):
        none = np.zeros(len(values), dtype=bool)
        return ParsedTimes(np.zeros(len(values), dtype=np.int64), none, none, none)
    if types.is_timestamp(kind) or types.is_date(kind):
        if unit is not None:
            raise DataError(f"{where} holds {kind}, which says its unit itself; leave time_unit out")
        return _typed(values)
    if types.is_integer(kind):
        if unit == "iso":
            raise DataError(f"{where} holds {kind}, not ISO 8601; set time_unit to s, ms, us, ns or number")
        return _of_integers(values, unit)
    if types.is_floating(kind):
        if unit == "iso":
            raise DataError(f"{where} holds {kind}, not ISO 8601; set time_unit to s, ms, us, ns or number")
        return _of_floats(values, unit)
    if types.is_decimal(kind):
        return _of_texts(values.cast(pa.string()), unit)
    if is_text(kind):
        return _of_texts(values, unit)
    raise DataError(f"{where} holds {kind}, which is no time; write it as a timestamp, or leave the times out")


# -- types that say what they are --------------------------------------------------------------------------------------


def _typed(values: pa.Array) -> ParsedTimes:
    kind = values.type
    if pa.types.is_date32(kind):
        numbers, per = values.cast(pa.int32()).cast(pa.int64()), DAY_SECONDS * 10**9
    elif pa.types.is_date64(kind):
        numbers, per = values.cast(pa.int64()), PER_UNIT["ms"]
    else:  # with a zone or without, the integer counts from 1970 in UTC
        numbers, per = values.cast(pa.int64()), PER_UNIT[kind.unit]
    present = _mask(numbers.is_valid())
    return _scaled(_numpy(numbers), present, per)


def _of_integers(values: pa.Array, unit: TimeUnit | None) -> ParsedTimes:
    present = _mask(values.is_valid())
    fits = present
    if pa.types.is_uint64(values.type):
        fits = present & _mask(pc.less_equal(values, pa.scalar(_LARGEST, pa.uint64())).fill_null(False))
        values = pc.if_else(pa.array(fits), values, pa.scalar(0, pa.uint64()))
    numbers = _numpy(values.cast(pa.int64()))
    if unit in (None, "number"):
        return ParsedTimes(numbers, fits, fits, present & ~fits)
    found = _scaled(numbers, fits, PER_UNIT[unit])
    return ParsedTimes(found.value, found.ok, found.number, found.outside | (present & ~fits))


def _of_floats(values: pa.Array, unit: TimeUnit | None) -> ParsedTimes:
    floats = np.asarray(values.cast(pa.float64()).fill_null(np.nan), dtype=np.float64)
    finite = np.isfinite(floats)
    whole = np.floor(np.where(finite, floats, 0.0))
    fits = finite & (np.abs(whole) < 2.0**63)
    numbers = np.where(fits, whole, 0.0).astype(np.int64)
    part = np.where(fits, floats - whole, 0.0)
    if unit in (None, "number"):
        ok = fits & (part == 0)
        return ParsedTimes(numbers, ok, ok, finite & ~fits)
    per = PER_UNIT[unit]
    found = _scaled(numbers, fits, per, np.floor(part * per).astype(np.int64))
    return ParsedTimes(found.value, found.ok, found.number, found.outside | (finite & ~fits))


def _scaled(numbers: IntArray, present: Mask, per: int, rest: IntArray | None = None) -> ParsedTimes:
    """``numbers * per + rest``, with ``rest`` from 0 to below ``per``."""
    limit = _LARGEST // per - 1
    inside = (numbers >= -limit) & (numbers <= limit)
    ok = present & inside
    value = np.where(ok, numbers, 0) * per
    if rest is not None:
        value += np.where(ok, rest, 0)
    return ParsedTimes(value, ok, np.zeros(len(ok), dtype=bool), present & ~inside)


# -- texts -------------------------------------------------------------------------------------------------------------


def _of_texts(values: pa.Array, unit: TimeUnit | None) -> ParsedTimes:
    values = pc.ascii_trim_whitespace(values.fill_null(""))
    if unit == "iso":
        return _iso(values)
    if unit is not None:
        return _numbers(values, unit)
    iso, plain = _iso(values), _numbers(values, "number")
    value = np.where(iso.ok, iso.value, plain.value)
    return ParsedTimes(value, iso.ok | plain.ok, plain.ok, iso.outside | plain.outside)


def _numbers(values: pa.Array, unit: TimeUnit) -> ParsedTimes:
    """Plain decimal numbers: a minus, digits, a point and digits; exact, as far as the unit goes."""
    shape = _mask(pc.match_substring_regex(values, r"^-?[0-9]+(\.[0-9]+)?$"))
    parts = pc.split_pattern(pc.if_else(pa.array(shape), values, "0"), ".", max_splits=1)
    flat, starts = parts.flatten(), _numpy(parts.offsets)
    whole = flat.take(pa.array(starts[:-1]))
    has_rest = np.diff(starts) == 2
    minus = _mask(pc.starts_with(whole, "-"))
    digits = pc.ascii_ltrim(pc.ascii_ltrim(whole, "-"), "0")
    length = _numpy(pc.binary_length(digits))
    fits = (length < 19) | ((length == 19) & _mask(pc.less_equal(digits, str(_LARGEST))))
    numbers = _numpy(pc.if_else(pa.array(fits & (length > 0)), digits, "0").cast(pa.int64()))
    numbers = np.where(minus, -numbers, numbers)
    per = PER_UNIT.get(unit, 1)
    places = len(str(per)) - 1
    rest = np.zeros(len(values), dtype=np.int64)
    exact = np.ones(len(values), dtype=bool)
    if has_rest.any():
        fraction = pc.ascii_rtrim(flat.take(pa.array(starts[:-1][has_rest] + 1)), "0")
        short = _numpy(pc.binary_length(fraction)) <= places
        exact[has_rest] = short
        if places:
            padded = pc.ascii_rpad(pc.if_else(pa.array(short), fraction, ""), places, "0")
            rest[has_rest] = _numpy(padded.cast(pa.int64()))
    back = minus & (rest > 0)  # -1.25 is -2 + 0.75
    numbers, rest = np.where(back, numbers - 1, numbers), np.where(back, per - rest, rest)
    present = shape & exact & fits
    if unit == "number":
        return ParsedTimes(numbers, present, present, shape & ~fits)
    found = _scaled(numbers, present, per, rest)
    return ParsedTimes(found.value, found.ok, found.number, found.outside | (shape & ~fits))


def _iso(values: pa.Array) -> ParsedTimes:
    """``YYYY-MM-DD``, then ``T`` or a blank and ``hh``, ``hh:mm``, ``hh:mm:ss`` or ``hh:mm:ss.f…``, then a zone."""
    text, length = _matrix(values)
    digit = text - np.uint8(ord("0"))  # wraps where there is none, which ``is_digit`` says
    is_digit = (text >= ord("0")) & (text <= ord("9"))
    rows = np.arange(len(text))

    def number(start: int, stop: int) -> IntArray:
        found = np.zeros(len(text), dtype=np.int64)
        for column in range(start, stop):
            found = found * 10 + digit[:, column]
        return found

    def digits(*columns: int) -> Mask:
        return np.asarray(is_digit[:, list(columns)].all(axis=1))

    def at_end(back: int) -> NDArray[np.uint8]:
        return np.asarray(text[rows, np.maximum(length - back, 0)])

    ok = (length >= 10) & digits(0, 1, 2, 3, 5, 6, 8, 9) & (text[:, 4] == ord("-")) & (text[:, 7] == ord("-"))
    zone_at, offset, zone_ok = _zones(text, length, at_end)
    timed = length > 10
    body = np.where(timed, zone_at, length)
    ok &= ~timed | (np.isin(text[:, 10], np.frombuffer(b"Tt ", dtype=np.uint8)) & digits(11, 12) & zone_ok)
    ok &= np.isin(body, (10, 13, 16, 19)) | (body > 20)
    ok &= (body != 10) | ~timed
    ok &= (body < 16) | ((text[:, 13] == ord(":")) & digits(14, 15))
    ok &= (body < 19) | ((text[:, 16] == ord(":")) & digits(17, 18))
    fraction = np.zeros(len(text), dtype=np.int64)
    finer = body > 20
    if finer.any():
        ok &= ~finer | np.isin(text[:, 19], np.frombuffer(b".,", dtype=np.uint8))
        for place in range(_WIDTH - 20):
            within = finer & (20 + place < body)
            ok &= ~within | is_digit[:, 20 + place]
            if place < 9:
                fraction += np.where(within, digit[:, 20 + place].astype(np.int64) * 10 ** (8 - place), 0)
            else:  # finer than nanoseconds: only zeros say nothing that would be lost
                ok &= ~within | (text[:, 20 + place] == ord("0"))
    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    hour, minute, second = (np.where(body >= end, part, 0) for part, end in ((hour, 13), (minute, 16), (second, 19)))
    ok &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    month = np.where(ok, month, 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    ok &= day <= _DAYS_IN[month - 1] + (leap & (month == 2))
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719_162
    days += _DAYS_BEFORE[month - 1] + (leap & (month > 2)) + day - 1
    seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset
    return _scaled(np.where(ok, seconds, 0), ok, 10**9, np.where(ok, fraction, 0))


def _zones(
    text: NDArray[np.uint8], length: IntArray, at_end: Callable[[int], NDArray[np.uint8]]
) -> tuple[IntArray, IntArray, Mask]:
    """Where the zone of each text begins, how many seconds it is ahead of UTC, and whether it is a zone."""
    rows = np.arange(len(text))
    width = np.zeros(len(text), dtype=np.int64)
    last = at_end(1)
    width[(last == ord("Z")) | (last == ord("z"))] = 1
    utc = (at_end(3) == ord("U")) & (at_end(2) == ord("T")) & (last == ord("C"))
    width[utc] = 3
    for back in (3, 5, 6):  # +hh, +hhmm, +hh:mm
        sign = at_end(back)
        found = (width == 0) & (length - back >= 13) & ((sign == ord("+")) | (sign == ord("-")))
        if back == 6:
            found &= at_end(3) == ord(":")
        width[found] = back
    start = length - width
    ok = np.ones(len(text), dtype=bool)
    offset = np.zeros(len(text), dtype=np.int64)
    numeric = (width >= 3) & ~utc
    if numeric.any():

        def digit(step: NDArray[np.int64]) -> IntArray:
            found = text[rows, np.minimum(start + step, text.shape[1] - 1)].astype(np.int64)
            return np.asarray(found - ord("0"))

        one = np.ones(len(text), dtype=np.int64)
        minutes_at = np.where(width == 6, 4, 3)
        parts = [digit(one), digit(one * 2), digit(minutes_at), digit(minutes_at + 1)]
        has_minutes = width > 3
        valid = (parts[0] >= 0) & (parts[0] <= 9) & (parts[1] >= 0) & (parts[1] <= 9)
        valid &= ~has_minutes | ((parts[2] >= 0) & (parts[2] <= 5) & (parts[3] >= 0) & (parts[3] <= 9))
        hours, minutes = parts[0] * 10 + parts[1], np.where(has_minutes, parts[2] * 10 + parts[3], 0)
        valid &= hours <= 23
        sign = np.where(text[rows, np.minimum(start, text.shape[1] - 1)] == ord("-"), -1, 1)
        offset = np.where(numeric & valid, sign * (hours * 3600 + minutes * 60), 0)
        ok &= ~numeric | valid
    blank = (width > 0) & (start > 13) & (text[rows, np.maximum(start - 1, 0)] == ord(" "))
    return start - blank, offset, ok


def _matrix(values: pa.Array) -> tuple[NDArray[np.uint8], IntArray]:
    """Texts as bytes ``(n, _WIDTH)``, zeros behind; a longer one, which is no time, as an empty one; and lengths."""
    values = values.cast(pa.large_string())
    n = len(values)
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset : values.offset + n + 1]
    raw = values.buffers()[2]
    data = np.frombuffer(raw, dtype=np.uint8) if raw is not None and raw.size else np.zeros(1, dtype=np.uint8)
    length = np.diff(offsets)
    length = np.where(length > _WIDTH, 0, length)
    widest = int(length.max(initial=0))
    text = np.zeros((n, _WIDTH), dtype=np.uint8)
    column = np.arange(widest)
    index = np.minimum(offsets[:-1, None] + column, len(data) - 1)
    text[:, :widest] = np.where(column < length[:, None], data[index], 0)
    return text, length.astype(np.int64)


def _mask(values: pa.Array) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _numpy(values: pa.Array) -> IntArray:
    return np.asarray(values.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
