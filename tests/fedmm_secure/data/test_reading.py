"""Reading against a slow reader, against pandas and pyarrow, and on files that other readers read wrong."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli import main
from experiments.runs.configuration import resolve
from fedmm_secure.config import MarketFile
from fedmm_secure.data import text
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.prepare import load_one_market
from fedmm_secure.errors import ConfigError, DataError
from tests.conftest import TESTS
from tests.fedmm_secure.data.readers import is_blank, row_of

CASES = TESTS.parents[1] / "shared" / "cases"
HEADER = b"user,item,rating,time\n"
COLUMNS = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
BASE = [f"u{n:02d},i{n:02d},3,2020-01-{n + 1:02d}".encode() for n in range(12)]

FRAGMENTS = [
    b"u",
    b"u01",
    b"i",
    b"i02",
    b"3",
    b"4.5",
    b",",
    b",",
    b",",
    b'"',
    b'""',
    b" ",
    b"\t",
    b"\r",
    b"NULL",
    b"nan",
    b"\\N",
    b"2020-01-02",
    b"2020-10-25T02:30:00+02:00",
    b"2020-10-25 02:30:00.5Z",
    b"9999-12-31",
    b"0001-01-01",
    b"1e400",
    b"-",
    b"1600000000",
    b"2020-02-30",
    b"2020-01-01T24:00",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"\0",
    b"#",
    b"'",
    b":",
    b"+02",
    b"2262-04-12T00:00:00Z",
    b"1677-09-21",
]
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(b"".join)
FIELDS = st.tuples(
    st.sampled_from([b"u01", b"zz", b'"z,z"', b'"z""z"', b"", b"NULL", b" u01"]) | PIECES,
    st.sampled_from([b"i01", b'"i,1"', b"i02 ", b"\\N", b"\xe5\x93\x81"]) | PIECES,
    st.sampled_from([b"3", b"4.5", b"-1e2", b" 5", b"", b"five"]) | PIECES,
    st.sampled_from([b"2020-01-02", b"2020-10-25T02:30:00+02:00", b"2020-10-25 01:30:00.123456789Z", b"x"]) | PIECES,
).map(b",".join)
LINES = st.lists(FIELDS | PIECES, max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n"])


def read(path, content, block, **more):
    path.write_bytes(content)
    kept, text.BLOCK_BYTES = text.BLOCK_BYTES, block
    try:
        return load_market(MarketFile(path=path, **COLUMNS), "m", on_bad_rows="skip", **more)
    finally:
        text.BLOCK_BYTES = kept


def agree(folder, lines, end, block, last):
    lines = [*BASE, *lines]
    content = HEADER.replace(b"\n", end) + end.join(lines) + (end if last else b"")
    market = read(folder / "m.csv", content, block)
    reading = market.reading
    lines = content.removeprefix(HEADER.replace(b"\n", end)).split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    rows = [row_of(line) for line in lines if not is_blank(line)]
    good = [row for row in rows if row is not None]
    latest = {}
    for user, item, rating, time in good:
        if (user, item) not in latest or latest[user, item][1] <= time:
            latest[user, item] = (rating, time)
    found = {
        (str(market.user_ids[u]), str(market.item_ids[i])): (float(r), int(t))
        for u, i, r, t in zip(market.user, market.item, market.rating, market.time, strict=True)
    }
    assert found == latest
    assert reading.lines == len(lines) + 1
    assert reading.bad == len(rows) - len(good)
    assert reading.blank == len(lines) - len(rows)
    assert reading.lines == reading.header + reading.blank + reading.bad + reading.merged + reading.rows
    assert reading.users == len({user for user, _ in latest})


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=LINES, end=ENDS, block=st.sampled_from([16, 64, 2**20]), last=st.booleans())
def test_every_line_is_read_as_a_slow_reader_reads_it(tmp_path, lines, end, block, last):
    agree(tmp_path, lines, end, block, last)


@pytest.mark.slow
@settings(max_examples=50_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=LINES, end=ENDS, block=st.sampled_from([16, 64, 2**20]), last=st.booleans())
def test_every_line_of_very_many_files_is_read_as_a_slow_reader_reads_it(tmp_path, lines, end, block, last):
    agree(tmp_path, lines, end, block, last)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=300) | PIECES,
    suffix=st.sampled_from([".csv", ".TSV", ".txt", ".csv.GZ", ".Parquet"]),
    header=st.booleans(),
    quoting=st.booleans(),
    zipped=st.booleans(),
)
def test_whatever_the_file_holds_the_answer_is_a_market_or_one_line(tmp_path, content, suffix, header, quoting, zipped):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    columns = {"user": "u01", "item": "i02"} if header else {"user": 0, "item": 1, "time": 2}
    with pytest.raises(DataError) as caught:
        load_market(MarketFile(path=path, header=header, quoting=quoting, **columns), "m", on_bad_rows="skip")
    assert "\n" not in str(caught.value)


def test_a_line_without_end_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 200)
    content = HEADER + b"\n".join([*BASE, b"u01," + b"x" * 5000 + b",3,2020-01-01", b"u01,late,3,2020-01-01"])
    for block in (50, 2**20):
        market = read(tmp_path / "m.csv", content, block)
        assert (market.reading.bad, market.reading.lines) == (1, 15)
        assert "late" in market.item_ids


# -- ids ---------------------------------------------------------------------------------------------------------------


def table(tmp_path, user, **more):
    n = len(user)
    columns = {"user": user, "item": pa.array([f"i{k % 12}" for k in range(n)]), **more}
    path = tmp_path / "m.PARQUET"
    pq.write_table(pa.table(columns), path)
    mapped = {"rating": "rating"} if "rating" in more else {}
    mapped |= {"time": "time"} if "time" in more else {}
    return MarketFile(path=path, user="user", item="item", **mapped)


BIG = [10**18 + 37 * k for k in range(24)]


@pytest.mark.parametrize(
    "user",
    [
        pa.array([None, *BIG[1:]], pa.int64()),
        pa.array([None, *BIG[1:]], pa.uint64()),
        pa.array([None, *BIG[1:]], pa.decimal128(25, 0)),
        pa.array([None, *(str(k) for k in BIG[1:])]).dictionary_encode(),
        pa.array([None, *(str(k) for k in BIG[1:])], pa.string_view()),
        pa.array([None, *(str(k).encode() for k in BIG[1:])], pa.binary()),
    ],
    ids=["int64", "uint64", "decimal", "dictionary", "view", "binary"],
)
def test_every_digit_of_an_id_is_kept_beside_a_null(tmp_path, user):
    market = load_market(table(tmp_path, user), "m", on_bad_rows="skip")
    assert market.user_ids.tolist() == sorted(str(k) for k in BIG[1:])
    assert (market.reading.bad, market.reading.missing) == (1, 1)


@pytest.mark.parametrize(
    "user",
    [
        pa.array([float(k) for k in range(24)]),
        pa.array([[k] for k in range(24)]),
        pa.array([{"id": k} for k in range(24)]),
        pa.array([bool(k % 2) for k in range(24)]),
        pa.array([float(k) for k in range(24)]).dictionary_encode(),
    ],
    ids=["float", "list", "struct", "bool", "dictionary"],
)
def test_what_is_no_id_is_refused_by_its_type(tmp_path, user):
    with pytest.raises(DataError, match="user column 'user' holds"):
        load_market(table(tmp_path, user), "m", on_bad_rows="skip")


def test_a_text_that_is_none_is_a_bad_row_of_its_own(tmp_path):
    raw = b"".join(b"u%02d" % k for k in range(23)) + b"u\xff2"
    offsets = np.arange(0, 73, 3, dtype=np.int32)
    user = pa.StringArray.from_buffers(24, pa.py_buffer(offsets), pa.py_buffer(raw))
    market = load_market(table(tmp_path, user), "m", on_bad_rows="skip")
    assert (market.n_users, market.reading.bad) == (23, 1)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_table_is_a_market_or_one_line(tmp_path, changes):
    times = pa.array([k * 10**9 for k in range(24)], pa.int64()).cast(pa.timestamp("us", "Europe/Berlin"))
    file = table(tmp_path, pa.array(BIG), rating=pa.array([1.5] * 24), time=times)
    data = bytearray(file.path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    file.path.write_bytes(data)
    message = ""
    try:
        load_market(file, "m", on_bad_rows="skip")
    except DataError as error:
        message = str(error)
    assert "\n" not in message


def test_ids_are_exactly_what_is_written(tmp_path):
    odd = [b"007,i01,3,2020-01-01", b"7,i01,3,2020-01-01", b"7.0,i01,3,2020-01-01", b"1e5,i01,3,2020-01-01"]
    odd += [b" 7,i01,3,2020-01-01", b'"7,""8""",i01,3,2020-01-01', "é,i01,3,2020-01-01".encode()]
    odd += ["e\u0301,i01,3,2020-01-01".encode()]
    market = read(tmp_path / "m.csv", HEADER + b"\n".join([*BASE, *odd]), 2**20)
    assert set(market.user_ids) - {f"u{n:02d}" for n in range(12)} == {
        "007",
        "7",
        "7.0",
        "1e5",
        " 7",
        '7,"8"',
        "é",
        "e\u0301",
    }
    assert any("start or end with a blank" in line for line in market.advice)


