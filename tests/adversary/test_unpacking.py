"""Files that state sizes: whoever believes what a file says of itself unpacks whatever it holds.

Each attack first passes the check that stood here, in short, and then fails on the product.
"""

import contextlib
import io
import struct
import sys
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.data.loaders import MarketFile, load_market
from fedmm_secure.data.parquet import MAX_BATCH_BYTES, ParquetRows
from fedmm_secure.errors import DataError
from fedmm_secure.foreign import archives
from fedmm_secure.foreign.archives import ArchiveError, stored_members
from fedmm_secure.foreign.formats import parse_arrays, parse_table, parse_tensors, unpickle_tensors
from fedmm_secure.foreign.parquet_pages import PageError, unpacked_pages
from fedmm_secure.guarantee.published_arrays import PublicationError, read_tensors
from fedmm_secure.storage.files import torch_bytes
from privacy.foreign import ForeignFileError
from tests.malicious import word_bomb
from tests.unpacking import (
    END,
    deflated,
    lying_table,
    shared_prefixes,
    tensor_of_old,
    tensor_out_of_a_number,
    two_directories,
    varint,
)

LIMIT = 2**20


def refused(call, *arguments, match=None, error=ForeignFileError, **named):
    with pytest.raises(error, match=match) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)


# -- tables ------------------------------------------------------------------------------------------------------------


