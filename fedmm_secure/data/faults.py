"""Rows that cannot be read: which ones, and what is said of the first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.errors import DataError

Mask = NDArray[np.bool_]


class BadRowsError(DataError):
    """Rows that cannot be read, in a file that they refuse."""

    def __init__(self, first: str, bad: int, good: int) -> None:
        self.first, self.bad, self.good = first, bad, good
        super().__init__(self.text("on_bad_rows: skip"))

    @property
    def found(self) -> str:
        """The first of them, and how many there are."""
        return f"{self.first} ({self.bad} bad row{'s' * (self.bad != 1)} in all)"

    def text(self, choice: str) -> str:
        """One line; ``choice`` spells how to leave them out, where that leaves any."""
        if not self.good:
            return f"{self.found[:-1]}, and no good one: see whether columns and types are what the configuration says)"
        return f"{self.found[:-1]}; {choice} leaves them out)"


class Faults:
    """The bad rows of a block.

    Attributes:
        bad: ``(n,)``.
        missing: those of them in which a mapped field is missing, ``(n,)``.
        first: index and fault of the first bad row.
    """

    def __init__(self, n: int) -> None:
        self.bad: Mask = np.zeros(n, dtype=bool)
        self.missing: Mask = np.zeros(n, dtype=bool)
        self.first: tuple[int, str] | None = None

    def mark(self, mask: Mask, describe: Callable[[int], str], *, missing: bool = False) -> None:
        """Add bad rows; a row keeps the fault that was found in it first."""
        new = mask & ~self.bad
        if not new.any():
            return
        index = int(new.argmax())
        if self.first is None or index < self.first[0]:
            self.first = (index, describe(index))
        self.bad |= new
        if missing:
            self.missing |= new
