"""ε and δ as readers see them: rounded up, so that no text claims more than was proved."""

from __future__ import annotations

import math


def epsilon_text(epsilon: float | None) -> str:
    """``∞`` for unbounded; otherwise three decimals, rounded up."""
    if epsilon is None or math.isinf(epsilon):
        return "∞"
    return f"{rounded_up(epsilon, 3):.3f}".rstrip("0").rstrip(".")


def rounded_up(figure: float, digits: int) -> float:
    """An ε at so many decimals, no smaller than it is."""
    return math.ceil(figure * 10.0**digits) / 10.0**digits


def rounded_down(figure: float, digits: int) -> float:
    """A lower bound at so many decimals, no larger than it is."""
    return figure if math.isinf(figure) else math.floor(figure * 10.0**digits) / 10.0**digits


def delta_text(delta: float) -> str:
    """Two digits, rounded up."""
    if delta <= 0:
        return "0"
    scale = 10.0 ** (math.floor(math.log10(delta)) - 1)
    return f"{math.ceil(delta / scale * (1 - 1e-9)) * scale:.1e}"
