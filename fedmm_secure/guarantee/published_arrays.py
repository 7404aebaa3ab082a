"""Arrays of a publication, read as somebody else's: sizes are compared before anything is unpacked."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fedmm_secure.foreign.archives import stored_members
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.guarantee.expected_arrays import Expected
from privacy.arrays import Array
from privacy.foreign import ForeignFileError

_OVERHEAD, _OVERHEAD_EACH = 4096, 512  # bytes of a file beside its arrays, and beside each of them


class PublicationError(ValueError):
    """Bytes that are not what a stage publishes."""


def read_numpy(data: bytes, expected: Expected, *, single: bool = False) -> dict[str, Array]:
    """Named arrays of a file that ``numpy.savez`` wrote, or the one array of ``numpy.save``.

    Raises:
        PublicationError: an array is missing, or not expected, or of another shape or type, or more bytes are there.
    """
    _refuse_large(len(data), expected)
    if single:
        (name,) = expected
        return {name: _array(name, data, expected)}
    members = stored_members(data)
    _compare_names({name.removesuffix(".npy") for name in members}, expected, len(members))
    return {name: _array(name, bytes(members[f"{name}.npy"]), expected) for name in expected}


def _array(name: str, data: bytes, expected: Expected) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise PublicationError(f"{name}: an array format that nothing here writes")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    _compare(name, shape, str(dtype), expected)
    if len(data) != stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise PublicationError(f"{name}: more bytes, or fewer, than its values have")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def read_tensors(data: bytes, expected: Expected) -> dict[str, Array]:
    """Named tensors of a file that ``torch.save`` wrote; those of a mapping inside have its name before theirs.

    Raises:
        PublicationError: a tensor is missing, or not expected, or of another shape or type, or more bytes are there.
    """
    _refuse_large(len(data), expected)
    storages = sum("/data/" in name for name in stored_members(data))
    try:
        tensors = _flat(unpickle_tensors(data, "cannot be read"))
    except ForeignFileError as error:
        raise PublicationError(str(error)) from error
    _compare_names(set(tensors), expected, len(tensors))
    if storages != len(expected):
        raise PublicationError(f"{storages} storages for {len(expected)} tensors")
    found = {}
    for name, tensor in tensors.items():
        _compare(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), expected)
        # a view of a larger storage would carry the rest of it along
        if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            raise PublicationError(f"{name}: its storage holds more than its values")
        found[name] = tensor.detach().numpy()
    return found


def _flat(found: Any, prefix: str = "") -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise PublicationError("holds no mapping of names to tensors")
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not prefix:
            tensors |= _flat(value, f"{name}.")
        elif isinstance(value, Tensor):
            tensors[name] = value
        else:
            raise PublicationError(f"{name!r:.100} is no tensor")
    return tensors


def _refuse_large(size: int, expected: Expected) -> None:
    needed = sum(_bytes(shape, dtype) for shape, dtype in expected.values())
    if size > needed + _OVERHEAD + _OVERHEAD_EACH * len(expected):
        raise PublicationError(f"{size} bytes, where its arrays need {needed}: holds more than them")


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return abs(int(np.prod(shape, dtype=object))) * np.dtype(dtype).itemsize


def _fits(length: int, wanted: int) -> bool:
    return length == wanted if wanted >= 0 else 0 <= length <= -wanted


def _compare_names(found: set[str], expected: Expected, count: int) -> None:
    for name in sorted(found ^ expected.keys()):
        raise PublicationError(f"{name!r:.100} {'is missing' if name in expected else 'is nothing that it publishes'}")
    if count != len(expected):
        raise PublicationError("an array is there twice")


def _compare(name: str, shape: tuple[int, ...], dtype: str, expected: Expected) -> None:
    wanted, kind = expected[name]
    fits = len(shape) == len(wanted) and all(map(_fits, shape, wanted))
    if not fits or dtype != kind:
        raise PublicationError(f"{name} is {dtype} of shape {shape}, where {kind} of shape {wanted} was expected")
