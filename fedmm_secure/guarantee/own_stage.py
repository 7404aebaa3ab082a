"""What a stage of the market's own is: a release beside the chain from rows to models, which no other stage reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmm_secure.config import Config
from fedmm_secure.guarantee.expected_arrays import Expected
from fedmm_secure.guarantee.releases import Release
from privacy.accounting.budget import PlannedStage
from privacy.arrays import Array

if TYPE_CHECKING:
    from fedmm_secure.guarantee.plan import SpendingPlan


@dataclass(frozen=True)
class OwnStage:
    """One such stage; plan, views, and checks of what it publishes are fed from this record.

    Attributes:
        name: its group, which ``stages`` lists among what publishes.
        planned: what it asks of the budget of a configuration; None if it asks for nothing.
        releases: of a market's plan, in order; none where the configuration has no such stage.
        expected: arrays that it publishes, by name.
        problem: what their values say that the mechanism cannot have said; None if nothing.
        after_models: whether its releases follow the CTR models'; otherwise they come before.
    """

    name: str
    planned: Callable[[Config], PlannedStage | None]
    releases: Callable[[SpendingPlan], Sequence[Release]]
    expected: Callable[[SpendingPlan], Expected]
    problem: Callable[[SpendingPlan, Mapping[str, Array]], str | None]
    after_models: bool
