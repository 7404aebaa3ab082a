"""A directory as one archive, from a worker to the machine that ordered its work."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path, PurePosixPath

from fedmm_secure.foreign.archives import ArchiveError, stored_members
from privacy.files import open_private, private_folder
from privacy.foreign import MAX_DEPTH, is_inside

_LONGEST_NAME = 255  # of a file, in bytes: what file systems take


def pack_directory(directory: Path) -> bytes:
    """The files of a directory and below it; not compressed, so that nothing unpacks into more than arrived."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.writestr(zipfile.ZipInfo(path.relative_to(directory).as_posix()), path.read_bytes())
    return packed.getvalue()


def unpack_directory(packed: bytes, directory: Path) -> None:
    """Write what was packed into an empty directory, for its owner alone.

    Raises:
        ArchiveError: it is no such archive, or names what is no file below a directory; nothing was written.
    """
    members = stored_members(packed)
    for name in members:
        if not _is_name(name) or any(above.as_posix() in members for above in PurePosixPath(name).parents):
            raise ArchiveError(f"{name[:100]!a} is no name of a file")
    for name, data in members.items():
        path = directory / name
        private_folder(path.parent)
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)


def _is_name(name: str) -> bool:
    parts = name.split("/")
    spelled = "" not in parts and "." not in parts and len(parts) <= MAX_DEPTH
    return spelled and is_inside(name) and max(map(len, parts)) <= _LONGEST_NAME