def stated(file):
    """What the footer says, as it was checked."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    return sum(group.column(0).total_uncompressed_size for group in groups)


def test_a_footer_that_lies_about_what_a_table_unpacks_to():
    data = lying_table()
    file = pq.ParquetFile(io.BytesIO(data))
    assert len(data) < 10_000
    assert stated(file) <= LIMIT < file.read().nbytes  # the check passes, and eight megabytes arrive
    refused(parse_table, data, "file", limit=LIMIT, match="in memory")
    assert len(parse_table(data, "file")) == 2**20


def test_a_page_is_measured_before_it_is_unpacked(monkeypatch):
    """All of a table in one page: what arrives is counted too late."""
    data = lying_table(data_page_size=2**24, max_rows_per_page=2**21)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **named: pytest.fail("was unpacked"))
    refused(parse_table, data, "file", limit=LIMIT, match="in memory")


def test_a_page_that_lies_too_unpacks_to_no_more_than_it_says():
    data = lying_table(rows=2**16, data_page_size=2**24, max_rows_per_page=2**21)
    (page,) = sizes(data)
    true = varint(page)
    assert data.count(true) == 1  # in the page's own header
    lying = data.replace(true, varint(1000, len(true)))
    assert sum(sizes(lying)) == 1000
    refused(parse_table, lying, "file", limit=LIMIT, match="no table")


def sizes(data, columns=("id",)):
    source = pa.BufferReader(data)
    return [page.size for page in unpacked_pages(source, pq.ParquetFile(source).metadata, columns)]


def market_file(tmp_path, data):
    path = tmp_path / "m.parquet"
    path.write_bytes(data)
    return MarketFile(path=path, user="id", item="item")


def test_a_markets_own_table_is_measured_by_the_page(tmp_path, monkeypatch):
    data = lying_table(data_page_size=2**24, max_rows_per_page=2**21)
    monkeypatch.setattr("fedmm_secure.data.parquet.MAX_BATCH_BYTES", LIMIT)
    rows = ParquetRows(market_file(tmp_path, data).path)
    refused(lambda: list(rows.blocks({"user": 0})), error=DataError, match="unpack to more than")
    assert MAX_BATCH_BYTES < 2**31


def test_a_word_that_a_markets_table_repeats_is_in_memory_once(tmp_path):
    """A hundred thousand rows of a million letters, in a few hundred bytes."""
    path = market_file(tmp_path, word_bomb(("id", "item"))).path
    (block,) = ParquetRows(path).blocks({"user": 0, "item": 1})
    assert len(block.columns["user"]) == 10**5
    assert block.columns["user"].nbytes < 10**7
    assert block.columns["user"].type == pa.dictionary(pa.int32(), pa.string())
    refused(load_market, MarketFile(path=path, user="id", item="item"), "m", error=DataError, match="only 1 user")


def test_texts_that_share_all_of_the_one_before(tmp_path):
    data = shared_prefixes(words=64)
    assert len(data) < 10_000
    assert (
        pq.ParquetFile(io.BytesIO(data)).read().nbytes > 2**26 > sum(sizes_of_growing(data))
    )  # 64 times what pages say
    refused(parse_table, data, "file", match="DELTA_BYTE_ARRAY")
    rows = ParquetRows(market_file(tmp_path, data).path)
    refused(lambda: list(rows.blocks({"user": 0})), error=DataError, match="write it again with plain")


def sizes_of_growing(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmm_secure.foreign.parquet_pages._GROWING", {})
        return sizes(data)


WAYS = [
    {"compression": compression, "data_page_version": version, **more}
    for compression in ("snappy", "zstd", "none")
    for version in ("1.0", "2.0")
    for more in ({}, {"use_dictionary": False}, {"row_group_size": 700}, {"write_page_index": True})
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_pages_of_an_honest_table_unpack_to_what_its_footer_says(way):
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    table = pa.table(
        {"id": [f"u{n % 900}" for n in range(2000)], "x": rng.random(2000), "n": pa.nulls(2000, pa.int32())}
    )
    pq.write_table(table, buffer, **way)
    data = buffer.getvalue()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    for position, name in enumerate(table.column_names):
        footer = sum(group.column(position).total_uncompressed_size for group in groups)
        found = sizes(data, (name,))
        assert sum(found) <= footer <= sum(found) + 200 * len(found)  # beside the headers of the pages
    assert parse_table(data, "file", ["x"])["x"].tolist() == table["x"].to_pylist()


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_pages_of_a_damaged_table_are_measured_or_refused(changes):
    data = bytearray(HONEST)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(PageError, pa.ArrowException, OSError, UnicodeDecodeError):
        assert len(sizes(bytes(data))) <= len(data)


HONEST = lying_table(rows=5000, says=40_000, data_page_size=1000)


# -- archives ----------------------------------------------------------------------------------------------------------


def test_an_archive_with_two_directories():
    data = two_directories()
    assert len(data) < 50_000
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # the check, in Python
        assert sum(entry.file_size for entry in archive.infolist()) < 100
        assert len(set(archive.namelist())) == len(archive.namelist())
    assert torch.load(io.BytesIO(data), weights_only=True)["a"].nbytes == 2**23  # and what was unpacked
    refused(parse_tensors, data, "file", match="does not stand before its end")
    refused(unpickle_tensors, data, "file")
    refused(read_tensors, data, {"a": ((2**21,), "float32")}, error=(ArchiveError, PublicationError))


def honest():
    return torch_bytes({"a": torch.arange(5), "b": torch.ones(2, 3)})


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(5), b=np.ones(3))
    return buffer.getvalue()


def ended(data, **changed):
    """With another record of the end."""
    names = ("signature", "disk", "first", "here", "count", "size", "start", "comment")
    fields = dict(zip(names, END.unpack(data[-END.size :]), strict=True)) | changed
    return data[: -END.size] + END.pack(*fields.values())


LOOSE = {
    "bytes before it": lambda data: b"#!/bin/sh\n" + data,
    "bytes behind it": lambda data: data + b"x",
    "a comment": lambda data: ended(data, comment=4) + b"abcd",
    "another archive behind it": lambda data: data + data,
    "an end inside the comment": lambda data: ended(data, comment=END.size) + data[-END.size :],
    "more members than it has": lambda data: ended(data, count=99, here=99),
    "a directory elsewhere": lambda data: ended(data, start=0),
    "compression": deflated,
    "nothing": lambda data: b"",
    "its end alone": lambda data: data[-END.size :],
    "nothing but an end": lambda data: END.pack(b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0),
    "an end of nothing behind it": lambda data: data + END.pack(b"PK\x05\x06", 0, 0, 0, 0, 0, len(data), 0),
}


@pytest.mark.parametrize("what", LOOSE)
@pytest.mark.parametrize(
    ("parse", "make"), [(parse_tensors, honest), (parse_arrays, arrays)], ids=["tensors", "arrays"]
)
def test_an_archive_that_can_be_read_in_two_ways(what, parse, make):
    assert set(parse(make(), "file")) == {"a", "b"}
    refused(parse, LOOSE[what](make()), "file")


@pytest.mark.parametrize(("make", "match"), [(tensor_of_old, "holds nothing"), (tensor_out_of_a_number, "FloatTensor")])
def test_a_tensor_whose_values_are_in_no_archive(make, match):
    data = make(10**6)
    assert len(data) < 2000
    assert torch.load(io.BytesIO(data), weights_only=True)["a"].nbytes == 4 * 10**6
    refused(parse_tensors, data, "file", match=match)
    refused(read_tensors, data, {"a": ((10**6,), "float32")}, error=(ArchiveError, PublicationError), match=match)


def with_pickle(old, new):
    """The archive of ``honest``, with something else in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(honest())) as known, zipfile.ZipFile(buffer, "w") as changed:
        for name in known.namelist():
            data = known.read(name)
            assert not name.endswith("data.pkl") or data.count(old) == 1
            changed.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"K\x05\x85", b"M\x00\x10\x85"), (b"cpuq\x06K\x05t", b"cpuq\x06M\x00\x10t")],
    ids=["shape", "storage"],
)
def test_a_tensor_that_says_it_is_larger_than_its_storage(old, new):
    assert set(parse_tensors(with_pickle(old, old), "file")) == {"a", "b"}
    refused(parse_tensors, with_pickle(old, new), "file", match="resize|does not match")


