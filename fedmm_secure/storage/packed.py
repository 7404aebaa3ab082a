"""A directory as one archive, from a worker to the machine that ordered its work."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

_PLAIN = (tarfile.REGTYPE, tarfile.DIRTYPE)


def pack_directory(directory: Path) -> bytes:
    """A directory and what is below it; not compressed, so that nothing unpacks into more than arrived."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as archive:
        archive.add(directory, arcname=".")
    return packed.getvalue()


def unpack_directory(packed: bytes, directory: Path) -> None:
    """Write what was packed into an empty directory: plain files and folders.

    Raises:
        tarfile.TarError: it is no such archive, or names a link, a device, a file with holes or a place outside.
    """
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        for member in archive:
            if member.type not in _PLAIN:
                raise tarfile.ReadError(f"{member.name!r:.100} is neither a file nor a folder")
            archive.extract(member, directory, filter="data")
