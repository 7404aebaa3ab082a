"""Membership inference on a run's models, by shadow pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks.membership.evaluate import Inference, infer
from attacks.membership.shadow import ShadowPlan, ShadowScores, train_shadows
from attacks.membership.units import Unit
from attacks.metrics import within_bound
from experiments.assessment.attacked import Attacked
from experiments.assessment.figures import draw_roc
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.federation.closing import read_committed
from fedmm_secure.federation.private_record import private_name, tuned_file
from fedmm_secure.storage.files import write_parquet
from fedmm_secure.storage.run_directory import read_noise
from privacy.accounting.guarantees import Guarantee, changed_rows
from privacy.foreign import parse_json


def infer_membership(attacked: Attacked) -> list[dict[str, Any]]:
    """Every membership attack on every target and unit; scores and ROC curves are kept beside the results."""
    run, config, found = attacked.run, attacked.config, []
    for unit in attacked.units:
        plan = ShadowPlan(
            config,
            attacked.markets,
            attacked.market,
            attacked.targets,
            {target: _tuned_choice(run, attacked, target) for target in attacked.targets},
            {name: read_noise(run, name) for name in attacked.markets},
            unit,
        )
        shadows = train_shadows(plan, n_shadows=attacked.n_shadows, store=attacked.shadows, progress=attacked.progress)
        inferences = list(infer(shadows))
        for target in attacked.targets:
            own = [inference for inference in inferences if inference.target == target]
            stem = f"{attacked.market}-{unit}-{target}"
            _write_scores(run / "attacks" / "scores" / f"{stem}.parquet", shadows, own)
            bounds = {inference.view: _guarantee(attacked, inference.view, unit) for inference in own}
            draw_roc(run / "attacks" / f"roc-{stem}", own, bounds)
            found += [_membership_result(attacked, unit, inference, bounds[inference.view]) for inference in own]
    return found


def _membership_result(
    attacked: Attacked, unit: Unit, inference: Inference, guarantee: Guarantee | None
) -> dict[str, Any]:
    bound = None
    if guarantee is not None and guarantee.epsilon is not None:
        within = within_bound(inference.scores, inference.member, guarantee.epsilon, guarantee.delta)
        bound = {
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
            "within": {f"at_{100 * rate:g}_percent_fpr": holds for rate, holds in within.items()},
        }
    return {
        "market": attacked.market,
        "target": inference.target,
        "attack": inference.attack,
        "unit": unit,
        "view": inference.view,
        "bound": bound,
        **inference.metrics.to_json(),
    }


def _guarantee(attacked: Attacked, view: str, unit: Unit) -> Guarantee | None:
    """What the run says of a view; for single interactions, what that implies for a change of one user's rows."""
    stated = attacked.metrics["privacy"]["markets"][attacked.market].get(view)
    if stated is None or stated["epsilon"] is None or view == "profile":
        return None
    guarantee = Guarantee(stated["epsilon"], stated["delta"], stated["unit"], stated["basis"])
    return guarantee if unit == "user" else changed_rows(guarantee)


def _write_scores(path: Path, shadows: ShadowScores, inferences: Sequence[Inference]) -> None:
    """One row for each target model and unit; units are numbered as the queries are."""
    if not inferences:
        return
    member = inferences[0].member
    units = np.unique(shadows.queries.user) if shadows.unit == "user" else shadows.queries.rows
    frame = pd.DataFrame(
        {
            "model": np.repeat(np.arange(len(member), dtype=np.int16), len(units)),
            shadows.unit: np.tile(units.astype(np.int32), len(member)),
            "member": member.ravel(),
            **{f"{found.view}: {found.attack}": found.scores.ravel().astype(np.float32) for found in inferences},
        }
    )
    write_parquet(path, frame, "zstd")


def _tuned_choice(run: Path, attacked: Attacked, target: str) -> int:
    """Position of what the run chose for a target, as it was closed with; raises where that is not there."""
    config, file = attacked.config, tuned_file(target)
    if not config.ctr.tune or (target == CONFIGURED and config.private_ctr):
        return 0
    found = parse_json(read_committed(run, attacked.market, file), run / private_name(attacked.market, file))
    return int(found["choice"])
