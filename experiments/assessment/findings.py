"""What attacks found, as rows for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.assessment.records import ATTACKS, Attack
from privacy.accounting.text import epsilon_text

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
        chance: what guessing, or a prior alone, reaches; None where it says nothing.
        tpr: true-positive rate at 1 % false positives, for membership.
        within: whether the guarantee holds against it; None where there is no guarantee to hold.
    """

    kind: str
    attack: str
    view: str
    measure: str
    success: Mapping[str, float]
    chance: float | None
    tpr: Mapping[str, float] | None = None
    within: bool | None = None

    @property
    def advantage(self) -> float:
        """Success beyond chance."""
        return self.success["value"] - (self.chance or 0.0)


def attack_rows(found: Found) -> list[AttackRow]:
    """One row for each thing that was tried; of several ways to do the same, the strongest.

    Results of attacks that have no record are left out.
    """
    return [
        _row(attack, result) for name, attack in ATTACKS.items() for result in attack.strongest(found.get(name, []))
    ]


def beyond_bounds(found: Found) -> list[str]:
    """Results that a guarantee of the run rules out, one line each."""
    return [
        f"{', '.join(result[key] for key in attack.about)}: beyond epsilon {epsilon_text(result['bound']['epsilon'])}"
        for name, attack in ATTACKS.items()
        for result in found.get(name, [])
        if _is_within(result) is False
    ]


def _row(attack: Attack, result: dict[str, Any]) -> AttackRow:
    return AttackRow(
        kind=attack.name,
        attack=attack.tried.format(**result),
        view=result["view"],
        measure=attack.measure,
        success=result[attack.success],
        chance=attack.guessed(result),
        tpr=None if attack.tpr is None else result[attack.tpr],
        within=_is_within(result),
    )


def _is_within(result: Mapping[str, Any]) -> bool | None:
    """Whether the guarantee that a result was held against admits it; None where it was held against none."""
    bound = result.get("bound")
    return None if bound is None else all(bound["within"].values())
