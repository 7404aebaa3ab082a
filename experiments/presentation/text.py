"""Numbers as readers see them, in pages and on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from privacy.accounting.text import epsilon_text

if TYPE_CHECKING:
    from fedmm_secure.config.choices import CatalogueKind

WHO: Mapping[str, str] = {
    "server": "the server",
    "market": "another market",
    "collusion": "the server with a market's key",
    "consumer": "who asks for scores",
    "release": "who gets models and item codes",
    "profile": "who sees a user's own codes or scores",
}  # who has each view, for readers


PERSON = "a person, with all rows in all markets"  # a unit, beside the user of one market


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people do.

    >>> sorted(["m10", "m2"], key=natural_key)
    ['m2', 'm10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts] + [(2, 0, name)]


def figure_text(value: float | None) -> str:
    """Three digits; an en dash where a run says nothing, or noise leaves nothing to say."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def interval_text(found: Mapping[str, Any] | None) -> str:
    """A mean and its 95 % interval where there is one."""
    if found is None:
        return "–"
    bounds = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{figure_text(found['mean'])}{bounds}"


def estimate_text(estimate: Mapping[str, float]) -> str:
    """Value and 95 % interval."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def audit_text(verdict: str, detects: float | None) -> str:
    """A verdict of an audit of code, and what its silence is worth."""
    if verdict == "VIOLATED":
        return verdict
    power = "no ε that can be named" if detects is None else f"ε ≥ {epsilon_text(detects)} with 95 % power"
    return f"{verdict}; would have detected {power}"


def difference_text(found: Mapping[str, Any] | None) -> str:
    """A difference with its sign, and its interval where there is one."""
    if found is None:
        return "–"
    bounds = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['mean']:+.3f}{bounds}"


def worst(epsilons: Iterable[float | None]) -> float | None:
    """The largest ε; None, unbounded, is larger than any."""
    values = list(epsilons)
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) and known else None


CATALOGUES: Mapping[CatalogueKind, str] = {
    "declared": "Declared, not shown: that the items found in users' rows are public, although an item that one user "
    "alone has shows that user",
    "file": "Item catalogue from a public file, whatever the rows hold; declared: that the file was not made from them",
    "discovered": "Item catalogue found by differentially private partition selection, within ε and δ",
    "synthetic": "Item catalogue of the generator of synthetic markets",
}


def catalogue_lines(kinds: Mapping[str, str]) -> list[str]:
    """One line for each kind of catalogue: what it rests on, and the markets; what has to be believed comes first.

    Args:
        kinds: by market.
    """
    markets = {kind: [name for name, found in kinds.items() if found == kind] for kind in CATALOGUES}
    return [f"{text}: {', '.join(markets[kind])}." for kind, text in CATALOGUES.items() if markets[kind]]


def epsilon_over_markets(metrics: Mapping[str, Any], view: str) -> float | None:
    """Of the worst market, or of a person in all of them where ids are the same people's; None where unbounded, as
    where noise follows from a known seed.
    """
    privacy = metrics["privacy"]
    if any(found.get("seeded") for found in privacy["markets"].values()):
        return None
    of_users = [found[view]["epsilon"] for found in privacy["markets"].values()]
    persons = privacy.get("across_markets", {}).get("epsilon", {})
    return worst([*of_users, persons[view]] if view in persons else of_users)


def person_text(across: Mapping[str, Any], view: str) -> str:
    """ε of a person with rows in all markets; empty where the view has none."""
    if view not in across["epsilon"]:
        return ""
    return epsilon_text(across["epsilon"][view]) if across["problem"] is None else "not known"
