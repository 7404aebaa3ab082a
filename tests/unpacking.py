"""Small files that say they are small, and are large once somebody who did not check them has unpacked them."""

import io
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fedmm_secure.storage import torch_bytes

END = struct.Struct("<4s4H2IH")
CENTRAL = 46


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
    number, found = number << 1, bytearray()
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
