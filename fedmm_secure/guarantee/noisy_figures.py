"""The stage of noisy test figures: histograms of the released models' scores by label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure.config import Config
from fedmm_secure.guarantee.expected_arrays import OFF_GRID, Expected
from fedmm_secure.guarantee.own_stage import OwnStage
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.score_bins import N_BINS, contribution
from fedmm_secure.guarantee.stages import COUNTS, CTR, EVALUATION, seed_stage
from privacy.accounting.budget import PlannedStage
from privacy.arrays import Array
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.histograms import LABELS, grid_weights, noise_of
from privacy.mechanisms.meter import ENOUGH

if TYPE_CHECKING:
    from fedmm_secure.guarantee.plan import SpendingPlan


def evaluation_release(plan: SpendingPlan) -> Release:
    """Histograms of the released models' scores by label, of which the test figures are made."""
    repetitions = len(plan.config.seed)
    return Release(
        EVALUATION,
        "noisy histograms of test scores by label",
        GaussianDpEvent(plan.noise[EVALUATION]),  # one mechanism for all models together
        math.sqrt(2.0 * repetitions),  # in positives: one of them, and negatives that weigh as much, for each model
        audience=("consumer", "release"),
        depends_on=(COUNTS, *(seed_stage(CTR, seed) for seed in plan.config.seed)),
        coordinates=repetitions * LABELS * N_BINS + ENOUGH,
    )


def _planned(config: Config) -> PlannedStage | None:
    share = config.privacy.shares.evaluation
    return None if share is None else PlannedStage(EVALUATION, share)


def _expected(plan: SpendingPlan) -> Expected:
    return {"counts": ((len(plan.config.seed), LABELS, N_BINS), "float64"), "noise": ((LABELS,), "float64")}


def _problem(plan: SpendingPlan, found: Mapping[str, Array]) -> str | None:
    counts, noise = found["counts"], found["noise"]
    multiplier, models = plan.noise[EVALUATION], len(plan.config.seed)
    most = contribution(plan.config.data.negatives_per_positive)
    if tuple(noise.tolist()) != noise_of(multiplier, models, most):
        return f"says noise {noise.tolist()}, which is not that of the multiplier {multiplier:g}"
    weights = grid_weights(multiplier, models, most)[:, None]
    integers = np.rint(counts * weights) + 0.0  # 0 has a sign, which no integer has
    in_range = bool((np.abs(integers) <= Grid.of(multiplier).most(plan.size.users)).all())
    if not in_range or (integers / weights).tobytes() != counts.tobytes():
        return OFF_GRID
    return None


NOISY_FIGURES = OwnStage(
    EVALUATION,
    planned=_planned,
    releases=lambda plan: [evaluation_release(plan)] if EVALUATION in plan.noise else [],
    expected=_expected,
    problem=_problem,
    after_models=True,
)