def test_quotation_marks_are_characters_where_they_are_said_to_be(tmp_path):
    path = tmp_path / "m.tsv"
    rows = [f'u{n}\t5" disk {n}\t3' for n in range(12)]
    path.write_text("user\titem\trating\n" + "\n".join(rows))
    file = MarketFile(path=path, user="user", item="item", rating="rating")
    with pytest.raises(DataError, match="quoting: false"):
        load_market(file, "m")
    assert load_market(file.model_copy(update={"quoting": False}), "m").item_ids[0] == '5" disk 0'


def test_an_id_with_many_rows_is_named(tmp_path):
    lines = [*BASE, *(f"-,i{n:02d},3,2020-01-01".encode() for n in range(12))]
    market = read(tmp_path / "m.csv", HEADER + b"\n".join(lines), 2**20)
    assert any(line.startswith("user '-' holds 12 of 24 rows (50 %)") for line in market.advice)
    again = read(tmp_path / "m.csv", HEADER + b"\n".join(lines), 2**20, missing=("-",))
    assert (again.reading.missing, again.n_users) == (12, 12)
    assert not any(line.startswith("user") for line in again.advice)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "more", "message"),
    [
        (
            "user;item;rating;time\n",
            "m.csv",
            {},
            r'header is .user;item;rating;time.: set data.markets.m.separator: ";"',
        ),
        ("user\titem\trating\ttime\n", "m.txt", {}, r'set data.markets.m.separator: "\\t"'),
        ("User,item,rating,time\n", "m.csv", {}, "did you mean 'User'[?] set data.markets.m.user: User"),
        ("who,what,rating,time\n", "m.csv", {}, "the header holds 'who', 'what', 'rating', 'time'"),
        ("user,item,rating,time,user\n", "m.csv", {}, "m.csv:1: columns 0 and 4 .from 0. are both named 'user'"),
        ('user,"item,rating,time\n', "m.csv", {}, "m.csv:1: a quotation mark in the header"),
        ("\n\n", "m.csv", {}, "no header"),
        ("a,b\n", "m.csv", {"user": 0, "item": 5, "rating": None, "time": None}, "item column 5 is out of range"),
        ("a,b\n", "m.csv", {"user": -1, "item": 1, "rating": None, "time": None}, "user column -1 is out of range"),
        ("user,item,rating,time\r1,2,3,4\r\n", "m.csv", {}, "carriage return alone"),
    ],
)
def test_a_header_that_does_not_fit_says_what_to_set(tmp_path, content, name, more, message):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(DataError, match=message) as caught:
        load_market(MarketFile(path=tmp_path / name, **{**COLUMNS, **more}), "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["M.CSV", "M.Csv.GZ", "m.csv.gz"])
def test_endings_count_in_any_case(tmp_path, name):
    content = HEADER + b"\n".join(BASE)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert load_market(MarketFile(path=tmp_path / name, **COLUMNS), "m").n_users == 12


def test_without_a_header_no_row_says_how_wide_the_others_are(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(b"\n".join([b"zz,i1,3,2020-01-01,more", *BASE]))
    file = MarketFile(path=path, user=0, item=1, rating=2, time=3, header=False)
    market = load_market(file, "m")
    assert market.n_users == 13
    assert any(line.endswith("set width: 4") for line in market.advice)
    strict = load_market(file.model_copy(update={"width": 4}), "m", on_bad_rows="skip")
    assert (strict.n_users, strict.reading.bad) == (12, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no: {path: m.csv}", "a.yaml:3: .*the name no has to stand in quotes, 'no'"),
        ("12: {path: m.csv}", "the name 12 has to stand in quotes"),
        ("ca: {path: a.csv}\n    ca: {path: b.csv}", "a.yaml:4: .*'ca' is there twice, in lines 3 and 4"),
        ("x" * 300 + ": {path: m.csv}", "at most 64 of them"),
        ("é" * 40 + ": {path: m.csv}", "at most 64 of them"),
        ("ca: {path: m.csv, user: a, item: a}", "user and item are the same column"),
        ("ca: {path: m.csv, separator: '::'}", "one ASCII character"),
        ("ca: {path: m.csv, width: 4}", "width is for files without a header"),
        ("ca: {path: m.csv, time_unit: s}", "time_unit needs time"),
    ],
)
def test_names_that_cannot_be_used_are_refused_while_the_configuration_is_read(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(f"data:\n  markets:\n    {text}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value)


# -- files that other readers read wrong -------------------------------------------------------------------------------


@pytest.fixture
def cases(tmp_path, monkeypatch):
    if not CASES.is_dir():
        pytest.skip(f"the files are not at {CASES}")
    folder = Path(shutil.copytree(CASES, tmp_path / "cases"))
    lines = (folder / "clean.csv").read_text().splitlines(keepends=True)
    (folder / "clean-2.csv").write_text("".join(lines[:-1]))  # two markets with one file are refused
    for path in folder.glob("*.yaml"):
        first, clean, rest = path.read_text().partition("clean.csv")
        path.write_text(first + clean + rest.replace("clean.csv", "clean-2.csv"))
    monkeypatch.chdir(folder)


def check(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["fedmm", "data", "check", name])
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main())
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quote", "quote.tsv:128: a quotation mark"),
        ("null-ids", "null-ids.csv:2: no user id: 'NULL' says that it is missing (data.missing) (30 bad rows"),
        ("dup-header", "dup-header.csv:1: columns 0 and 4 (from 0) are both named 'user'"),
        ("y9999", "y9999.csv:145: time '9999-12-31'"),
        ("norway", "the name no has to stand in quotes, 'no'"),
    ],
)
def test_files_that_cannot_be_read_right_are_refused_in_one_line(cases, monkeypatch, capsys, name, message):
    status, _, err = check(monkeypatch, capsys, f"{name}.yaml")
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_large_ids_beside_a_null_are_48_users(cases, monkeypatch, capsys):
    status, out, _ = check(monkeypatch, capsys, "bigid-null.yaml")
    assert status == 0
    assert "m0: 144 lines: 143 rows, 1 bad (1 of them with a field missing)" in out
    assert "m0: 48 users" in out


