"""Figures as what they hold, not as they look: most of a report's time is the drawing of its ten figures, twice each.

A sketch is an SVG of the figure's texts and named marks, with a hash of all its numbers and colours: figures that
differ in any have sketches that differ, in whichever process. Tests of how figures look, and of pages in a browser, do
without (``drawn``).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from markupsafe import escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from experiments.presentation import drawing

_svg, _png = drawing._svg, drawing._png


def sketch_figures() -> None:
    """From now on this process sketches."""
    drawing._svg, drawing._png = sketch, lambda figure: sketch(figure).encode()


@contextmanager
def drawn() -> Iterator[None]:
    """Everything is drawn."""
    with patch.object(drawing, "_svg", _svg), patch.object(drawing, "_png", _png):
        yield


def sketch(figure: Figure, **ground: Any) -> str:
    """The texts, the marks that have a name, and a hash of everything."""
    artists = list(_parts(figure))
    digest = hashlib.sha256(repr(sorted(ground.items())).encode())
    for artist in artists:
        digest.update(repr([type(artist).__name__, artist.get_gid(), *_held(artist)]).encode())
    names = dict.fromkeys(artist.get_gid() for artist in artists if artist.get_gid())
    marks = "".join(f'<g id="{escape(name)}"></g>' for name in names)
    texts = "".join(f"<text>{escape(text)}</text>" for artist in artists for text in _texts(artist))
    head = '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">'
    return f"{head}<desc>{digest.hexdigest()}</desc>{marks}{texts}</svg>"


def _parts(artist: Artist) -> Iterator[Artist]:
    """It and all that it consists of, but for the ticks of an axis, which it makes when it is drawn."""
    yield artist
    for part in [artist.label] if isinstance(artist, Axis) else artist.get_children():
        yield from _parts(part)


def _texts(artist: Artist) -> list[str]:
    if isinstance(artist, Axis):
        return [str(label) for label in getattr(artist.get_major_formatter(), "seq", [])]
    return [artist.get_text()] if isinstance(artist, Text) else []


def _held(artist: Artist) -> list[object]:
    match artist:
        case Axis():
            return [_texts(artist), list(getattr(artist.get_major_locator(), "locs", []))]
        case Text():
            return [artist.get_text(), artist.get_color()]
        case Line2D():
            look = artist.get_color(), artist.get_linestyle(), artist.get_marker()
            return [np.asarray(artist.get_xydata(), dtype=float).tobytes(), *look]
        case Patch():
            place = artist.get_patch_transform().get_matrix().tobytes()
            return [artist.get_path().vertices.tobytes(), place, artist.get_facecolor(), artist.get_hatch()]
        case Collection():
            paths = [path.vertices.tobytes() for path in artist.get_paths()]
            return [np.asarray(artist.get_offsets(), dtype=float).tobytes(), paths, artist.get_facecolor().tobytes()]
        case AxesImage():
            return [np.asarray(artist.get_array()).tobytes()]
        case Axes():
            return [artist.get_xlim(), artist.get_ylim(), artist.get_xscale(), artist.get_yscale()]
    return []
