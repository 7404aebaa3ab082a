"""What a file's first rows say, and what they leave open."""

import gzip
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmm_secure.config import MarketFile
from fedmm_secure.data.guessing import guess_file
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.questions import UndecidedError
from fedmm_secure.errors import DataError
from tests.conftest import REAL_DATA

START = datetime(2020, 1, 1, tzinfo=UTC)
ROWS = [(f"u{n % 12}", f"i{n % 13}", n % 5 + 1, START + timedelta(days=n)) for n in range(156)]


def iso(time):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def written(tmp_path, name, header, separator=",", time=iso, row=None):
    """A file of the rows; ``header`` names user, item, rating and time, or is None."""
    lines = [] if header is None else [separator.join(header)]
    make = row or (lambda u, i, r, t: (u, i, str(r), time(t)))
    lines += [separator.join(make(*fields)) for fields in ROWS]
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


NAMED = ("user_id", "asin", "stars", "timestamp")


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", " "])
@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.txt", "a.dat"])
def test_the_separator_is_what_splits_all_rows_alike(tmp_path, separator, name):
    path = written(tmp_path, name, NAMED, separator)
    found = guess_file(path, {})
    assert (found.user, found.item, found.rating, found.time) == NAMED
    market = load_market(found, "a")
    assert (market.n_rows, market.n_users, market.n_items, market.calendar) == (156, 12, 13, True)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_unit_of_times_fits_their_years(tmp_path, unit, factor):
    path = written(tmp_path, "a.csv", NAMED, time=lambda t: str(int(t.timestamp()) * factor))
    found = guess_file(path, {})
    assert found.time_unit == unit
    assert load_market(found, "a").reading.first == "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("time", [lambda t: t.strftime("%Y%m%d"), lambda t: str((t - START).days)])
def test_numbers_that_are_no_calendar_times_are_asked_about(tmp_path, time):
    path = written(tmp_path, "a.csv", NAMED, time=time)
    with pytest.raises(UndecidedError) as undecided:
        guess_file(path, {})
    assert undecided.value.question.key == "time_unit"
    assert "number" in undecided.value.question.answers
    assert guess_file(path, {"time_unit": ["number"]}).time_unit == "number"
    assert guess_file(path, {"time_unit": ["none"]}).time is None


def test_dates_that_no_reader_can_tell_apart_are_left_out_or_converted(tmp_path):
    path = written(tmp_path, "a.csv", NAMED, time=lambda t: t.strftime("%d/%m/%Y"))
    with pytest.raises(UndecidedError) as undecided:
        guess_file(path, {})
    assert undecided.value.question.answers == ("none",)


def test_columns_without_telling_names_are_asked_about(tmp_path):
    path = written(tmp_path, "a.csv", ("who", "what", "how_much", "when"))
    answers: dict[str, list[str]] = {}
    for role, answer in (("user", "who"), ("item", "what")):
        with pytest.raises(UndecidedError) as undecided:
            guess_file(path, answers)
        assert undecided.value.question.key == role
        assert answer in undecided.value.question.answers
        answers[role] = [answer]
    found = guess_file(path, answers)
    assert (found.user, found.item, found.rating, found.time) == ("who", "what", None, "when")  # times by their values


def test_two_columns_for_one_role_are_asked_about(tmp_path):
    path = written(
        tmp_path, "a.csv", ("customer", "reviewer", "rating", "time"), row=lambda u, i, r, t: (u, i, "3", iso(t))
    )
    with pytest.raises(UndecidedError, match="user ids"):
        guess_file(path, {})


def test_a_first_line_that_is_a_row_is_read_as_one(tmp_path):
    path = written(tmp_path, "u.data", None, "\t", time=lambda t: str(int(t.timestamp())))
    with pytest.raises(UndecidedError) as undecided:
        guess_file(path, {})
    assert undecided.value.question.answers == ("0", "1", "2", "3")
    found = guess_file(path, {"user": ["0"], "item": ["1"], "rating": ["2"]})
    assert (found.header, found.width, found.time, found.time_unit) == (False, 4, 3, "s")
    assert load_market(found, "u").n_rows == 156