def test_rows_without_a_user_are_left_out_on_request(cases):
    market = load_one_market(resolve("null-ids.yaml", ["data.on_bad_rows=skip"]).data, "m0")
    assert (market.n_rows, market.n_users, market.reading.missing) == (114, 10, 30)


def test_the_hour_that_an_autumn_night_has_twice_is_in_order(cases):
    market = load_one_market(resolve("tz-fold.yaml").data, "m0")
    for user in range(market.n_users):
        row = np.flatnonzero(market.user == user)[-1]
        assert market.item_ids[market.item[row]] == "iB"
        assert pd.Timestamp(market.time[row], tz="UTC") == pd.Timestamp("2020-10-25T01:10Z")


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", ["ca", "de", "fr", "in", "jp", "mx", "uk"])
def test_real_files_hold_what_pandas_and_pyarrow_find(real_data, market):
    path = Path(real_data) / f"{market}_5core.txt.gz"
    found = load_market(MarketFile(path=path, rating="rate", time="date"), market).reading
    frame = pd.read_csv(path, sep=" ", dtype=str)
    assert (found.lines, found.bad, found.blank) == (len(frame) + 1, 0, 0)
    assert (found.users, found.items) == (frame.userId.nunique(), frame.itemId.nunique())
    assert found.rows == len(frame.drop_duplicates(["userId", "itemId"]))
    assert found.largest_user == frame.userId.value_counts().iloc[0]
    times = pd.to_datetime(frame.date)
    assert (found.first, found.last) == (f"{times.min().isoformat()}Z", f"{times.max().isoformat()}Z")
    arrow = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter=" "))
    assert found.merged + found.rows == arrow.num_rows
    assert (found.users, found.items) == tuple(pc.count_distinct(arrow[name]).as_py() for name in ("userId", "itemId"))
    ends = pc.min_max(arrow["date"]).as_py()
    assert (found.first[:10], found.last[:10]) == (ends["min"].isoformat(), ends["max"].isoformat())
