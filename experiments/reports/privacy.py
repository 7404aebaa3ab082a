"""What each adversary may learn, a line for each view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.presentation.text import WHO, person_text, worst
from fedmm_secure.config import Config
from fedmm_secure.guarantee.stages import ALL_VIEWS, CLAIMS, DECRYPTED_VIEWS

CIPHERTEXTS_ONLY = "computational"  # it relays ciphertexts and lacks the key
OWN_DATA = "as expected: they are that user's own data"
NOT_PROTECTED = "as expected: they stay inside, publish none of them"
NO_BOUND = "claimed, and nothing bounds it"
NO_BUDGET = (
    "No privacy budget was set (privacy.epsilon). Nothing bounds what sums, models, codes and scores of this run tell "
    "about single users: share and publish none of them. Attacks measure how much they tell."
)


@dataclass(frozen=True)
class ViewLine:
    """One adversary.

    Attributes:
        view: what it sees, by name.
        who: the same for readers.
        epsilon: of the worst market; None is unbounded.
        note: what a reader must know of the number; empty where it speaks for itself.
        broken: whether the run claims a bound that it does not have.
        together: ε together with earlier runs on the same data, of the worst market; None is unbounded.
        earlier: how many earlier runs there were, in the market with most of them.
        person: ε of a person with rows in all markets, this run alone, as text; empty where there is no such unit.
    """

    view: str
    who: str
    epsilon: float | None
    note: str
    broken: bool
    together: float | None
    earlier: int
    person: str = ""


def view_lines(config: Config, privacy: Mapping[str, Any]) -> list[ViewLine]:
    """A line for each view, in the order of the views.

    Args:
        config: of the run.
        privacy: guarantees by market, and of a person in all of them, as in the metrics.
    """
    across = privacy.get("across_markets", {"epsilon": {}})
    lines = [_line(config, view, privacy["markets"]) for view in ALL_VIEWS]
    return [replace(line, person=person_text(across, line.view)) for line in lines]


def _line(config: Config, view: str, statements: Mapping[str, Any]) -> ViewLine:
    epsilon = worst(found[view]["epsilon"] for found in statements.values())
    earlier, together = 0, epsilon
    if view in DECRYPTED_VIEWS:
        earlier = max(found["with_earlier_runs"]["earlier_runs"] for found in statements.values())
        together = worst(found["with_earlier_runs"][view]["epsilon"] for found in statements.values())
    broken = config.privacy.epsilon is not None and epsilon is None and view in CLAIMS[config.privacy.protect]
    return ViewLine(view, WHO[view], epsilon, _note(config, view, epsilon, broken), broken, together, earlier)


def _note(config: Config, view: str, epsilon: float | None, broken: bool) -> str:
    if view == "server" and epsilon == 0 and not config.aggregation.traits.server_reads_updates:
        return CIPHERTEXTS_ONLY
    if epsilon is not None:
        return ""
    if view == "profile":
        return OWN_DATA
    return NO_BOUND if broken else NOT_PROTECTED
