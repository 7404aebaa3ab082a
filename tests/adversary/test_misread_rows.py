"""Rows that are read as something else in silence: other times, lines that are no rows, another market's items.

The reader that each of them worked on stands beside it, in short.
"""

import bz2
import datetime as dt
import gzip
import lzma
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from experiments.runs.markets import reading_lines
from fedmm_secure.config import DataConfig, MarketFile
from fedmm_secure.data.catalogue import read_catalogue
from fedmm_secure.data.faults import BadRowsError
from fedmm_secure.data.guessing import guess_file
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.prepare import prepare, sizes
from fedmm_secure.data.text import Dialect, TextFile
from fedmm_secure.errors import DataError
from tests.command_line import fedmm

ROWS = [(f"u{user}", f"i{(user + n) % 14}") for user in range(12) for n in range(13)]
TIMES = [dt.datetime(2020, 1, 1) + dt.timedelta(days=day, microseconds=5) for day in range(len(ROWS))]


def text_of(rows=ROWS):
    return "".join(f"{user},{item}\n" for user, item in rows)


def read(path, data, **more):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return load_market(MarketFile(path=path, **{"user": "user", "item": "item", **more}), "m", on_bad_rows="skip")


# -- times of Parquet's INT96 ------------------------------------------------------------------------------------------


def int96(path, times):
    users, items = zip(*ROWS, strict=True)
    table = pa.table({"user": users, "item": items, "time": pa.array(times, pa.timestamp("us"))})
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, row_group_size=50, **options)
    return MarketFile(path=path, user="user", item="item", time="time")


def test_times_that_nanoseconds_do_not_reach_are_refused_in_int96_too(tmp_path):
    """9999-12-31, which warehouses write for "never", was read as 1816-03-29: a user's last row became the first."""
    file = int96(tmp_path / "rows.parquet", [*TIMES[:-1], dt.datetime(9999, 12, 31)])
    assert str(pq.read_table(file.path)["time"][-1].as_py())[:10] == "1816-03-29"  # who asks Arrow alone
    with pytest.raises(BadRowsError, match="outside 1677") as refused:
        load_market(file, "m")
    assert refused.value.bad == 1
    market = load_market(file, "m", on_bad_rows="skip")
    assert market.n_rows == len(ROWS) - 1
    assert market.reading.first == "2020-01-01T00:00:00.000005Z"  # to the last digit
    assert market.reading.last[:10] == "2020-06-03"


@pytest.mark.parametrize("day", [2**31 - 1, -(2**31), 2440588 + 106_752, 213_503_982 + 2440588])
def test_no_day_of_int96_is_another_in_silence(tmp_path, day):
    """Microseconds wrap as nanoseconds do, a few hundred thousand years later."""
    first, whole = TIMES[0].replace(microsecond=0), [TIMES[0].replace(microsecond=0), *TIMES[1:]]
    file = int96(tmp_path / "rows.parquet", whole)
    written = struct.pack("<qi", 0, 2440588 + (first - dt.datetime(1970, 1, 1)).days)
    data = file.path.read_bytes()
    assert data.count(written) == 1
    file.path.write_bytes(data.replace(written, struct.pack("<qi", 0, day)))
    with pytest.raises(BadRowsError, match="outside 1677") as refused:
        load_market(file, "m")
    assert (refused.value.bad, refused.value.good) == (1, len(ROWS) - 1)
    guess_file(file.path, {})  # looks at the first rows alone


# -- lines that are no rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_header_in_the_middle_of_a_file_is_no_user(tmp_path, mark, end):
    """``cat a.csv b.csv``: the second header was a user called "user" with an item called "item"."""
    text = f"user,item\n{text_of(ROWS[:80])}{mark}user,item\n{text_of(ROWS[80:])}".replace("\n", end)
    path = tmp_path / "rows.csv"
    market = read(path, text)
    assert (market.n_users, market.reading.bad) == (12, 1)
    with pytest.raises(BadRowsError, match=r"rows.csv:82: is the header again"):
        load_market(MarketFile(path=path, user="user", item="item"), "m")
    with path.open("rb") as raw:  # a reader that does not know its header
        file = TextFile(path, raw)
        file.header()
        (block,) = file.blocks({"user": 0, "item": 1}, Dialect(",", True, 2))
    assert (block.columns["user"][80].as_py(), block.faults.bad.any()) == (f"{mark}user", False)


