"""Steps of whatever takes long, told to the display that a command has open; where none is, to nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Display(Protocol):
    """Shows how far a step has come."""

    def update(self, label: str, done: int, total: int | None, note: str = "") -> None:
        """Show that ``done`` of ``total`` steps are over; ``total`` is None where it is not known."""
        ...


_OPEN: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """What is told inside goes to a display."""
    token = _OPEN.set(display)
    try:
        yield
    finally:
        _OPEN.reset(token)


def tell_step(label: str, done: int, total: int | None, note: str = "") -> None:
    """A step has come so far."""
    display = _OPEN.get()
    if display is not None:
        display.update(label, done, total, note)


def track(label: str, values: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The values one by one, each told of when it is done with."""
    if total is None and isinstance(values, Sized):
        total = len(values)
    tell_step(label, 0, total)
    for done, value in enumerate(values, start=1):
        yield value
        tell_step(label, done, total)
