"""What a market's stages may spend together, and the refusal of what would be more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dp_accounting.dp_event import DpEvent, NoOpDpEvent

from fedmm_secure.guarantee.releases import Release
from privacy.accounting.events import is_part_of
from privacy.accounting.guarantees import coarsely, composed_epsilon, roughly
from privacy.accounting.ledger import Entry, stage_group
from privacy.accounting.text import epsilon_text
from privacy.errors import StoppedError


class BudgetExceededError(StoppedError):
    """A release that would spend more than the market's budget; nothing was computed or sent."""


@dataclass(frozen=True)
class Budget:
    """The ε that the named stage groups may spend together at ``delta``; None is unbounded.

    ``plan`` is what they are expected to spend, and ``planned`` the releases that do: a part of a plan that meets the
    budget meets it too, and need not be composed anew for every release.
    """

    epsilon: float | None
    delta: float
    stages: tuple[str, ...] = ("quantizer",)
    plan: DpEvent = field(default_factory=NoOpDpEvent)
    planned: tuple[Release, ...] = ()

    def covers(self, entries: Sequence[Entry]) -> bool:
        """Whether entries are a part of the plan, in what they draw and in what they take of δ too."""
        return (
            is_part_of([entry.event for entry in entries], [self.plan])
            and sum(one.coordinates for one in entries) <= sum(one.coordinates for one in self.planned)
            and sum(one.extra_delta for one in entries) <= sum(one.extra_delta for one in self.planned)
        )

    def counts(self, stage: str) -> bool:
        """Whether a stage spends of it."""
        return stage_group(stage) in self.stages

    def spent(self, entries: Sequence[Entry]) -> float:
        """ε that those of a ledger's entries which it counts have spent, rounded up a little; ``inf`` without DP.

        Never more than it admits: on the rough grid a small ε comes out too large, and a part spends no more than the
        plan that it is a part of.
        """
        counted = self._counted(entries)
        rough = composed_epsilon([entry.event for entry in counted], counted, self.delta, roughly)
        if self.epsilon is None or not self.covers(counted):
            return rough
        return min(rough, composed_epsilon([self.plan], self.planned, self.delta, coarsely))

    def refuse_overspending(self, entries: Sequence[Entry], asked: Entry) -> None:
        """Raises ``BudgetExceededError`` if a release after those of a ledger would spend more than it allows."""
        if self.epsilon is None or not self.counts(asked.stage):
            return
        counted = [*self._counted(entries), asked]
        if self.covers(counted):  # the same question for all releases, so that it is composed once
            epsilon = composed_epsilon([self.plan], self.planned, self.delta, coarsely)
        else:
            epsilon = composed_epsilon([entry.event for entry in counted], counted, self.delta, coarsely)
        if epsilon <= self.epsilon * (1 + 1e-9):
            return
        at = "" if asked.round is None else f", round {asked.round}"
        brought = f"epsilon to {epsilon_text(epsilon)}"
        if math.isinf(epsilon):
            brought = "epsilon beyond any bound (it is not private, or the noise sampler is proven for less)"
        raise BudgetExceededError(
            f"market {asked.market}, stage {asked.stage}{at}: this release would bring {brought}, the budget is "
            f"{self.epsilon:.4g}; nothing was sent"
        )

    def _counted(self, entries: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in entries if self.counts(entry.stage)]
