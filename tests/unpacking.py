"""Small files that say they are small, and are large once somebody who did not check them has unpacked them."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fedmm_secure.storage.files import torch_bytes

END = struct.Struct("<4s4H2IH")
CENTRAL = 46


def archive_of(files, compression=zipfile.ZIP_STORED):
    """An archive of files by name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def deflated(data):
    """The same archive, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def two_directories(values=2**21):
    """Tensors with two central directories: Python's reader finds the one before the end, whose members are of one byte
    each; PyTorch's the one that the end names, whose members are as large as they are."""
    data = deflated(torch_bytes({"a": torch.zeros(values)}))
    size, start = END.unpack(data[-END.size :])[-3:-1]
    directory = bytearray(data[start : start + size])
    at = 0
    while at < size:
        name, extra, remark = struct.unpack_from("<3H", directory, at + 28)
        struct.pack_into("<I", directory, at + 24, 1)
        at += CENTRAL + name + extra + remark
    return data[: -END.size] + bytes(directory) + data[-END.size :]


def varint(number, size=0):
    """A signed number as Thrift writes it, of at least so many bytes: blanks that mean nothing."""
    return unsigned(number << 1, size)


def unsigned(number, size=0):
    found = bytearray()
    while number or len(found) < max(size, 1):
        found.append(number & 127 | 128)
        number >>= 7
    found[-1] &= 127
    return bytes(found)


def lying_table(rows=2**20, says=1000, **options):
    """A table of zeros whose footer says that it unpacks to ``says`` bytes."""
    buffer = io.BytesIO()
    settings = {"compression": "zstd", "use_dictionary": False, "write_statistics": False} | options
    pq.write_table(pa.table({"id": np.zeros(rows, np.int64)}), buffer, **settings)
    data = buffer.getvalue()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    for group in range(metadata.num_row_groups):
        true = varint(metadata.row_group(group).column(0).total_uncompressed_size)
        data = data.replace(true, varint(says, len(true)))
    return data


def shared_prefixes(words=2**12, length=2**20):
    """Texts that are written as what they have in common with the one before: all of the first, in a few bytes."""
    buffer = io.BytesIO()
    table = pa.table({"id": pa.array(["x" * length]).take(pa.array(np.zeros(words, np.int8)))})
    encoding = {"compression": "zstd", "use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}}
    pq.write_table(table, buffer, write_statistics=False, store_schema=False, **encoding)
    return buffer.getvalue()


# -- Parquet, byte by byte ---------------------------------------------------------------------------------------------

I32, I64, BINARY, LIST, STRUCTURE = 5, 6, 8, 9, 12  # types of Thrift's compact protocol
GZIP = 2  # of Parquet's codecs


def structure(*fields):
    """Of a number, a type and bytes each; every number in its long form, so that any will do."""
    return b"".join(bytes([kind]) + varint(name) + data for name, kind, data in fields) + b"\0"


def listing(kind, parts):
    return bytes([0xF0 | kind]) + unsigned(len(parts)) + b"".join(parts)


def text(name):
    return unsigned(len(name)) + name.encode()


def page(values, size, packed, *more):
    """A page of integers; ``more`` fields are put behind those of its header."""
    encodings = [(name, I32, varint(encoding)) for name, encoding in ((2, 0), (3, 3), (4, 3))]
    data = structure((1, I32, varint(values)), *encodings)
    parts = [(1, I32, varint(0)), (2, I32, varint(size)), (3, I32, varint(len(packed))), (5, STRUCTURE, data)]
    return structure(*parts, *more) + packed


def zeros(values):
    """Packed bytes of integers, and how many they are unpacked."""
    return gzip.compress(bytes(8 * values)), 8 * values


def table(pages, chunks, columns=("id",), rows=None, *, codec=GZIP, says=None):
    """A file of 64-bit integers.

    Args:
        pages: its bytes between the magic ones.
        chunks: by row group, how many rows it has and where each column's pages begin and end.
        columns: their names.
        rows: what it says of all its rows.
        says: what each column calls itself in the row groups.
    """
    names = [structure((4, BINARY, text("schema")), (5, I32, varint(len(columns))))]
    names += [structure((1, I32, varint(2)), (3, I32, varint(0)), (4, BINARY, text(name))) for name in columns]
    groups = []
    for count, spans in chunks:
        parts = []
        for name, (at, end) in zip(says or columns, spans, strict=True):
            fields = [(1, I32, varint(2)), (2, LIST, listing(I32, [varint(0), varint(3)]))]
            fields += [(3, LIST, listing(BINARY, [text(name)])), (4, I32, varint(codec)), (5, I64, varint(count))]
            fields += [(6, I64, varint(end - at)), (7, I64, varint(end - at)), (9, I64, varint(4 + at))]
            parts.append(structure((2, I64, varint(4 + at)), (3, STRUCTURE, structure(*fields))))
        sizes = (2, I64, varint(100)), (3, I64, varint(count))
        groups.append(structure((1, LIST, listing(STRUCTURE, parts)), *sizes))
    rows = sum(count for count, _ in chunks) if rows is None else rows
    parts = [(1, I32, varint(1)), (2, LIST, listing(STRUCTURE, names)), (3, I64, varint(rows))]
    footer = structure(*parts, (4, LIST, listing(STRUCTURE, groups)))
    return b"PAR1" + pages + footer + struct.pack("<I", len(footer)) + b"PAR1"


# -- tensors that are in no archive ------------------------------------------------------------------------------------


def tensor_of_old(values):
    """A tensor as ``torch.save`` wrote it once, without its values, and behind it the end of an archive of nothing."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=False)
    many = b"J" + struct.pack("<i", values)
    data = buffer.getvalue().replace(b"K\x03Ntq\x07QK\x00K\x03\x85", many + b"Ntq\x07QK\x00" + many + b"\x85")
    data = data[: data.rindex(b"\x80\x02]q\x00")] + pickle.dumps([], 2)
    return data + END.pack(b"PK\x05\x06", 0, 0, 0, 0, 0, len(data), 0)


def tensor_out_of_a_number(values):
    """An archive whose pickle calls for a tensor of so many values, of which none are in it."""
    called = b"\x80\x02}X\x01\x00\x00\x00actorch\nFloatTensor\nJ" + struct.pack("<i", values) + b"\x85Rs."
    buffer = io.BytesIO()
    honest = torch_bytes({"a": torch.zeros(3)})
    with zipfile.ZipFile(io.BytesIO(honest)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, called if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()
