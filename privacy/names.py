"""What parties may be called: names stand in paths, messages, tables and on the telephone."""

from __future__ import annotations

import re

NAME_RULE = "lower-case letters, digits, - and _, at most 64 of them, the first a letter or a digit"
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
_NAME = re.compile(NAME_PATTERN, re.ASCII)


def is_name(text: object) -> bool:
    """Whether ``text`` may be the name of a party: nothing that a path, a terminal or a spreadsheet reads otherwise."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None
