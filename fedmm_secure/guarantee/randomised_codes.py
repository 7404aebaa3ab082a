"""The stage of published user codes: each user's pair of codes, randomised by itself, outside the budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedmm_secure.config import Config
from fedmm_secure.guarantee.expected_arrays import codes_problem
from fedmm_secure.guarantee.own_stage import OwnStage
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import EMBEDDING, QUANTIZER, USER_CODES, seed_stage
from privacy.accounting.budget import PlannedStage
from privacy.arrays import Array
from privacy.mechanisms.events import randomised_response_event
from privacy.mechanisms.meter import ENOUGH

if TYPE_CHECKING:
    from fedmm_secure.guarantee.plan import SpendingPlan


def user_codes_release(plan: SpendingPlan, seed: int) -> Release:
    """User codes, each pair of codes randomised as one of ``n_global · n_local`` values.

    Raises:
        ValueError: none are published.
    """
    quantizer, epsilon = plan.config.quantizer, plan.config.privacy.user_codes_epsilon
    if epsilon is None:
        raise ValueError("no user codes are published")
    return Release(
        seed_stage(USER_CODES, seed),
        "k-ary randomised response on each user's pair of codes",
        randomised_response_event(epsilon, quantizer.global_codes * quantizer.local_codes),
        None,
        audience=("profile",),
        depends_on=(EMBEDDING, seed_stage(QUANTIZER, seed)),
        remark="local: protects a change of the user's own rows",
        coordinates=plan.size.users + ENOUGH,
    )


def _planned(config: Config) -> PlannedStage | None:
    """Nothing: it protects another unit, a user's own rows from whoever sees the user's code."""


def _releases(plan: SpendingPlan) -> list[Release]:
    published = plan.config.privacy.user_codes_epsilon is not None
    return [user_codes_release(plan, seed) for seed in plan.config.seed] if published else []


def _problem(plan: SpendingPlan, found: Mapping[str, Array]) -> str | None:
    return codes_problem(found["codes"], plan.config.quantizer)


RANDOMISED_CODES = OwnStage(
    USER_CODES,
    planned=_planned,
    releases=_releases,
    expected=lambda plan: {"codes": ((plan.size.users, 2), "int64")},
    problem=_problem,
    after_models=False,
)
