"""How publications are written: of the same arrays always the same bytes, so that nothing fits between them.

Archive comments, blanks in headers, bytes before an archive and the order of its members carry no meaning, and room for
a message. Who checks a publication writes what was read of it again, and compares.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privacy.arrays import Array


def array_bytes(values: Array) -> bytes:
    """One array as a file."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, order="C"))
    return buffer.getvalue()


def arrays_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Named arrays as a file, by name."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array(arrays[name], order="C") for name in sorted(arrays)})  # type: ignore[arg-type]
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
        name: value.detach().clone().contiguous() if isinstance(value, Tensor) else _plain(value)
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
