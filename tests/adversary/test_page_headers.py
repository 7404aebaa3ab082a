"""Parquet files whose headers two readers take for two things, or that are read over and over.

Each attack first passes a reader as it was, in short, and then fails on the product.
"""

import io
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmm_secure.data import guessing, sample, text
from fedmm_secure.data.parquet import ParquetRows
from fedmm_secure.data.sample import LETTERS, parquet_sample
from fedmm_secure.errors import DataError
from fedmm_secure.foreign import parquet_pages
from fedmm_secure.foreign.formats import parse_table
from fedmm_secure.foreign.parquet_pages import PageError, largest_batch, unpacked_pages
from privacy.foreign import ForeignFileError
from tests.unpacking import BINARY, I32, LIST, STRUCTURE, lying_table, page, structure, table, unsigned, varint, zeros

LIMIT, CUT = 2**20, 2**16  # Arrow keeps 16 bits of a field's number


def arrow(data):
    return pq.read_table(io.BytesIO(data))


def walk(data, columns=("id",)):
    source = pa.BufferReader(data)
    return list(unpacked_pages(source, pq.ParquetFile(source).metadata, columns))


def refused(data, match, columns=("id",)):
    with pytest.raises(PageError, match=match):
        walk(data, columns)
    with pytest.raises(ForeignFileError, match=match):
        parse_table(data, "file", columns, limit=LIMIT)


def single(values, *more, says=8):
    """A column of one page, which says that it unpacks to eight bytes."""
    packed, size = zeros(values)
    whole = page(values, size if says is None else says, packed, *more)
    return table(whole, [(values, [(0, len(whole))])])


def test_files_that_are_written_here_are_files():
    data = single(100, says=None)
    assert arrow(data)["id"].to_pylist() == parse_table(data, "file")["id"].tolist() == [0] * 100
    assert walk(data) == [(800, 0, 100)]


def test_a_field_whose_number_another_reader_cuts(monkeypatch):
    data = single(2**19, (CUT + 2, I32, varint(2**22)))
    assert arrow(data).nbytes == 2**22  # what field 2 says, to Arrow
    with monkeypatch.context() as patch:  # and a walk that keeps what it does not know
        patch.setitem(parquet_pages._HEADER, CUT + 2, I32)
        assert [found.size for found in walk(data)] == [8]
    refused(data, "something unknown")


def test_an_encoding_that_another_reader_cuts():
    inner = structure(*((name, I32, varint(value)) for name, value in ((1, 4), (2, 0), (3, 3), (4, 3), (CUT + 2, 7))))
    packed, size = zeros(4)
    header = structure(
        (1, I32, varint(0)), (2, I32, varint(size)), (3, I32, varint(len(packed))), (5, STRUCTURE, inner)
    )
    whole = header + packed
    refused(table(whole, [(4, [(0, len(whole))])]), "something unknown")


def test_a_page_of_two_kinds():
    """Whose values are counted where Arrow does not look."""
    refused(single(4, (8, STRUCTURE, structure((1, I32, varint(4)), (4, I32, varint(0)))), says=None), "two in one")


def test_a_field_of_another_type():
    refused(single(4, (4, BINARY, unsigned(1) + b"x"), says=None), "another type")


@pytest.mark.parametrize("depth", [1, 50_000])
def test_lists_in_lists(depth):
    def items(data, at):  # as they were read
        return items(data, at + 1) if data[at] >> 4 else at

    nested = b"\x19" * depth + b"\x01"
    if depth > 1:
        with pytest.raises(RecursionError):
            items(nested, 0)
    refused(single(4, (9, LIST, nested), says=None), "something unknown|no end within")


def test_a_column_that_has_another_name_in_its_row_groups():
    packed, size = zeros(2**19)
    whole = page(2**19, size, packed)
    data = table(whole, [(2**19, [(0, len(whole))])], says=["other"])
    assert pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).path_in_schema == "other"  # was not walked
    assert arrow(data)["id"].nbytes == 2**22
    assert walk(data) == [(2**22, 0, 2**19)]
    with pytest.raises(ForeignFileError, match="in memory"):
        parse_table(data, "file", ["id"], limit=LIMIT)


# -- the same bytes again and again ------------------------------------------------------------------------------------


def test_row_groups_that_share_one_page():
    packed, size = zeros(1)
    whole = page(1, size, packed)
    data = table(whole, [(1, [(0, len(whole))])] * 50)
    assert arrow(data).num_rows == 50  # fifty pages, of which one is in the file
    refused(data, "overlap")


def test_columns_that_share_one_page(tmp_path):
    packed, size = zeros(100)
    whole, names = page(100, size, packed), [f"c{n}" for n in range(20)]
    data = table(whole, [(100, [(0, len(whole))] * 20)], names)
    assert arrow(data).nbytes == 20 * size
    refused(data, "overlap", names)
    path = tmp_path / "m.parquet"
    path.write_bytes(data)
    with pytest.raises(DataError, match="overlap"):  # though each is read alone
        parquet_sample(path)


