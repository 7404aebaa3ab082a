"""What a small file may become: bytes behind gzip, and cells of a table, are bounded by the file's own size.

A file that people made has an entropy: some bits of a user, an item, a time in every row. One that was made to be
large once it is read has none, and so its size bounds the work; below a generous floor nobody minds.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
FREE_BYTES, BYTES_PER_BYTE = 2**24, 64  # text behind gzip: real tables shrink to a tenth, rarely to a thirtieth
FREE_CELLS, CELLS_PER_BYTE = 2**23, 4  # a row of four columns in a byte; plain text never has more
_CHUNK = 2**16


class GrowthError(ValueError):
    """A file that is far more than its size says, or whose gzip is damaged; one line."""


def size_of(raw: BinaryIO) -> int:
    """Bytes of an open file, which is at its beginning after."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    return size


def refuse_cells(rows: int, columns: int, size: int) -> None:
    """Raises ``GrowthError`` where a file of so many bytes has more cells than any that was not made for it."""
    most = FREE_CELLS + CELLS_PER_BYTE * size
    if rows * columns > most:
        raise GrowthError(f"{rows} rows of {columns} columns in {size} bytes; at most {most} cells are read of them")


class Unzipped:
    """An open file, plain or gzip, read in turn; never more of it than its size allows."""

    def __init__(self, raw: BinaryIO) -> None:
        self.size = size_of(raw)
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        self._binary: BinaryIO = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
        self._left = FREE_BYTES + BYTES_PER_BYTE * self.size

    def read(self, most: int) -> bytes:
        """So many bytes, fewer only at the end; raises ``GrowthError``."""
        try:
            data = self._binary.read(most)
        except (OSError, EOFError, zlib.error) as error:
            raise GrowthError(f"cannot be read: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise GrowthError(
                f"its {self.size} bytes unpack to more than {FREE_BYTES + BYTES_PER_BYTE * self.size}; unpack it first"
            )
        return data

    def read_all(self) -> bytes:
        """All that is left; raises ``GrowthError``."""
        parts = io.BytesIO()
        while data := self.read(_CHUNK):
            parts.write(data)
        return parts.getvalue()