def test_a_first_line_of_words_above_words_is_asked_about(tmp_path):
    path = written(tmp_path, "a.csv", ("a", "b"), row=lambda u, i, r, t: (u, i))
    with pytest.raises(UndecidedError) as undecided:
        guess_file(path, {})
    assert undecided.value.question.key == "header"
    found = guess_file(path, {"header": ["no"], "user": ["0"], "item": ["1"]})
    assert load_market(found, "a").reading.lines == 157


def test_open_quotation_marks_are_asked_about(tmp_path):
    path = written(tmp_path, "a.csv", NAMED)
    path.write_text(path.read_text().replace("i7,", 'i7",', 2))
    with pytest.raises(UndecidedError) as undecided:
        guess_file(path, {})
    assert undecided.value.question.key == "quoting"
    assert not guess_file(path, {"quoting": ["no"]}).quoting


def test_parquet_says_its_types(tmp_path):
    path = tmp_path / "a.PARQUET"
    users, items, ratings, times = zip(*ROWS, strict=True)
    zoned = pa.array(times, pa.timestamp("us", "Asia/Tokyo"))
    tags = pa.array([["x"]] * len(users))
    pq.write_table(pa.table({"Customer ID": users, "sku": items, "rate": ratings, "tags": tags, "at": zoned}), path)
    found = guess_file(path, {})
    assert (found.user, found.item, found.rating, found.time, found.time_unit) == (
        "Customer ID",
        "sku",
        "rate",
        "at",
        None,
    )
    assert load_market(found, "a").reading.first == "2020-01-01T00:00:00Z"


def test_parquet_texts_may_be_times(tmp_path):
    users, items, _, times = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "time": list(map(iso, times))}), tmp_path / "a.pq")
    assert load_market(guess_file(tmp_path / "a.pq", {}), "a").reading.first == "2020-01-01T00:00:00Z"


def test_gzip_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + written(tmp_path, "a.csv", NAMED).read_bytes()))
    assert guess_file(path, {}).user == "user_id"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"user,item\n", "one line alone"),
        (b"1::2::3\n4::5::6\n", "two characters"),
        (b"PAR1\x00", "rename it"),
        (b"PK\x03\x04\x00", "unpack it"),
        ("user,item\na,b\n".encode("utf-16"), "UTF-8"),
        (b"user,item,user\na,b,c\n", "both named 'user'"),
        (b"only\nwords\nhere\n", "no separator"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        guess_file(path, {})
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the XMarket files are not here")
def test_the_real_files_need_no_answer():
    for path in REAL_DATA.glob("*.gz"):
        found = guess_file(path, {})
        assert (found.user, found.item, found.rating, found.time) == ("userId", "itemId", "rate", "date")


def parquet_table(**columns):
    ids = {"user": [f"u{n % 12}" for n in range(156)], "item": [f"i{n % 13}" for n in range(156)]}
    return pa.table({**ids, "time": [time for *_, time in ROWS], **columns})


def without_end(path):
    path.write_bytes(path.read_bytes()[:-100])


def named_alike(path):
    pq.write_table(parquet_table().rename_columns(["user", "item", "user"]), path)


@pytest.mark.parametrize(
    ("columns", "damage", "message"),
    [
        ({"user": pa.array([bytes(16)] * 156, pa.binary(16))}, None, "write UUIDs as text"),
        ({"user": pa.array([["a"]] * 156)}, None, "write one number, text or time a row"),
        ({"time": pa.array(range(156), pa.duration("us"))}, None, "time column 'time' holds duration.us., which is no"),
        ({}, without_end, "or save it as CSV"),
        ({}, lambda path: path.write_bytes(b""), "or save it as CSV"),
        ({}, lambda path: path.write_bytes(b"junk" * 99), "or save it as CSV"),
        ({}, named_alike, "are both named 'user'; rename one"),
    ],
)
def test_whoever_meets_a_parquet_file_that_is_not_read_says_the_same_and_what_to_do(tmp_path, columns, damage, message):
    path = tmp_path / "a.parquet"
    pq.write_table(parquet_table(**columns), path)
    if damage is not None:
        damage(path)
    with pytest.raises(DataError, match=message) as of_run:
        load_market(MarketFile(path=path, user="user", item="item", time="time"), "a")
    with pytest.raises(DataError) as of_init:
        load_market(guess_file(path, {}), "a")
    assert str(of_init.value) == str(of_run.value)
    assert str(of_run.value).startswith(f"{path}: ")
