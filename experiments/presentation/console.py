"""What reaches the terminal: text that somebody else wrote does nothing there but be read.

Names, findings and errors quote run directories, cards and bundles. A control character in one could move the cursor,
change what stands beside it or set the terminal's title; a bracket could be taken for markup. Everything that the
commands print goes through here.
"""

from __future__ import annotations

import math
import shlex
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.style import Style
from rich.text import Text

from privacy.json_text import finite, json_text

_INSTEAD = "\N{REPLACEMENT CHARACTER}"
# control, formatting (of direction too), surrogates, line and paragraph separators
_ACTIVE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """Text without anything that a terminal acts on, line feeds apart."""
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or unicodedata.category(character) not in _ACTIVE else _INSTEAD
        for character in text
    )


def one_line(text: str) -> str:
    """The same on one line: what is quoted cannot look like a line of ours."""
    return printable(" ".join(text.splitlines()) if "\n" in text else text)


def say(*texts: object, error: bool = False, end: str = "\n", flush: bool = False) -> None:
    """Print, to stderr where it is an ``error``."""
    print(*(printable(str(text)) for text in texts), sep="\n", end=end, flush=flush, file=sys.stderr if error else None)


def command_text(*words: object) -> str:
    """A command that can be pasted into a shell, whatever its paths hold."""
    return shlex.join(["fedmm", *map(str, words)])


NULL = "null: without bound, or not known"


def say_json(value: Any) -> None:
    """Print a value for machines, keys sorted; beside a null that stands for an ε without bound is what it means."""
    say(json_text(finite(_noted(value)), sort_keys=True))


def _noted(value: Any) -> Any:
    """The same with ``<key>_note`` beside every ε, or mapping of such, of which one has no bound."""
    if isinstance(value, list | tuple):
        return [_noted(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _noted(inner) for key, inner in value.items()}
    return found | {f"{key}_note": NULL for key, inner in value.items() if _is_epsilon(key) and _is_unbounded(inner)}


def _is_epsilon(key: object) -> bool:
    return isinstance(key, str) and not {"epsilon", "detects", "claimed", "views"}.isdisjoint(key.split("_"))


def _is_unbounded(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(inner is None or inner == math.inf for inner in value.values())
    return value is None or value == math.inf


class PlainConsole(Console):
    """A console that takes no text for markup, and lets none act on the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: Any = None,
    ) -> Text:
        """As rich's, of text without anything that a terminal acts on."""
        return super().render_str(
            printable(text),
            style=style,
            justify=justify,
            overflow=overflow,
            emoji=False,
            markup=False,
            highlight=highlight,
            highlighter=highlighter,
        )


def wide_console() -> Console:
    """For tables: as wide as the terminal; where the output goes elsewhere, 80 columns, or what COLUMNS says."""
    return PlainConsole()
