"""How publications are written: of the same arrays always the same bytes, so that nothing fits between them.

Archive comments, blanks in headers, bytes before an archive and the order of its members carry no meaning, and room for
a message. Who checks a publication writes what was read of it again, and compares.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privacy.arrays import Array

_NPY = b"\x93NUMPY\x01\x00"
_ALIGNED = 64  # bytes that a header's length is a multiple of
_GROWTH = 21  # digits that a header has room for, should its array grow


def array_bytes(values: Array) -> bytes:
    """One array as a file: what ``numpy.save`` writes, byte for byte, whatever its version.

    Raises:
        ValueError: an array of objects or of structures.
    """
    values = np.array(values, order="C")
    if values.dtype.hasobject or values.dtype.names:
        raise ValueError(f"not an array of numbers or text: {values.dtype}")
    shape = "".join(f"{size}, " for size in values.shape).rstrip(" ") if values.ndim == 1 else str(values.shape)[1:-1]
    header = f"{{'descr': '{values.dtype.str}', 'fortran_order': False, 'shape': ({shape}), }}"
    header += " " * (_GROWTH - len(str(values.shape[0])) if values.ndim else 0)
    before = len(_NPY) + 2
    header += " " * (-(before + len(header) + 1) % _ALIGNED) + "\n"
    return _NPY + len(header).to_bytes(2, "little") + header.encode("ascii") + values.tobytes()


def arrays_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Named arrays as a file, by name: what ``numpy.savez`` writes, byte for byte, whatever its version."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(array_bytes(arrays[name]))
    return buffer.getvalue()


def read_arrays(data: bytes) -> dict[str, Array]:
    """What ``arrays_bytes`` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as kept:
        return {key: kept[key] for key in kept.files}


def tensors_bytes(state: Mapping[str, Any]) -> bytes:
    """Named tensors, some of them in mappings, as a file; by name, each in a storage of its own."""
    buffer = io.BytesIO()
    torch.save(_plain(state), buffer)
    return buffer.getvalue()


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        if isinstance(value, Tensor)
        else _plain(value)
        for name, value in sorted(state.items())
    }


def nested(arrays: Mapping[str, Array], group: str) -> dict[str, Any]:
    """Tensors of flat names, those of ``<group>.`` in a mapping of their own where there are any."""
    found: dict[str, Any] = {}
    for name, values in arrays.items():
        of, _, inner = name.partition(".")
        into, key = (found.setdefault(group, {}), inner) if of == group and inner else (found, name)
        into[key] = torch.from_numpy(np.array(values, order="C"))
    return found
