"""Files that only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path

from privacy.errors import InputError


class KeyFileError(InputError):
    """A key, card, bundle or invitation that is missing, malformed, forged, or may be read by others."""


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A file of mode 0600 in a directory of mode 0700."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if path.exists() and not replace:
        temporary.unlink()
        raise KeyFileError(f"{path}: exists already")
    temporary.replace(path)
    sync_directory(path.parent)


def read_secret(path: Path) -> bytes:
    """Bytes of a secret file; raises ``KeyFileError`` if others may read it."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path}: others may read it; chmod 600 it, and make new keys if it was copied")
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None


def erase(path: Path) -> None:
    """Overwrite a secret file and remove it; nothing where there is none.

    Overwriting is best effort: file systems that copy on write and flash memory keep what they keep.
    """
    try:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    path.unlink()


def sync_directory(path: Path) -> None:
    """Make a directory's names survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
