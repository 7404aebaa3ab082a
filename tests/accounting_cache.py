"""What accountants answered, kept for the length of a test session and shared by its processes.

Tests plan the same few budgets hundreds of times, and an accountant's answer depends on nothing but its arguments: the
steps, δ and the grid, which are what it is kept by. The product keeps them so too, for the length of a process.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from privacy.accounting import accountants
from tests.session import FOLDER


def share_answers() -> None:
    """From now on the accountants of this process look into the session's folder before they compute."""
    for name in ("_pld_epsilon", "_prv_epsilon"):
        setattr(accountants, name, kept(name, getattr(accountants, name)))


def kept(name: str, compute: Callable[..., float]) -> Callable[..., float]:
    """A function of numbers whose answers are kept in memory and in the folder."""
    folder = Path(os.environ[FOLDER])
    folder.mkdir(parents=True, exist_ok=True)

    @cache
    def answer(*question: object) -> float:
        path = folder / hashlib.sha256(repr((name, question)).encode()).hexdigest()
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            part.write_text(float(compute(*question)).hex())
            part.replace(path)  # whole or not at all
        return float.fromhex(path.read_text())

    return answer
