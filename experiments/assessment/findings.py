"""What attacks found, as rows for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.assessment.record import Attack, Verdict, same_text, verdict_of, verdict_text
from experiments.assessment.records import ATTACKS

Found = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class AttackRow:
    """One result.

    Attributes:
        kind: name of the attack's record.
        attack: what was tried on whom.
        view: what the adversary saw.
        measure: what success is measured by.
        success: its value, with a 95 % interval.
        over: what that interval is over.
        chance: what guessing, or a prior alone, reaches; None where it says nothing.
        tpr: true-positive rate at 1 % false positives, for membership.
        verdict: on the guarantee; None where there is no guarantee to hold.
        says: the same in words, and what would have been seen; of a risk, what it is.
        leading: whether it is the most successful of its kind, or beyond a guarantee.
    """

    kind: str
    attack: str
    view: str
    measure: str
    success: Mapping[str, float]
    over: str
    chance: float | None
    tpr: Mapping[str, float] | None = None
    verdict: Verdict | None = None
    says: str = "no bound"
    leading: bool = True

    @property
    def advantage(self) -> float:
        """Success beyond chance."""
        return self.success["value"] - (self.chance or 0.0)

    @property
    def beyond(self) -> bool:
        """Whether the result is more than the guarantee admits."""
        return self.verdict is Verdict.BEYOND


def attack_rows(found: Found) -> list[AttackRow]:
    """One row for each result, those that readers see first before the others.

    Results of attacks that have no record are left out.
    """
    rows = []
    for name, attack in ATTACKS.items():
        results = found.get(name, [])
        leading = {same_text(result) for result in attack.leading(results)}
        rows += [_row(attack, result, same_text(result) in leading) for result in results]
    return sorted(rows, key=lambda row: not row.leading)


def beyond_bounds(found: Found) -> list[str]:
    """Results that a guarantee of the run rules out, one line each."""
    return [
        f"{', '.join(result[key] for key in attack.about)}: {verdict_text(result)}"
        for name, attack in ATTACKS.items()
        for result in found.get(name, [])
        if verdict_of(result) is Verdict.BEYOND
    ]


def _row(attack: Attack, result: dict[str, Any], leading: bool) -> AttackRow:
    return AttackRow(
        kind=attack.name,
        attack=attack.tried.format(**result),
        view=result["view"],
        measure=attack.measure,
        success=result[attack.success],
        over=attack.over,
        chance=attack.guessed(result),
        tpr=None if attack.tpr is None else result[attack.tpr],
        verdict=verdict_of(result),
        says=attack.says(result),
        leading=leading,
    )
