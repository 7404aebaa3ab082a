"""What a run warns of before it spends: what the privacy account will make a later compliance report refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.presentation.console import one_line, say
from privacy.accounting.text import epsilon_text

EVENT = "outlook"


class OutlookListener:
    """Told of a run's events; says on stderr, once, why a compliance report would refuse the run."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Warn at the one event that says what accounts hold."""
        text = refusal(fields["markets"], self._limit) if event == EVENT else None
        if text is not None:
            say(one_line(f"warning: {text}"), error=True)


def refusal(markets: Mapping[str, Mapping[str, Any]], limit: float | None) -> str | None:
    """Why compliance reports on these rows will refuse once the run is over; None where nothing speaks against them.

    Args:
        markets: outlooks by market.
        limit: the run's own budget, None without one.
    """
    if limit is None:
        if not markets:
            return None
        return (
            f"this run has no budget, and the privacy account will say so of {_named(markets)}: compliance reports on "
            "the same data will refuse, those of other runs too"
        )
    spoiled = {name: found for name, found in markets.items() if found["without_bound"]}
    if spoiled:
        most = max(found["without_bound"] for found in spoiled.values())
        return (
            f"{_runs(most)} on the same data had no budget, or other users ({_named(spoiled)}): a compliance report on "
            "this one will refuse, whatever its ε"
        )
    above = {name: found for name, found in markets.items() if found["epsilon"] is None or found["epsilon"] > limit}
    if not above:
        return None
    most = max(found["earlier"] for found in above.values())
    if any(found["epsilon"] is None for found in above.values()):
        return (
            f"nothing bounds this run, as where noise follows from privacy.noise_seed, or it with {_runs(most)} on the "
            f"same data ({_named(above)}): compliance reports on the same data will refuse, those of other runs too"
        )
    total = _largest(above)
    return (
        f"together with {_runs(most)} on the same data ε comes to {epsilon_text(total)}, where this one alone has "
        f"{limit:g} ({_named(above)}): a compliance report with --max-epsilon {limit:g} will refuse"
    )


def _largest(markets: Mapping[str, Mapping[str, Any]]) -> float:
    return float(max(found["epsilon"] for found in markets.values()))


def _runs(count: int) -> str:
    return f"{count} earlier run{'s' if count != 1 else ''}"


def _named(markets: Mapping[str, Any]) -> str:
    return ", ".join(markets)
