"""Append-only files of JSON lines that survive a crash, a full disk and a failing sync."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from privacy.files import open_private, private_folder, sync_directory
from privacy.foreign import read_bytes
from privacy.json_text import json_text


class ConcurrentWriteError(InputError):
    """Two processes or threads write to one file."""


def canonical_json(data: Mapping[str, Any]) -> bytes:
    """The one spelling of a JSON object: sorted keys, no spaces; NaN is refused."""
    return json_text(data, sort_keys=True, separators=(",", ":")).encode()


def append_line(path: Path, line: bytes, *, after: int | None = None) -> None:
    """Add a line; when this returns, the line survives a crash.

    Where it does not return, what was written of the line is taken back, as far as the disk allows; a line that stays
    torn is cut off when the file is opened again.

    Args:
        path: the file.
        line: with its line feed.
        after: bytes that the file must have before; others may write to it as well, one at a time.

    Raises:
        ConcurrentWriteError: it has another size.
    """
    private_folder(path.parent)
    created = not path.exists()
    with os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.seek(0, os.SEEK_END)
        if after is not None and before != after:
            raise ConcurrentWriteError(f"{path}: was written to by somebody else; open it again")
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(28, "the disk took a part of a line", str(path))
            os.fsync(file.fileno())
        except BaseException:
            os.ftruncate(file.fileno(), before)
            raise
    if created:
        sync_directory(path.parent)


def drop_torn_tail(path: Path) -> None:
    """Cut an incomplete last line: its sync never returned, so what it stands for never happened.

    For the one who goes on writing alone: readers leave a file as it is. Raises ``ForeignFileError`` where it is none.
    """
    content = read_bytes(path)
    if content and not content.endswith(b"\n"):
        with os.fdopen(open_private(path, os.O_RDWR), "r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())
