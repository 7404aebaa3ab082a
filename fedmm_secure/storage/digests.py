"""Hashes: as files state them, and of arrays, for what is kept under the hash of its inputs."""

from __future__ import annotations

import hashlib
from typing import Annotated

import numpy as np
from pydantic import Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def arrays_digest(*arrays: np.ndarray, start: bytes = b"") -> str:
    """Hash of arrays: types, shapes and values."""
    digest = hashlib.sha256(start)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