def rewritten(data, at_field, value, format, *, local):
    """With another value in each header of a member, or in each entry of the directory."""
    signature, changed, at = b"PK\x03\x04" if local else b"PK\x01\x02", bytearray(data), -1
    while (at := data.find(signature, at + 1)) >= 0:
        struct.pack_into(format, changed, at + at_field, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"at_field": 24, "value": 1, "format": "<I", "local": False},  # size
        {"at_field": 20, "value": 1, "format": "<I", "local": False},  # packed size
        {"at_field": 42, "value": 0, "format": "<I", "local": False},  # all members at one place
        {"at_field": 10, "value": 8, "format": "<H", "local": False},  # compressed
        {"at_field": 8, "value": 8, "format": "<H", "local": True},
        {"at_field": 8, "value": 1, "format": "<H", "local": False},  # encrypted
        {"at_field": 16, "value": 0, "format": "<I", "local": False},  # checksum
        {"at_field": 30, "value": 0x21, "format": "<B", "local": True},  # name
    ],
    ids=str,
)
def test_a_directory_and_members_that_do_not_say_the_same(change):
    refused(stored_members, rewritten(arrays(), **change), error=ArchiveError)


def test_a_member_that_is_there_twice():
    twice = io.BytesIO(arrays())
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", b"")
    refused(parse_arrays, twice.getvalue(), "file", match="twice")
    other_case = io.BytesIO(arrays())  # PyTorch's reader asks for a name in any case
    with zipfile.ZipFile(other_case, "a") as archive:
        archive.writestr("A.NPY", b"")
    refused(parse_arrays, other_case.getvalue(), "file", match="twice")


def archive_of(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()


def lowered(data, again):
    """How often a name is put in small letters while an archive is read."""
    count = 0

    def heard(frame, event, called):
        nonlocal count
        count += event == "c_call" and getattr(called, "__name__", "") == "lower"

    sys.setprofile(heard)
    try:
        again(data)
    finally:
        sys.setprofile(None)
    return count


def looked_up_one_by_one(data):
    """As it was: each name was held against all before it, and 7 MB took ten minutes."""
    found = []
    for name in stored_members(data):
        assert name.lower() not in {known.lower() for known in found}
        found.append(name)


def test_many_members_are_each_looked_up_once():
    data = archive_of(map(str, range(500)))
    assert lowered(data, stored_members) <= 2 * 500
    assert lowered(data, looked_up_one_by_one) > 500 * 499 / 2


def within_each_other(count, size):
    """An archive whose members each reach to the end of all: of so many times its own bytes if each is read."""
    rest, heads, entries = bytes(size), b"", b""
    names = [f"{number:05}".encode() for number in range(count)]
    starts = [number * (30 + 5) for number in range(count)]
    total, checksum = count * 35 + size, zlib.crc32(rest)
    for name, start in zip(reversed(names), reversed(starts), strict=True):
        length = total - start - 35
        fields = (20, 0, 0, 0, 0, checksum, length, length, 5)
        head = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields, 0) + name
        entries += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0, start) + name
        heads = head + heads
        checksum = zlib.crc32(heads + rest)
    return heads + rest + entries + END.pack(b"PK\x05\x06", 0, 0, count, count, len(entries), total, 0)


def test_members_that_overlap_are_refused_before_they_are_read(monkeypatch):
    read, honest_sum = [], zlib.crc32
    data = within_each_other(100, 10_000)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert len(names) == 100
    monkeypatch.setattr(archives.zlib, "crc32", lambda member: read.append(len(member)) or honest_sum(member))
    refused(stored_members, data, error=ArchiveError, match="overlap")
    assert sum(read) <= len(data)
    with monkeypatch.context() as patch:  # as it was: once for each of them
        patch.setattr(archives, "pairwise", lambda spans: ())
        assert stored_members(data).keys() == set(names)
    assert sum(read) > 50 * len(data)


def test_members_of_a_large_archive():
    data = arrays()
    assert "a.npy" in stored_members(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == stored_members(data)
    many = torch_bytes({f"t{n}": torch.full((1,), n) for n in range(300)})
    assert len(parse_tensors(many, "file")) == 300


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    make=st.sampled_from([honest, arrays]),
)
def test_a_damaged_archive_is_no_larger_than_its_bytes_or_refused(changes, make):
    data = bytearray(make())
    for at, value in changes:
        data[at % len(data)] = value
    try:
        found = stored_members(bytes(data))
    except ArchiveError:
        return
    assert sum(map(len, found.values())) <= len(data)
