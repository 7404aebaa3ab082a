"""Hashes of arrays, for what is kept under the hash of its inputs."""

from __future__ import annotations

import hashlib

import numpy as np


def arrays_digest(*arrays: np.ndarray, start: bytes = b"") -> str:
    """Hash of arrays: types, shapes and values."""
    digest = hashlib.sha256(start)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
