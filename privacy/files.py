"""Files that only their owner may read, written so that nobody's link is followed."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from privacy.json_text import json_text

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
_FOLDER = 0o700


class KeyFileError(InputError):
    """A key, card, bundle or invitation that is missing, malformed, forged, or may be read by others."""


def private_folder(path: Path) -> None:
    """Make a directory, and those above it that are missing, for their owner alone, whatever the umask."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=_FOLDER, exist_ok=True)


def open_private(path: Path, flags: int, mode: int = PRIVATE_MODE) -> int:
    """A descriptor of a file that, where it is made, only its owner may read; a link at its name is refused."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold a file that is for nothing else, which is made where there is none, against all who hold it; waits."""
    private_folder(path.parent)
    with os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_atomic(path: Path, data: bytes, mode: int = PRIVATE_MODE, *, replace: bool = True) -> None:
    """Write so that the file is either absent, old, or complete; survives a crash once this returns.

    What is written first has a name that nobody can foresee, and is made anew or not at all: a link that somebody put
    there is not followed. A link at ``path`` itself is replaced, not followed.

    Args:
        path: the file.
        data: all of it.
        mode: of the file, whatever the umask.
        replace: whether a file that is there gives way.

    Raises:
        FileExistsError: it does not.
    """
    private_folder(path.parent)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path, follow_symlinks=False)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A file of mode 0600 in a directory of mode 0700."""
    try:
        write_atomic(path, data, replace=replace)
    except FileExistsError:
        raise KeyFileError(f"{path}: exists already") from None


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

    Overwriting is best effort: file systems that copy on write and flash memory keep what they keep. A disk that does
    not take the zeros, as a full one may not, still loses the file.
    """
    try:
        with os.fdopen(open_private(path, os.O_RDWR), "r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    finally:
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make a directory's names survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def one_time(directory: Path, at: datetime) -> None:
    """Give a directory and everything below it one time.

    Archives keep times: the order in which files were written tells whose took longer, and their age how long all took.
    """
    now = int(at.timestamp()) * 10**9
    for folder, folders, files in os.walk(directory, topdown=False):
        for name in (*files, *folders):
            os.utime(os.path.join(folder, name), ns=(now, now), follow_symlinks=False)
    os.utime(directory, ns=(now, now), follow_symlinks=False)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with sorted keys; NaN is refused."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The one spelling of a value in the files of a run."""
    return (json_text(value, indent=2, sort_keys=True) + "\n").encode()