def test_headers_are_bounded_each_and_together(monkeypatch):
    long = structure((5, BINARY, unsigned(70_000) + bytes(70_000)))
    inner = structure((1, I32, varint(1)), (2, I32, varint(0)), (5, STRUCTURE, long))
    header = structure((1, I32, varint(0)), (2, I32, varint(8)), (3, I32, varint(8)), (5, STRUCTURE, inner))
    refused(table(header + bytes(8), [(1, [(0, len(header) + 8)])], codec=0), "no end within")
    data = lying_table(rows=5000, data_page_size=1000)
    assert len(walk(data)) == 5
    monkeypatch.setattr(parquet_pages, "MAX_HEADERS_BYTES", 60)
    refused(data, "bytes of their headers")


def test_row_groups_are_bounded_and_have_the_rows_of_the_file(monkeypatch):
    packed, size = zeros(1)
    whole = page(1, size, packed)
    groups = [(1, [(n * len(whole), (n + 1) * len(whole))]) for n in range(5)]
    assert len(walk(table(5 * whole, groups))) == 5
    for rows in (4, 6):
        refused(table(5 * whole, groups, rows=rows), f"5 rows where it says {rows}")
    monkeypatch.setattr(parquet_pages, "MAX_ROW_GROUPS", 4)
    refused(table(5 * whole, groups), "row groups")


def test_pages_have_as_many_values_as_their_column():
    packed, size = zeros(2)
    whole = page(2, size, packed)
    for rows, match in ((1, "more values"), (3, "fewer values")):
        refused(table(whole, [(rows, [(0, len(whole))])]), match)


# -- a market's own file -----------------------------------------------------------------------------------------------


def written(tmp_path, columns, **options):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("spread", ["over columns", "over pages"])
def test_pages_of_one_batch_are_counted_together(tmp_path, monkeypatch, spread):
    numbers = np.arange(10_000)
    columns = {"a": numbers, "b": numbers} if spread == "over columns" else {"a": numbers}
    small = {"data_page_size": 8000, "write_batch_size": 100} if spread == "over pages" else {}
    path = written(tmp_path, columns, use_dictionary=False, compression="none", **small)
    pages = walk(path.read_bytes(), columns)
    limit = 100_000 if spread == "over columns" else 50_000
    assert all(found.size <= limit for found in pages)  # one by one, as they were looked at
    assert largest_batch(pages, 2**18) > limit
    rows = ParquetRows(path)
    monkeypatch.setattr("fedmm_secure.data.parquet.MAX_BATCH_BYTES", limit)
    with pytest.raises(DataError, match="unpack to more than"):
        list(rows.blocks({name: at for at, name in enumerate(columns)}))
    with pytest.raises(DataError, match="unpack to more than") if spread == "over pages" else nullcontext():
        list(rows.blocks({"a": 0}))
    if spread == "over pages":  # fewer rows at a time are fewer pages
        assert sum(len(block.lines) for block in rows.blocks({"a": 0}, 3000)) == 10_000


def test_a_dictionary_is_there_for_all_rows_of_its_group(tmp_path):
    path = written(tmp_path, {"a": np.arange(1000) % 500}, row_group_size=300)
    pages = walk(path.read_bytes(), ("a",))
    first = [found for found in pages if found.first < 300]
    assert [found[1:] for found in first] == [(0, 300)] * 2
    assert largest_batch(pages, 300) == max(sum(p.size for p in pages if p.first == at) for at in (0, 300, 600, 900))
    assert all(before.first <= after.first for before, after in pairwise(pages))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_a_word_that_a_file_repeats_is_cut_before_it_is_there_for_each_row(tmp_path, kind):
    word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array(["x" * 1000]).cast(kind))
    users = pa.array([f"u{n % 50}" if n % 7 else None for n in range(10_000)])
    path = written(tmp_path, {"user": users, "item": word}, compression="zstd", store_schema=False)
    assert path.stat().st_size < 50_000
    (block,) = ParquetRows(path).blocks({"item": 1})
    assert block.columns["item"].dictionary_decode().nbytes > 10**7  # as it was
    found = parquet_sample(path)
    assert found.columns[1].nbytes < 1.2 * 10**6
    assert found.columns[1].to_pylist() == ["x" * LETTERS if kind != pa.binary() else b"x" * LETTERS] * 10_000
    assert found.columns[0].to_pylist() == users.to_pylist()
    assert guessing.guess_file(path, {}).item == "item"


def test_columns_of_a_first_guess_are_bounded(tmp_path, monkeypatch):
    columns = {f"c{n}": ["x"] * 100 for n in range(20)}
    path = written(tmp_path, columns)
    monkeypatch.setattr(sample, "SAMPLE_CELLS", 200)
    assert {len(column) for column in parquet_sample(path).columns} == {10}
    monkeypatch.setattr(text, "MAX_COLUMNS", 19)
    with pytest.raises(DataError, match="more than 19 columns"):
        parquet_sample(path)
