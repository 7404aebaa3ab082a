"""From what canaries showed to a verdict on a claim, and to what the audit would have seen.

The verdict is that of one exact test (``joint``). Lower bounds on ε stand beside the claim: they come from
``jax_privacy.auditing`` (Google DeepMind) and reach about the logarithm of the number of canaries. Steinke's assumes
nothing of how a mechanism is broken; that by f-DP says which Gaussian trade-off curves it exceeds, and is of ε at δ for
mechanisms that have such a curve, whatever the size of their noise. Of randomised response it may be above the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jax_privacy import auditing
from scipy import stats

from attacks.auditing import AUDIT_LEVEL
from attacks.auditing.claims import Claim
from attacks.auditing.joint import Parts, joint_test, seen_factor
from attacks.auditing.laws import Values
from attacks.auditing.played import Played


class AuditVerdict(StrEnum):
    """What an audit says of a claim; all that it never says is that a claim is proven."""

    NOT_REFUTED = "not refuted"
    VIOLATED = "VIOLATED"


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        claimed: ε of the claim, at its δ.
        delta: that δ.
        detects: the audit would have alarmed with 95 % power had ε been this or more, by noise too small or a user who
            weighs too much; None where no such ε is below 60.
        verdict: ``VIOLATED`` where the p-value is at most the level.
        p_value: of the joint test.
        level: false-alarm rate of this audit.
        direction: in which the canaries are furthest from what is stated.
        seen: what was measured in that direction.
        low_fdp: 95 % lower bound on ε by f-DP (Mahloujifar, Melis, Chaudhuri, ICML 2025), Gaussian trade-off curves.
        low_one_run: 95 % lower bound on ε by Steinke, Nasr, Jagielski, NeurIPS 2023.
        auc: how well the adversary's scores tell canaries in from canaries out.
        canaries: number that were scored.
    """

    claimed: float
    delta: float
    detects: float | None
    verdict: AuditVerdict
    p_value: float
    level: float
    direction: str
    seen: str
    low_fdp: float
    low_one_run: float
    auc: float
    canaries: int


def judge(claim: Claim, parts: Parts, played: Played, *, level: float = AUDIT_LEVEL) -> AuditResult:
    """Compare canaries with a claim.

    Args:
        claim: what is claimed of the mechanisms.
        parts: their laws; none for a claim that nothing is learnt.
        played: what the canaries showed.
        level: false-alarm rate of ``VIOLATED`` for mechanisms that are as stated.
    """
    alarm = joint_test(played)
    factor = seen_factor(parts, len(played), level, played.slack) if parts else None
    detects = None if factor is None else claim.epsilon_at(factor)
    low_fdp, low_one_run = lower_bounds(played, claim.delta)
    return AuditResult(
        claimed=claim.epsilon,
        delta=claim.delta,
        detects=detects if detects is not None and np.isfinite(detects) else None,
        verdict=AuditVerdict.VIOLATED if alarm.p_value <= level else AuditVerdict.NOT_REFUTED,
        p_value=alarm.p_value,
        level=level,
        direction=alarm.direction,
        seen=alarm.seen,
        low_fdp=low_fdp,
        low_one_run=low_one_run,
        auc=auc(played.inside, played.outside),
        canaries=len(played),
    )


def lower_bounds(played: Played, delta: float) -> tuple[float, float]:
    """95 % lower bounds on ε at ``delta``: by f-DP, and by Steinke et al.; 0 where one side has no canary.

    Both rest on independent coins, and hold for independent runs as for one.
    """
    if min(len(played.inside), len(played.outside)) < 2:  # a side is split in two
        return 0.0, 0.0
    auditor, split = auditing.CanaryScoreAuditor(played.inside, played.outside), auditing.Split(seed=0)
    by_fdp = auditor.epsilon_one_run_fdp(AUDIT_LEVEL, delta, threshold_strategy=split)
    return float(by_fdp), float(auditor.epsilon_one_run(AUDIT_LEVEL, delta, threshold_strategy=split))


def auc(inside: Values, outside: Values) -> float:
    """Area under the ROC curve, ties by half: Mann and Whitney's; .5 where one side is empty.

    The library's ``attack_auroc`` is the area under the curve's convex hull: .57 for sixty scores of pure noise.
    """
    if not (len(inside) and len(outside)):
        return 0.5
    return float(stats.mannwhitneyu(inside, outside).statistic) / (len(inside) * len(outside))
