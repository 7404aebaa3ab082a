"""Where two JSON values differ, field by field."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq
from typing import Any

Difference = tuple[str, Any, Any]


def differences(expected: Any, found: Any, field: str = "", same: Callable[[Any, Any], bool] = eq) -> list[Difference]:
    """Field, what was expected there, what was found; ``same`` compares what is neither an object nor a list.

    A field that only one side has is a difference, an empty one too: its name has room for a message. Of it, what is
    not there reads None.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        one_sided = [
            (f"{field}.{key}".strip("."), expected.get(key), found.get(key))
            for key in sorted(expected.keys() ^ found.keys())
        ]
        pairs = [(f"{field}.{key}", expected[key], found[key]) for key in sorted(expected.keys() & found.keys())]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        one_sided = []
        pairs = [(f"{field}[{i}]", *both) for i, both in enumerate(zip(expected, found, strict=True))]
    else:
        return [] if same(expected, found) else [(field, expected, found)]
    return one_sided + [found for name, one, other in pairs for found in differences(one, other, name.strip("."), same)]
