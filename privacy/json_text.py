"""The one writer of JSON: no ``Infinity`` and no ``NaN``, which JSON does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(
    value: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    ensure_ascii: bool = True,
) -> str:
    """A value as JSON.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(
        value, indent=indent, sort_keys=sort_keys, separators=separators, ensure_ascii=ensure_ascii, allow_nan=False
    )


def finite(value: Any) -> Any:
    """A value for JSON, which has no infinity: null stands for unbounded."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isinf(value) else value
