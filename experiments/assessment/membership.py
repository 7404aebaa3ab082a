"""Membership inference on a run's models, by shadow pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks.membership.evaluate import Inference, infer
from attacks.membership.refutation import refute
from attacks.membership.shadow import ShadowPlan, ShadowScores, train_shadows
from attacks.membership.units import Unit
from experiments.assessment.attacked import Attacked
from experiments.assessment.figures import draw_roc
from experiments.assessment.record import Verdict
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.storage.files import write_parquet
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.guarantees import Guarantee, changed_rows
from privacy.accounting.ledger import read_ledger
from privacy.accounting.tradeoff import TradeOffCurve, nothing_learnt, view_curve


def infer_membership(attacked: Attacked) -> list[dict[str, Any]]:
    """Every membership attack on every target and unit; scores and ROC curves are kept beside the results.

    The level of a view's verdict is shared by all attacks on it: of both units and of all targets.
    """
    run = attacked.run
    made: list[tuple[Unit, Inference]] = []
    for unit in attacked.units:
        plan = ShadowPlan(attacked.retraining, unit)
        shadows = train_shadows(
            plan,
            n_shadows=attacked.n_shadows,
            store=attacked.shadows,
            progress=attacked.progress,
            executor=attacked.executor,
        )
        inferences = list(infer(shadows))
        for target in attacked.targets:
            own = [inference for inference in inferences if inference.target == target]
            stem = f"{attacked.market}-{unit}-{target}"
            _write_scores(RunDirectory(run).attacks / "scores" / f"{stem}.parquet", shadows, own)
            curves = {view: _curve(attacked, view, unit) for view in dict.fromkeys(one.view for one in own)}
            draw_roc(RunDirectory(run).attacks / f"roc-{stem}", own, curves)
            made += [(unit, one) for one in own]
    sharing = Counter(inference.view for _, inference in made)
    return [
        membership_result(
            attacked.market,
            unit,
            inference,
            _guarantee(attacked, inference.view, unit),
            _curve(attacked, inference.view, unit),
            sharing[inference.view],
        )
        for unit, inference in made
    ]


def membership_result(
    market: str,
    unit: Unit,
    inference: Inference,
    guarantee: Guarantee | None,
    curve: TradeOffCurve | None,
    sharing: int,
) -> dict[str, Any]:
    """What an attack reached, and what that says of a guarantee.

    Args:
        market: the market under attack.
        unit: what membership is asked about.
        inference: the attack.
        guarantee: of the view; None where there is none.
        curve: of the guarantee, for worlds in which one unit is in and out.
        sharing: number of attacks on the view, which share the level of its verdict.
    """
    bound = None
    if guarantee is not None and guarantee.epsilon is not None and curve is not None:
        found = refute(inference.scores, inference.member, curve, guarantee.delta, attacks=sharing)
        if found.refuted:
            verdict = Verdict.BEYOND
        else:
            verdict = Verdict.WITHIN if found.detects is not None else Verdict.IRREFUTABLE
        bound = {
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
            "verdict": str(verdict),
            "detects": found.detects,
            "targets": found.targets,
        }
    return {
        "market": market,
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


def _curve(attacked: Attacked, view: str, unit: Unit) -> TradeOffCurve | None:
    """The curve that the ledger's events have, and the stated (ε, δ) lies on or above; None without a guarantee.

    A user of the market is one step away from a world without: what the same person has in other markets is in both
    worlds. A row is two: the user leaves, and comes back without it.
    """
    stated = _guarantee(attacked, view, "user")
    if stated is None or stated.epsilon is None:
        return None
    encrypted = view == "server" and not attacked.config.aggregation.traits.server_reads_updates
    entries = read_ledger(RunDirectory(attacked.run).ledger(attacked.market)).entries
    curve = nothing_learnt() if encrypted else view_curve(entries, view)
    if curve is None:
        raise RunDirectoryError(f"{attacked.run}: states an epsilon of the {view} view that its ledger does not give")
    curve = curve.holding(stated.epsilon, stated.delta)
    return curve if unit == "user" else curve.grouped(2)


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
