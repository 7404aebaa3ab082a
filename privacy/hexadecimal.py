"""Bytes as texts of hexadecimal digits, in the one spelling that ``bytes.hex`` writes.

``bytes.fromhex`` skips blanks and takes capitals. In a text that somebody else wrote both are room for a message that
nobody sees: beside a signature that holds, or in it.
"""

from __future__ import annotations

import re
from typing import TypeGuard

_DIGEST = re.compile(r"[0-9a-f]{64}")


def bytes_of(text: str) -> bytes:
    """The bytes of a text that ``bytes.hex`` gave.

    Raises:
        TypeError: it is no text.
        ValueError: it is spelled otherwise.
    """
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("hexadecimal digits are small, with nothing between them")
    return found


def is_digest(value: object) -> TypeGuard[str]:
    """Whether a value is a hash of 256 bits as ``hexdigest`` spells it."""
    return type(value) is str and _DIGEST.fullmatch(value) is not None