def test_a_row_that_only_begins_as_the_header_does_is_a_row(tmp_path):
    rows = [*ROWS, ("user", "item2"), ("user2", "item"), ("xuser", "item")]
    market = read(tmp_path / "rows.csv", "user,item\n" + text_of(rows))
    assert (market.reading.bad, market.n_rows) == (0, len(rows))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Total,240", "user 'Total', item '240'; is that line a row?"),
        ("# end of export, 240 rows", "user '# end of export'"),
        ("\u200bu3,i1", r"1 user id hold characters that are not seen, which are part of them: '\u200bu3'"),
        ("\ufeffu3,i1", r"'\ufeffu3'"),
        ("u3,i1\u00a0", r"1 item id hold characters that are not seen, which are part of them: 'i1\xa0'"),
        ("1.23450E+12,i1", "as a spreadsheet rounds them, several ids in one: '1.23450E+12'"),
    ],
)
def test_lines_that_are_likely_no_rows_are_named_and_stay(tmp_path, line, told):
    """Many rows together tell it, so it changes nothing: one user's rows do not decide how others' are read."""
    market = read(tmp_path / "rows.csv", f"user,item\n{text_of()}{line}\n")
    assert market.n_rows == len(ROWS) + 1  # as it always was, without a word
    assert [advice for advice in market.advice if told in advice]
    assert not read(tmp_path / "fine.csv", f"user,item\n{text_of()}").advice


def test_of_many_lone_rows_the_oddest_is_shown(tmp_path):
    lone = [(f"u{user}", f"i{user}") for user in range(100, 130)]
    market = read(tmp_path / "rows.csv", "user,item\n" + text_of([*ROWS, *lone[:20], ("Total", "198"), *lone[20:]]))
    (advice,) = (advice for advice in market.advice if "one row" in advice)
    assert advice.startswith("31 users have one row")
    assert "user 'Total'" in advice


# -- another catalogue's items -----------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path):
    """A configuration of one market, half of whose items the catalogue has in capitals."""
    (tmp_path / "rows.csv").write_text(f"user,item\n{text_of()}")
    (tmp_path / "items.txt").write_text("".join(f"{'Ii'[item % 2]}{item}\n" for item in range(14)))
    file = MarketFile(path=Path("rows.csv"), user="user", item="item", catalogue=Path("items.txt"))
    return DataConfig(root=tmp_path, markets={"m": file})


def half_of(data):
    return prepare(load_market(data.markets["m"].located(data.root), "m"), data)


def test_rows_outside_the_catalogue_are_said(half):
    """Half of the ids in capitals: half of the rows were left out, and all of them were called kept."""
    prepared = half_of(half)
    assert prepared.whole.market.reading.rows == len(ROWS)  # what was called kept
    assert prepared.market.n_rows == prepared.rows_outside == len(ROWS) // 2
    lines = reading_lines(prepared)
    assert "78 of the rows are of items in the catalogue and used, 78 of others and left out" in lines
    (advice,) = (line for line in lines if line.startswith("look: 78 of 156 rows (50 %)"))
    assert "78 of them but for case, blanks or characters that are not seen: 'i0' is 'I0' there" in advice


def test_another_market_s_catalogue_is_said_to_be_one(half):
    (half.root / "items.txt").write_text("".join(f"{'xi'[item % 2]}{item}\n" for item in range(14)))
    assert any("as 'i0'; is it another market's, or an older one?" in line for line in reading_lines(half_of(half)))
    (half.root / "items.txt").write_text("".join(f"i{item}\n" for item in range(20)))
    assert not [line for line in reading_lines(half_of(half)) if line.startswith("look")]


