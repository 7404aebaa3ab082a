"""Kinds of files that are no text, by how they begin; what a name ends in says nothing of them."""

from __future__ import annotations

import re

HEAD_BYTES = 16  # as many are looked at
_SAVE = "unpack it, or save it as CSV, gzip or Parquet"
_KINDS = (  # each begins as no line of text does
    (re.compile(rb"PAR1[\x00-\x08\x0b\x0c\x0e-\x1f]", re.DOTALL), "a Parquet file", "rename it to end in .parquet"),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a ZIP or Excel file", _SAVE),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "a Zstandard file", _SAVE),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), "a bzip2 file", _SAVE),
    (re.compile(rb"\xfd7zXZ\x00"), "an xz file", _SAVE),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z file", _SAVE),
    (re.compile(rb"\x1f\x8b"), "gzip in gzip", "unpack it once"),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an Excel file", "save it as CSV"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text", "save it as UTF-8"),
)


class FileKindError(ValueError):
    """A file of a kind that is not read; one line that says which, and what to do."""


def refuse_other_kinds(head: bytes) -> None:
    """Raises ``FileKindError`` where text, from behind gzip if it was there, begins as another kind of file does.

    Mind that the first line of rows without a header is one user's: refuse nothing for it that holds rows of others.
    """
    for begins, kind, remedy in _KINDS:
        if begins.match(head[:HEAD_BYTES]):
            raise FileKindError(f"is {kind}, not UTF-8 text; {remedy}")
