"""What canaries add to the spare sums of a plan's releases: exactly, by the code of each mechanism."""

from __future__ import annotations

from dataclasses import dataclass

from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, QUANTIZER
from privacy.accounting.ledger import stage_group
from privacy.arrays import IntArray
from privacy.mechanisms.counts import canary_counts
from privacy.mechanisms.dp_sgd import DPSGD, canary_steps
from privacy.mechanisms.dp_svd import GRAM_LEVELS, canary_gram, canary_products
from privacy.mechanisms.randomness import LEVELS
from privacy.mechanisms.spare import Spare


@dataclass(frozen=True)
class SpareSums:
    """Spare sums of one release, and the canaries in them.

    Attributes:
        values: in grid units, ``(steps, count)``; one step where nothing is repeated.
        spare: the coordinates.
    """

    values: IntArray
    spare: Spare


def has_canaries(plan: SpendingPlan, stage: str) -> bool:
    """Whether a stage has canaries in its spare coordinates."""
    return stage_group(stage) in (COUNTS, EMBEDDING, QUANTIZER, CTR)


def levels(plan: SpendingPlan, stage: str) -> int:
    """Of the sampler of a stage's noise."""
    gram = stage_group(stage) == EMBEDDING and plan.config.embedding.private.uses_gram(plan.size.items)
    return GRAM_LEVELS if gram else LEVELS


def canary_sums(plan: SpendingPlan, stage: str, spare: Spare, steps: int) -> IntArray:
    """What canaries add to spare sums ``(steps, count)`` of one release, in grid units."""
    group = stage_group(stage)
    if group == COUNTS:
        return canary_counts(plan.noise[group], spare)[None, :]
    if group == EMBEDDING and levels(plan, stage) == GRAM_LEVELS:
        return canary_gram(plan.noise[group], spare)[None, :]
    if group == EMBEDDING:
        return canary_products(plan.noise[group], steps, spare)
    return canary_steps(noised_steps(plan, group), steps, spare)


def noised_steps(plan: SpendingPlan, group: str) -> DPSGD:
    """DP-SGD of a stage, as planned."""
    privacy = plan.config.privacy
    return dp_sgd(privacy.quantizer if group == QUANTIZER else privacy.ctr, plan.noise[group])
