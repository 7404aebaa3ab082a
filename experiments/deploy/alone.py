"""One process at a time: a lock on a file, which the kernel gives back however its holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmm_secure.errors import RunDirectoryError


@contextmanager
def alone(path: Path, whom: str) -> Iterator[None]:
    """Hold a lock, in a folder that is there.

    Args:
        path: of the lock's file.
        whom: the holder answers for, in the words of the refusal.

    Raises:
        RunDirectoryError: it cannot be made, or another process holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(f"{path.parent}: another process answers for this {whom}") from None
        yield
    finally:
        os.close(descriptor)
