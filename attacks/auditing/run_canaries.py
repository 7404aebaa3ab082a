"""Canaries of a run: what its spare sums show of crafted users who were in them, or not.

The market that ran knows its coins, so it can make spare coordinates look as it likes: this measures what an honest
machine drew, clipped and sampled, and finds what went wrong there unseen. What a dishonest one left out of users' own
coordinates only a replay finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from attacks.auditing.claims import Claim
from attacks.auditing.games import gaussian
from attacks.auditing.gradients import observed
from attacks.auditing.laws import Law
from attacks.auditing.played import Played
from attacks.auditing.verdicts import AuditResult, AuditVerdict, judge
from fedmm_secure.guarantee.canary_sums import SpareSums, canary_sums, levels, noised_steps
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import COUNTS, EMBEDDING
from privacy.accounting.ledger import stage_group
from privacy.arrays import IntArray
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.spare import Spare

FEWEST = 8  # canaries of a stage that are judged
# shares of a stage's level: of a crowd that is too heavy; of one that is lost on the way, which is sixty deviations too
# light, so that whatever single canaries show shows nothing; of single canaries
HEAVY, LIGHT, SINGLE = 0.495, 0.005, 0.5
_SURE = 0.95


MeasuredRatio = tuple[float, float, float]  # a figure, and where it is with 95 % confidence


@dataclass(frozen=True)
class Measured:
    """What the spare sums of a stage say beside its claim.

    Attributes:
        stage: of the run.
        noise: size of the noise over what is stated; canaries' contributions taken off.
        weight: what one canary weighs over what a user may, by the sum of a crowd.
        heavy: p-value of a weight as large as the crowd's, where none is heavier than a user may be.
        light: p-value of a weight as small, where all are as heavy as is stated.
        level: false-alarm rate of all that is judged here.
        result: of the single canaries; None where too few have room.
    """

    stage: str
    noise: MeasuredRatio
    weight: MeasuredRatio
    heavy: float
    light: float
    level: float
    result: AuditResult | None

    @property
    def alarm(self) -> str | None:
        """What is refuted, in words; None where nothing is."""
        if self.heavy < HEAVY * self.level or self.light < LIGHT * self.level:
            p_value = min(self.heavy, self.light)
            return f"a user weighs {self.weight[0]:.3f} of what is stated, p = {p_value:.2g}"
        if self.result is not None and self.result.verdict is AuditVerdict.VIOLATED:
            return f"{self.result.direction}: {self.result.seen}, p = {self.result.p_value:.2g}"
        return None


def measure(plan: SpendingPlan, sums: Mapping[str, list[SpareSums]], level: float) -> Iterator[Measured]:
    """Each stage's noise and canaries; a false alarm in any of them has probability ``level`` at most.

    The noise of spare sums is what is left when exactly that is taken off which canaries add. So a crowd's sum is
    normal around what the crowd weighs, and its size is chi-square, exactly, to within a grid unit a value; what single
    canaries showed goes through the test of the audits of code.

    Args:
        plan: of the market.
        sums: by stage, of all its releases, in order.
        level: false-alarm rate, shared by the stages, half of each for the crowd.
    """
    for stage, found in sums.items():
        own, result = level / len(sums), None
        if len(found[0].spare.member) >= FEWEST:
            claim = Claim(tuple(one.event for one in plan.releases() if one.stage == stage and one.draws), plan.delta)
            played, law = single_canaries(plan, stage, found)
            result = judge(claim, ((1.0, law),), played, level=SINGLE * own)
        noise, (weight, heavy, light) = noise_alone(plan, stage, found), crowds_weight(plan, stage, found)
        size = _size(np.concatenate(noise).ravel(), scale(levels(plan, stage)))
        yield Measured(stage, size, weight, heavy, light, own, result)


def noise_alone(plan: SpendingPlan, stage: str, found: Sequence[SpareSums]) -> list[IntArray]:
    """What is left of spare sums without what canaries added."""
    return [one.values - canary_sums(plan, stage, one.spare, len(one.values)) for one in found]


def crowds_weight(plan: SpendingPlan, stage: str, found: Sequence[SpareSums]) -> tuple[MeasuredRatio, float, float]:
    """A canary's weight over what a user may weigh, by a crowd's sums; p-values of one so heavy, and so light."""
    crowd = len(found[0].spare.member)
    left = np.concatenate([one[:, crowd] for one in noise_alone(plan, stage, found)])
    seen, deviation = (
        float(sum(one.values[:, crowd].sum() for one in found)),
        scale(levels(plan, stage)) * np.sqrt(len(left)),
    )
    weighed = seen - float(left.sum())
    half = float(stats.norm.ppf(0.5 + _SURE / 2)) * deviation / weighed
    one = 1.0 + float(left.sum()) / weighed
    rounded = len(left)  # grid units by which sums may differ from the normal law
    heavy = float(stats.norm.sf((left.sum() - rounded) / deviation))
    return (one, one - half, one + half), heavy, float(stats.norm.cdf((left.sum() + rounded) / deviation))


def single_canaries(plan: SpendingPlan, stage: str, found: Sequence[SpareSums]) -> tuple[Played, Law]:
    """What canaries with a coordinate each showed, and the law of it."""
    member, group = found[0].spare.member, stage_group(stage)
    sigma, n = plan.noise[group], len(member)
    if group in (COUNTS, EMBEDDING):
        used, all_in = levels(plan, stage), Spare(1, np.ones(1, dtype=bool))
        grid, steps = Grid.of(sigma, levels=used), len(found[0].values)
        length = float(grid.real(canary_sums(plan, stage, all_in, 1))[0, 0])
        seen = grid.real(found[0].values[:, :n])
        if steps == 1:
            return gaussian(seen[0], member, sigma, length, 2.0 / scale(used)), Law(sigma)
        everybody = DPSGD(sigma, 1.0, 1.0)  # in each of several sums
        return observed(member, seen.T, everybody, length=length), Law(sigma, steps=steps)
    choices = noised_steps(plan, group)
    grid = Grid.of(sigma, choices.clipping_norm)
    seen = np.concatenate([one.values[:, :n] for one in found]).T * (grid.step / choices.clipping_norm)
    return observed(member, seen, choices), Law(sigma, choices.sampling_rate, seen.shape[1])


def _size(noise: IntArray, stated: float) -> MeasuredRatio:
    """Root mean square over what is stated, with its interval by the chi-square law."""
    n, total = len(noise), float(np.square(noise / stated).sum())
    tail = 0.5 * (1.0 - _SURE)
    low, high = total / stats.chi2.ppf(1.0 - tail, n), total / stats.chi2.ppf(tail, n)
    return float(np.sqrt(total / n)), float(np.sqrt(low)), float(np.sqrt(high))
