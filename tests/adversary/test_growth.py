"""Files of a few kilobytes that cost gigabytes or minutes: runs of rows, gzip, lines that are copied each time.

What is counted is bytes, cells or copied bytes, so that no clock of the machine decides. The reader that a kind of
attack worked on stands beside it, in short.
"""

import codecs
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm_secure.config import MarketFile
from fedmm_secure.data import text
from fedmm_secure.data.catalogue import read_catalogue
from fedmm_secure.data.guessing import guess_file
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.text import Dialect, TextFile, ill_formed
from fedmm_secure.errors import DataError
from fedmm_secure.foreign import growth
from fedmm_secure.foreign.formats import parse_table
from privacy.foreign import ForeignFileError

ROWS = 2**16  # for a budget that the tests make small
COMMA = Dialect(",", True, 2)


def runs_of_rows(rows):
    """Rows that say the same: a few bytes for all of them together."""
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a"])).cast(pa.string())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"user": one, "item": one}), buffer, compression="zstd", write_statistics=False)
    return buffer.getvalue()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(growth, "FREE_CELLS", 2**12)
    monkeypatch.setattr(growth, "FREE_BYTES", 2**12)


# -- more rows than bytes ----------------------------------------------------------------------------------------------


def test_runs_of_rows_are_bounded_by_the_files_size(tmp_path, small, monkeypatch):
    path = tmp_path / "m.parquet"
    path.write_bytes(runs_of_rows(ROWS))
    assert len(pq.read_table(path)) == ROWS > 10 * path.stat().st_size  # who believes the file holds them all
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **named: pytest.fail("a batch was read"))
    with pytest.raises(DataError, match="rows of 2 columns in"):
        load_market(MarketFile(path=path, user="user", item="item"), "m")
    with pytest.raises(DataError, match="rows of 1 columns in"):
        guess_file(path, {})
    with pytest.raises(ForeignFileError, match="rows of 2 columns in"):
        parse_table(path.read_bytes(), "file")


def test_lines_behind_gzip_are_bounded_by_the_files_size(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "FREE_CELLS", 2**12)
    path = tmp_path / "m.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"u,i\n" * ROWS, 9))
    assert gzip.decompress(path.read_bytes()).count(b"\n") > 10 * path.stat().st_size
    with pytest.raises(DataError, match="rows of 2 columns in"):
        load_market(MarketFile(path=path, user="user", item="item"), "m")


def test_a_file_of_people_is_far_from_its_bound(tmp_path, small):
    rng = np.random.default_rng(0)
    users, items = rng.integers(5000, size=50_000), rng.zipf(1.3, size=50_000) % 2000
    rows = "".join(f"u{u},i{i},5,2020-01-0{1 + u % 9}\n" for u, i in zip(users, items, strict=True))
    path = tmp_path / "m.csv.gz"
    path.write_bytes(gzip.compress(("user,item,rating,time\n" + rows).encode(), 9))
    named = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
    assert load_market(MarketFile(path=path, **named), "m").n_rows > 30_000


# -- more bytes than bytes ---------------------------------------------------------------------------------------------


def unpacked_whole(path):
    return len(gzip.decompress(path.read_bytes()))


def test_what_gzip_unpacks_to_is_bounded_wherever_it_is_read(tmp_path, small, monkeypatch):
    path = tmp_path / "m.items.txt.gz"
    path.write_bytes(gzip.compress(b"i\n" + b"\n" * 2**22, 9))
    assert unpacked_whole(path) > 500 * path.stat().st_size
    seen = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, most=-1: seen.append(most) or read(self, most))
    for call in (read_catalogue, lambda path: load_market(MarketFile(path=path, user=0, item=1, header=False), "m")):
        seen.clear()
        with pytest.raises(DataError, match="unpack to more than"):
            call(path)
        assert 0 < sum(seen) <= 2**12 + 64 * path.stat().st_size + text.BLOCK_BYTES
        assert min(seen) > 0  # never all of it


