"""Times against Python's and pandas' own, and against exact arithmetic."""

from datetime import date
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.data.times import PER_UNIT, parse_times, utc_text
from fedmm_secure.errors import DataError
from tests.fedmm_secure.data.readers import time_of

AWARE = st.datetimes(
    min_value=pd.Timestamp("1678-01-01").to_pydatetime(), max_value=pd.Timestamp("2262-01-01").to_pydatetime()
)


def parsed(values, unit=None, kind=None):
    found = parse_times(pa.array(values, kind), unit, "time")
    return [int(value) if ok else None for value, ok in zip(found.value, found.ok, strict=True)]


@settings(max_examples=200, deadline=None)
@given(moments=st.lists(AWARE, min_size=1, max_size=20), offset=st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_texts_mean_what_pandas_says(moments, offset):
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    texts = [moment.isoformat() + zone for moment in moments]
    expected = [pd.Timestamp(moment).as_unit("ns").value - offset * 60 * 10**9 for moment in moments]
    assert parsed(texts) == expected
    assert parsed([text.replace("T", " ").replace(zone, zone.replace(":", "")) for text in texts]) == expected


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(st.lists(st.from_regex(r"[0-2]\d{3}-[01]\d-[0-3]\d([T ][0-2]\d(:[0-6]\d(:[0-6]\d(\.\d{1,10})?)?)?(Z| UTC|[+-]\d\d(:?\d\d)?)?)?", fullmatch=True), min_size=1))  # fmt: skip # noqa: E501
def test_texts_are_times_where_a_slow_reader_finds_one(texts):
    assert [value for value, text in zip(parsed(texts, "iso"), texts, strict=True) if len(text) < 29] == [
        time_of(text) for text in texts if len(text) < 29
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2020",
        "2020-01",
        "20200101",
        "2020-1-1",
        "2020-01-01T",
        "2020-01-01T24:00",
        "2020-01-01T10:60",
        "2020-02-30",
        "2019-02-29",
        "2020-01-01T10:00:60",
        "2020-01-01Z",
        "0000-01-01",
        "２０２０-01-01",
        "2020-01-01T10:00:00.",
        "yesterday",
        "2020-01-01T10:00:00+2",
        "2020-01-01T10:00:00+24:00",
        "2020-01-01T10:00:00.1234567891",
        "1e9",
        "12_000",
        "0x10",
    ],
)
def test_what_is_no_time_is_none(text):
    assert parsed([text, "2020-01-01"], "iso") == [None, pd.Timestamp("2020-01-01").value]


@settings(max_examples=200, deadline=None)
@given(
    unit=st.sampled_from(sorted(PER_UNIT)),
    numbers=st.lists(st.decimals(min_value=-(10**20), max_value=10**20, allow_nan=False, places=3), min_size=1),
)
def test_numbers_in_a_unit_are_exact(unit, numbers):
    expected = []
    for number in numbers:
        value = number * PER_UNIT[unit]
        fits = value == int(value) and abs(int(value)) < 2**63 - 2 * PER_UNIT[unit]
        expected.append(int(value) if fits else None)
    assert parsed([f"{number:f}" for number in numbers], unit) == expected


def test_nanoseconds_keep_their_order_beside_a_null():
    numbers = [1_600_000_000_000_000_000 + step for step in range(5)]
    assert parsed([None, *numbers], "ns", pa.int64()) == [None, *numbers]
    assert parsed([None, *numbers], None, pa.int64()) == [None, *numbers]
    assert parsed([str(number) for number in numbers], "ns") == numbers
    assert parsed([2**64 - 1, 5], "ns", pa.uint64()) == [None, 5]


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_types_say_their_unit_and_zone(unit, zone):
    moment = pd.Timestamp("2020-10-25T00:30:00Z").value
    kind = pa.timestamp(unit, zone)
    assert parsed(pa.array([moment // PER_UNIT[unit], None], pa.int64()).cast(kind)) == [moment, None]


def test_dates_decimals_and_floats():
    day = pd.Timestamp("2020-01-02").value
    assert parsed([date(2020, 1, 2), None], None, pa.date32()) == [day, None]
    assert parsed([date(2020, 1, 2), None], None, pa.date64()) == [day, None]
    assert parsed([Decimal("1.5")], "s", pa.decimal128(5, 1)) == [1_500_000_000]
    assert parsed([1.5, float("nan"), 1e300], "s", pa.float64()) == [1_500_000_000, None, None]
    assert parsed([1.5, 2.0], None, pa.float64()) == [None, 2]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array([1], pa.timestamp("s")), "ms"),
        (pa.array([1]), "iso"),
        (pa.array([1.0]), "iso"),
        (pa.array([True]), None),
        (pa.array([1], pa.duration("s")), None),
    ],
)
def test_types_that_hold_no_times_or_contradict_the_unit_are_refused(values, unit):
    with pytest.raises(DataError, match=r"^time holds"):
        parse_times(values, unit, "time")


@given(st.integers(-(2**62), 2**62))
def test_a_time_as_text_is_that_time(value):
    assert parsed([utc_text(value)]) == [value]
