"""Figures as they were drawn, kept for the length of a test session and shared by its processes.

Every report of a run has ten figures, and ``verify`` draws them again, to compare its page; tests read the same few
runs hundreds of times. Kept is the text that matplotlib drew, by everything that the figure holds: one that differs in
anything is drawn. Tests of the drawing itself do without (``drawn_anew``).
"""

import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib.figure import Figure
from matplotlib.transforms import TransformNode

from experiments.presentation import drawing
from tests.accounting_cache import FOLDER

_draw = drawing._svg
_state = TransformNode.__getstate__


def share_figures() -> None:
    """From now on this process looks into the session's folder before it draws."""
    drawing._svg = drawn_once


@contextmanager
def drawn_anew() -> Iterator[None]:
    """Everything is drawn."""
    with patch.object(drawing, "_svg", _draw):
        yield


def drawn_once(figure: Figure, **ground: Any) -> str:
    path = Path(os.environ[FOLDER]) / f"{_content(figure, ground)}.svg"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(_draw(figure, **ground), encoding="utf-8")
        part.replace(path)  # whole or not at all
    return path.read_text(encoding="utf-8")


def _content(figure: Figure, ground: dict[str, Any]) -> str:
    """A hash of all that a figure holds, but for the addresses by which transforms know what depends on them."""

    def nameless(node: TransformNode) -> dict[str, Any]:
        state = _state(node)
        return {**state, "_parents": list(state["_parents"].values())}

    buffer = io.BytesIO()
    with patch.object(TransformNode, "__getstate__", nameless):
        pickle.Pickler(buffer, protocol=5).dump((figure, sorted(ground.items())))
    return hashlib.sha256(buffer.getbuffer()).hexdigest()
