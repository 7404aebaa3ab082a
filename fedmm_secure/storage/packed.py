"""A directory as one archive, from a worker to the machine that ordered its work."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def pack_directory(directory: Path) -> bytes:
    """A directory and what is below it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        archive.add(directory, arcname=".")
    return packed.getvalue()


def unpack_directory(packed: bytes, directory: Path) -> None:
    """Write what was packed into an empty directory.

    Raises:
        tarfile.TarError: it is no archive, or names a place outside of the directory, a device or a link out of it.
    """
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        archive.extractall(directory, filter="data")