def test_commands_say_it_and_no_file_does(half, tmp_path, capsys):
    """How many rows are outside follows from private rows: it is for their owner's terminal."""
    own = tmp_path / "m.yaml"
    markets = {"m": {"path": "rows.csv", "user": "user", "item": "item", "catalogue": "items.txt"}}
    data = {"root": str(half.root), "markets": markets, "min_item_train": 1, "negatives_per_positive": 1}
    alone = {"federation": {"allow_small_cohort": True}, "aggregation": {"kind": "ckks"}}
    own.write_text(yaml.safe_dump({"data": data, "privacy": {"catalogue": "file"}, **alone}))
    for command in ("check", "info"):
        status, out, err = fedmm(capsys, "data", command, own)
        assert (status, err) == (0, "")
        assert "78 of others and left out" in " ".join(out.split())
        assert command == "info" or out.endswith("fit to use; look at what is said of m\n")
    assert '"outside_catalogue": 78' in fedmm(capsys, "data", "info", own, "--json")[1]
    assert not [key for key in sizes(half_of(half)) if "outside" in key]  # what metrics.json has of a market


# -- kinds of files ----------------------------------------------------------------------------------------------------

CSV = f"user,item\n{text_of()}".encode()
KINDS = {
    "Zstandard": b"\x28\xb5\x2f\xfd\x04\r\x41\n" + bytes(20),
    "ZIP": b"PK\x03\x04\x14\r\n" + bytes(20),
    "bzip2": bz2.compress(CSV),
    "an xz": lzma.compress(CSV),
    "UTF-16": CSV.decode().encode("utf-16"),
    "Parquet": b"PAR1\x15\x04\x15" + bytes(20),
    "gzip in gzip": gzip.compress(gzip.compress(CSV)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_file_is_named_alike_wherever_it_is_read(tmp_path, kind):
    """``fedmm init`` alone knew them; elsewhere a file of Zstandard had "lines that end in a carriage return alone"."""
    path = tmp_path / "rows.csv"
    path.write_bytes(KINDS[kind])
    readers = {
        "a run": lambda: load_market(MarketFile(path=path, user="user", item="item"), "m"),
        "a run without header": lambda: load_market(MarketFile(path=path, user=0, item=1, header=False), "m"),
        "init": lambda: guess_file(path, {}),
        "a catalogue": lambda: read_catalogue(path),
    }
    said = set()
    for read_it in readers.values():
        with pytest.raises(DataError, match=f"rows.csv: is .*{kind}") as refused:
            read_it()
        said.add(str(refused.value))
    assert len(said) == 1


def test_a_reader_that_does_not_look_blames_the_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("fedmm_secure.data.text.refuse_other_kinds", lambda head: None)
    with pytest.raises(DataError, match="carriage return alone"):
        read(tmp_path / "rows.csv", b"\x28\xb5\x2f\xfd\x04\r\x41\n")


@pytest.mark.parametrize("first", [b"BZh91AY&SY", b"\xff\xfe", b"PK\x03\x04"])
def test_one_user_s_row_is_no_kind_of_file(tmp_path, first):
    """Without a header the first line is one user's: it may be a bad row, and no more."""
    market = read(tmp_path / "rows.csv", first + b",i1\n" + text_of().encode(), user=0, item=1, header=False)
    assert len([row for row in market.user_ids[market.user] if str(row) in {f"u{n}" for n in range(12)}]) == len(ROWS)


@pytest.mark.parametrize("begins", [b"\x1f\x8b", b"\xfd7zXZ\0", b"\xff\xfe"])
def test_a_first_row_that_begins_as_no_text_does_has_no_other_row_misread(tmp_path, begins):
    """One bad row, as anywhere else; where it begins as gzip does, the file is refused."""
    path, rows = tmp_path / "rows.csv", text_of().encode()
    first, rest = rows.split(b"\n", 1)
    file = {"user": 0, "item": 1, "header": False}
    without = pairs(read(path, rest, **file))
    assert pairs(read(path, rest + begins + first + b"\n", **file)) == without
    if begins == b"\x1f\x8b":
        with pytest.raises(DataError, match="cannot be read"):
            read(path, begins + rows, **file)
    else:
        assert pairs(read(path, begins + rows, **file)) == without


def pairs(market):
    return list(zip(market.user_ids[market.user], market.item_ids[market.item], strict=True))
