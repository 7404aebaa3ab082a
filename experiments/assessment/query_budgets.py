"""Membership inference on a run's models by how many queries are asked about a target."""

from __future__ import annotations

from typing import Any

from attacks.membership.budgets import VIEW, infer_by_queries
from attacks.membership.shadow import ShadowPlan, train_shadows
from experiments.assessment.attacked import Attacked


def infer_with_budgets(attacked: Attacked) -> list[dict[str, Any]]:
    """A consumer's attack on every target and unit, by budgets; pipelines are those of membership inference.

    No verdict: a consumer who asks all is held to the guarantee there.
    """
    found = []
    for unit in attacked.units:
        plan = ShadowPlan(attacked.retraining, unit)
        shadows = train_shadows(plan, n_shadows=attacked.n_shadows, store=attacked.shadows, progress=attacked.progress)
        for one in infer_by_queries(shadows, attacked.targets):
            found.append(
                {
                    "market": attacked.market,
                    "target": one.inference.target,
                    "unit": unit,
                    "view": VIEW,
                    "limit": one.inference.attack,
                    "asked": one.queries,
                    **one.inference.metrics.to_json(),
                }
            )
    return found