# -- the same bytes again and again ------------------------------------------------------------------------------------


class Copied(bytes):
    """Bytes that count how many of them are copied out of a buffer."""

    count = 0

    def __getitem__(self, at):
        found = super().__getitem__(at)
        if isinstance(found, bytes):
            Copied.count += len(found)
            return Copied(found)
        return found

    def partition(self, separator):
        parts = super().partition(separator)
        Copied.count += sum(map(len, parts))
        return tuple(map(Copied, parts))


def header_by_partition(data):
    """As it was: every blank line copies all that follows it."""
    while data:
        line, _, data = data.partition(b"\n")
        if line.strip():
            return line
    return b""


def header_as_it_is(data):
    file = TextFile(Path("m.csv"), io.BytesIO())
    file._carry = data
    return file.header()[0]


def copied_by(read, blanks):
    Copied.count = 0
    assert read(Copied(b"\n" * blanks + b"user,item\n")) in ("user,item", b"user,item")
    return Copied.count


def test_blank_lines_before_a_header_copy_nothing():
    assert copied_by(header_by_partition, 4000) > 3 * copied_by(header_by_partition, 2000) > 10**6
    assert copied_by(header_as_it_is, 4000) == copied_by(header_as_it_is, 2000) < 100
    with pytest.raises(DataError, match="blank lines before"):
        header_as_it_is(b"\n" * (text.MAX_BLANK + 2) + b"user,item\n")


def broken_lines(data):
    """As it was: after each line that is no UTF-8 the decoder starts again, and its error holds a copy of the rest."""
    at = copied = 0
    while at < len(data):
        try:
            codecs.utf_8_decode(memoryview(data)[at:], "strict", True)
            break
        except UnicodeDecodeError as error:
            copied += len(error.object)
            at = data.index(b"\n", at + error.start) + 1
    return copied


def test_lines_that_are_no_text_are_decoded_once(monkeypatch):
    assert broken_lines(b"\xff\n" * 2000) > 3 * broken_lines(b"\xff\n" * 1000) > 10**6
    decoded = []
    decode = codecs.utf_8_decode
    monkeypatch.setattr(codecs, "utf_8_decode", lambda data, *more: decoded.append(len(data)) or decode(data, *more))
    data = b"user,item\n" + b"\xff\n" * 2000
    file = TextFile(Path("m.csv"), io.BytesIO(data))
    file.header()
    (block,) = file.blocks({"user": 0, "item": 1}, COMMA)
    assert block.faults.bad.all()
    assert len(block.lines) == 2000
    assert sum(decoded) <= len(data)


@given(
    st.lists(st.sampled_from([b"a", b"\n", "é".encode(), "€".encode(), "😀".encode(), b"\xff"]) | st.binary(max_size=6))
)
def test_bytes_that_are_no_text_are_found_as_the_decoder_finds_them(parts):
    data = b"".join(parts)
    found = ill_formed(np.frombuffer(data, dtype=np.uint8))
    at = 0
    for line in data.split(b"\n"):
        try:
            line.decode()
            fine = True
        except UnicodeDecodeError:
            fine = False
        assert fine == (not np.any((found >= at) & (found < at + len(line))))
        at += len(line) + 1


# -- a column costs as much as a table ---------------------------------------------------------------------------------


def test_columns_are_counted_before_one_is_built(tmp_path, monkeypatch):
    header = ",".join(f"c{n}" for n in range(30_000))
    path = tmp_path / "m.csv"
    path.write_text(f"{header}\n{','.join('1' * 30_000)}\n")
    monkeypatch.setattr(text, "_field", lambda *given, **named: pytest.fail("a column was built"))
    for call in (lambda: guess_file(path, {}), lambda: load_market(MarketFile(path=path, user="c0", item="c1"), "m")):
        with pytest.raises(DataError, match="more than 1000 columns"):
            call()
