"""Formats of somebody else's files: arrays, tensors, tables; each of bounded size once it is unpacked.

What the bytes are read with is ``privacy.foreign``; here they are parsed. A small file can unpack into an endless one:
by compression, by a shape that its bytes do not fill, by a word that a table repeats. YAML has a module of its own.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from fedmm_secure.foreign.archives import stored_members
from fedmm_secure.foreign.growth import refuse_cells
from fedmm_secure.foreign.parquet_pages import unpacked_pages
from privacy.foreign import MAX_BYTES, ForeignFileError

MAX_CELLS = 2**27  # of a table
_BATCH_ROWS = 4096
# of a pickle: what names something that can be called, and the names that tensors of an archive need
_CALLED = frozenset({"GLOBAL", "STACK_GLOBAL", "INST"})
_KINDS = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_NAMES = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in _KINDS)}
)


# -- arrays and tensors ------------------------------------------------------------------------------------------------


def parse_arrays(data: bytes, where: Path | str) -> dict[str, NDArray[Any]]:
    """Named arrays of a file that ``numpy.savez`` wrote.

    Raises:
        ForeignFileError: it is none, or an array is not as large as its bytes.
    """
    try:
        return {
            name.removesuffix(".npy"): _array(bytes(member), f"{where} {name[:100]}")
            for name, member in stored_members(data).items()
        }
    except (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, LookupError) as error:
        raise ForeignFileError(f"{where}: no arrays: {str(error)[:200]}") from error


def _array(data: bytes, where: str) -> NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("an array format that nothing here writes")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if len(data) != stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise ForeignFileError(f"{where}: more bytes, or fewer, than its values have")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def parse_tensors(data: bytes, where: Path | str) -> dict[str, torch.Tensor]:
    """Named tensors of a file that ``torch.save`` wrote; nothing but tensors is in it, and no code is run.

    Raises:
        ForeignFileError: it holds something else, or a tensor that is larger than its bytes.
    """
    found = unpickle_tensors(data, where)
    if not isinstance(found, Mapping) or not all(_is_plain(name, tensor) for name, tensor in found.items()):
        raise ForeignFileError(f"{where}: holds something other than named tensors of their own size")
    return dict(found)


def unpickle_tensors(data: bytes, where: Path | str) -> Any:
    """Whatever ``torch.save`` wrote; no code is run, and nothing unpacks. Raises ``ForeignFileError``."""
    try:
        # begins as an archive does: torch reads everything else as a format of old, whose sizes nothing checks
        _refuse_makers(stored_members(data))
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader stumbles over
        raise ForeignFileError(f"{where}: no tensors: {_first_line(error)}") from error


def _refuse_makers(members: Mapping[str, memoryview]) -> None:
    """Tensors are views of what is in the archive: nothing that makes one of any size out of a number is called."""
    pickles = [member for name, member in members.items() if name.lower().endswith("data.pkl")]
    if not pickles:
        raise ForeignFileError("no data.pkl in it")
    for member in pickles:
        for operation, named, _ in pickletools.genops(bytes(member)):
            if operation.name in _CALLED and named not in _NAMES:
                raise ForeignFileError(f"its pickle names {str(named)[:100]!r}, which is no part of a tensor")


def _is_plain(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )


# -- tables ------------------------------------------------------------------------------------------------------------


def parse_table(
    data: bytes,
    where: Path | str,
    columns: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    limit: int = MAX_BYTES,
) -> pd.DataFrame:
    """A table of a Parquet file; columns of text are categorical, so that a word which it repeats is there once.

    Args:
        data: the file.
        where: names it.
        columns: those that are wanted, all of them where left out.
        rows: how many it must have; any number where left out.
        limit: most bytes in memory.

    Raises:
        ForeignFileError: it is none, a column is missing, or it is larger than it may be.
    """
    try:
        source = pa.BufferReader(data)
        schema = pq.read_schema(source)
        texts = [field.name for field in schema if _is_text(field.type)]
        file = pq.ParquetFile(source, read_dictionary=texts, pre_buffer=False)
        names = list(columns) if columns is not None else schema.names
        problem = _table_problem(file, schema, names, rows)
        if problem:
            raise ForeignFileError(f"{where}: {problem}")
        refuse_cells(file.metadata.num_rows, len(names), len(data))
        batches, size = [], 0
        for page in unpacked_pages(source, file.metadata, set(names)):  # before any of them is
            size += page.size
            if size > limit:
                raise ForeignFileError(f"{where}: more than {limit} bytes in memory")
        size = 0  # and again what arrives: a page may repeat a word
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names, use_threads=False):
            size += batch.nbytes
            if size > limit:
                raise ForeignFileError(f"{where}: more than {limit} bytes in memory")
            batches.append(batch)
        empty = file.schema_arrow.empty_table().select(names)
        table = pa.Table.from_batches(batches) if batches else empty
        if table.num_rows != file.metadata.num_rows:
            raise ForeignFileError(f"{where}: {table.num_rows} rows where it says {file.metadata.num_rows}")
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return frame
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError) as error:
        raise ForeignFileError(f"{where}: no table: {_first_line(error)}") from error


def _table_problem(file: pq.ParquetFile, schema: pa.Schema, names: Sequence[str], rows: int | None) -> str | None:
    if len(set(schema.names)) != len(schema.names):
        return "a column is there twice"
    missing = [name for name in names if name not in schema.names]
    if missing:
        return f"no column {missing[0]!r}"
    nested = [name for name in names if not _is_flat(schema.field(name).type)]
    if nested:
        return f"column {nested[0][:100]!r} holds no plain values"
    found = file.metadata.num_rows
    if rows is not None and found != rows:
        return f"{found} rows where {rows} are expected"
    return f"{found} rows of {len(names)} columns" if found * max(len(names), 1) > MAX_CELLS else None


def _is_flat(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
