"""What an attack's record holds, and what a result says of a guarantee."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from privacy.accounting.text import epsilon_text
from privacy.json_text import json_text

if TYPE_CHECKING:
    from experiments.assessment.attacked import Attacked

AttackResult = Mapping[str, Any]


class Verdict(StrEnum):
    """What a result says of the guarantee that it was held against."""

    WITHIN = "within"
    BEYOND = "BEYOND"
    IRREFUTABLE = "cannot be refuted"


def verdict_of(result: AttackResult) -> Verdict | None:
    """None where there was no guarantee to hold the result against."""
    bound = result.get("bound")
    return None if bound is None else Verdict(bound["verdict"])


def same_text(result: AttackResult) -> str:
    """Equal for equal results; to look for one among as many as somebody wrote into a file."""
    return json_text(result, sort_keys=True)


def verdict_text(result: AttackResult) -> str:
    """The verdict, and what the same targets would have seen."""
    verdict = verdict_of(result)
    if verdict is None:
        return "no bound"
    bound = result["bound"]
    if verdict is Verdict.BEYOND:
        return f"BEYOND ε {epsilon_text(bound['epsilon'])}"
    if verdict is Verdict.IRREFUTABLE:
        return f"ε {epsilon_text(bound['epsilon'])} cannot be refuted by {bound['targets']} targets"
    return f"within; would have detected ε ≥ {bound['detects']:.1f} with 95 % power"


@dataclass(frozen=True)
class Column:
    """A column of the command's table: its heading, and how a result fills it."""

    heading: str
    cell: Callable[[AttackResult], str]


@dataclass(frozen=True)
class Attack:
    """One kind of attack on a finished run.

    Attributes:
        name: as in ``fedmm attack --attack``, and as its results are kept.
        title: of its results.
        prior_knowledge: what its adversary knows before it sees anything.
        views: what its adversary may see.
        path: ``module:function`` that makes it: an ``Attacked`` to its results, plain data.
        about: keys of a result that say what it is about; a later result about the same replaces it.
        columns: of the command's table.
        tried: of a result, what was tried on whom; a format string.
        measure: what success is measured by.
        success: key of the estimate of it.
        chance: what guessing reaches, or the key of what a prior alone reaches; None where it says nothing.
        tpr: key of the true-positive rate at 1 % false positives, where there is one.
        same: keys of results that try the same; the most successful of them comes first for readers. By default
            ``about``.
        over: what the intervals of its results are taken over.
        figure: ``module:function`` that draws its results into files of a given path, where there is one.
        says: what a result says in words; by default its verdict on a guarantee.
    """

    name: str
    title: str
    prior_knowledge: str
    views: tuple[str, ...]
    path: str
    about: tuple[str, ...]
    columns: tuple[Column, ...]
    tried: str
    measure: str
    success: str
    over: str
    chance: float | str | None = None
    tpr: str | None = None
    same: tuple[str, ...] = ()
    figure: str | None = None
    says: Callable[[AttackResult], str] = verdict_text

    def make(self, attacked: Attacked) -> list[dict[str, Any]]:
        """Its results on a run."""
        results: Sequence[dict[str, Any]] = resolve_name(self.path)(attacked)
        return [{**result, "prior_knowledge": self.prior_knowledge} for result in results]

    def draw(self, path: Path, results: Sequence[AttackResult]) -> None:
        """Draw its results, where it has a figure of them; ``path`` without its ending."""
        if self.figure is not None:
            resolve_name(self.figure)(path, results)

    def leading(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What readers see first: the most successful of each kind, and whatever is beyond a guarantee."""
        strongest = {same_text(result) for result in self.strongest(results)}
        return [result for result in results if same_text(result) in strongest or verdict_of(result) is Verdict.BEYOND]

    def strongest(self, results: Sequence[dict[str, Any]], keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Of results that try the same, the most successful; what ``keys`` say, by default those of the record."""
        best: dict[tuple[Any, ...], dict[str, Any]] = {}
        for result in results:
            about = tuple(result.get(key) for key in keys or self.same or self.about)
            if about not in best or self.succeeded(result) > self.succeeded(best[about]):
                best[about] = result
        return list(best.values())

    def succeeded(self, result: AttackResult) -> float:
        """How successful a result is."""
        return float(result[self.success]["value"])

    def guessed(self, result: AttackResult) -> float | None:
        """What guessing, or a prior alone, reaches."""
        chance = result[self.chance] if isinstance(self.chance, str) else self.chance
        return float(chance["value"]) if isinstance(chance, Mapping) else chance
