"""What attacks and audits on a run found, as rows for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class AttackRow:
    """One result.

    Attributes:
        attack: what was tried on whom.
        view: what the adversary saw.
        measure: what success is measured by.
        success: its value, with a 95 % interval.
        chance: what guessing, or a prior alone, reaches; None where it says nothing.
        tpr: true-positive rate at 1 % false positives, for membership.
        within: whether the guarantee holds against it; None where there is no guarantee to hold.
    """

    attack: str
    view: str
    measure: str
    success: Mapping[str, float]
    chance: float | None
    tpr: Mapping[str, float] | None = None
    within: bool | None = None


def strongest(membership: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the results of membership inference, that of largest AUC for each market, target, unit and view."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in membership:
        about = tuple(result[key] for key in ("market", "target", "unit", "view"))
        if about not in best or result["auc"]["value"] > best[about]["auc"]["value"]:
            best[about] = result
    return list(best.values())


def attack_rows(found: Found) -> list[AttackRow]:
    """One row for each thing that was tried; of several ways to do the same, the strongest."""
    rows = []
    for result in strongest(found.get("membership", [])):
        bound = result["bound"]
        rows.append(
            AttackRow(
                f"membership of {result['unit']}s in {result['market']}: {result['attack']} on {result['target']}",
                result["view"],
                "AUC",
                result["auc"],
                0.5,
                result["tpr_at_1_percent_fpr"],
                None if bound is None else all(bound["within"].values()),
            )
        )
    for result in found.get("inversion", []):
        rows.append(
            AttackRow(
                f"single updates recovered exactly ({result['aggregation']}, {result['cohort']} markets)",
                result["view"],
                "share",
                result["exact_share"],
                None,
            )
        )
    for result in found.get("reconstruction", []):
        rows.append(
            AttackRow(
                f"user embeddings rebuilt in {result['market']}: {result['attack']}",
                result["view"],
                "cosine",
                result["cosine"],
                result["prior"]["value"],
            )
        )
    for result in found.get("histories", []):
        rows.append(
            AttackRow(
                f"training items of users in {result['market']}: {result['attack']}",
                result["view"],
                "precision at 10",
                result["precision"],
                result["prior"]["value"],
            )
        )
    return rows
