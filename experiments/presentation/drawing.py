"""How figures look, where they are kept, and how they stand in a page.

Colours are told apart by colour-blind readers, have a contrast of 3 at least on white and on the pages' dark ground,
and never carry meaning alone: markers, lines or labels say the same.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from privacy.files import write_atomic

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#B35C95", "#A17A00", "#7F7F7F", "#2E8FC7")  # after Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (3, 1)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
QUIET = "#7F7F7F"
_INK = "#1a1a1b"  # a colour of its own, so that a page can put its text colour in its place
_STYLE = {
    "svg.fonttype": "none",  # text stays text: read aloud, searched, scaled
    "svg.hashsalt": "fedmm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a dollar in a name is a dollar
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}
_PNG_DPI = 150
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers that it shows.

    Attributes:
        name: of its files.
        title: what it shows, for those who cannot see it too.
        figure: the figure.
        data: its numbers, one row for each mark.
        notes: by gid of an artist, what a page says when one points at it.
        narrow: the same for a phone, where the figure would not be read there.
    """

    name: str
    title: str
    figure: Figure
    data: pd.DataFrame
    notes: Mapping[str, str] = field(default_factory=dict)
    narrow: Figure | None = None


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the house style."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return wrapped


@styled
def write_drawing(directory: Path, drawing: Drawing) -> None:
    """Write ``<name>.svg``, ``<name>.png`` and the figure's numbers, ``<name>.csv``."""
    write_atomic(directory / f"{drawing.name}.svg", svg_text(drawing.figure).encode())
    write_atomic(directory / f"{drawing.name}.png", _png(drawing.figure))
    write_atomic(directory / f"{drawing.name}.csv", _csv(drawing))


def svg_text(figure: Figure) -> str:
    """A figure as a file of its own; the same for the same figure."""
    return _svg(figure, facecolor="white")


@styled
def _svg(figure: Figure, **ground: Any) -> str:
    _lay_out(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, **ground)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Gives axes their places, rounded: the last digits that the solver finds depend on memory addresses.

    A page is compared byte by byte with that of another process.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        for axes in figure.axes:
            left, bottom, width, height = (round(edge, 6) for edge in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, width, height))
        figure.set_layout_engine("none")


def inline(drawing: Drawing) -> Markup:
    """A figure for a page: in the page's colours, with its title, its notes and a link to its numbers.

    Where there is a narrow one, the page shows that on a phone, and the other elsewhere.
    """
    title, prefix = escape(drawing.title), re.sub(r"\W", "-", drawing.name)
    wide = _inline_svg(drawing, drawing.figure, prefix)
    if drawing.narrow is None:
        label = f'aria-label="{title}, scrollable"'
        shown = f'<div class="scroll" tabindex="0" role="group" {label}>{wide}</div>'
    else:
        narrow = _inline_svg(drawing, drawing.narrow, f"{prefix}-narrow")
        shown = f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
    data = base64.b64encode(_csv(drawing)).decode()
    link = f'<a download="{prefix}.csv" href="data:text/csv;base64,{data}">numbers of this figure (CSV)</a>'
    return Markup(f"<figure>{shown}<figcaption>{title} · {link}</figcaption></figure>")


def _inline_svg(drawing: Drawing, figure: Figure, prefix: str) -> str:
    text = _svg(figure, transparent=True)
    svg = text[text.index("<svg") :].replace(_INK, "currentColor")
    # several figures in one page must not share ids
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)
    for gid, note in drawing.notes.items():
        svg = svg.replace(f'<g id="{prefix}-{gid}">', f'<g id="{prefix}-{gid}"><title>{escape(note)}</title>', 1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(drawing.title)}" ', 1)


def _csv(drawing: Drawing) -> bytes:
    """The numbers; a text that a spreadsheet would take for a formula is marked as text."""
    table = drawing.data.rename(columns=_as_text)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = [_as_text(value) for value in table[column]]
    return table.to_csv(index=False).encode()


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
