"""Canaries of a run: coins are opened, what canaries added is taken off the spare sums, and what they showed judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.verification.evidence import Evidence
from experiments.verification.payloads import integers
from experiments.verification.transcript import ByKey
from fedmm_secure.federation.canaries import RunCanaries, opened_nonce
from fedmm_secure.federation.transcript import METER
from fedmm_secure.guarantee.canary_sums import SpareSums, canary_sums, has_canaries
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import CTR, EMBEDDING, QUANTIZER
from privacy.accounting.ledger import Entry, stage_group
from privacy.accounting.ledger_check import Finding
from privacy.accounting.text import epsilon_text
from privacy.arrays import IntArray
from privacy.mechanisms.meter import spare_coordinates

if TYPE_CHECKING:
    from attacks.auditing.run_canaries import Measured


def opened_canaries(evidence: Evidence, market: str) -> RunCanaries | None:
    """A market's canaries, by the nonce that its last line opens; None where it opens none that was committed to."""
    content = evidence.ledgers[market]
    nonce = opened_nonce(content.opening, content.closing)
    if nonce is None or not evidence.config.audit.canaries:
        return None
    return RunCanaries.of(evidence.config, market, str(content.opening.get("run")), nonce)


def spare_shape(plan: SpendingPlan, stage: str) -> tuple[int, int]:
    """Steps of one release of a stage that has canaries, and the spare sums of each."""
    config, group = plan.config, stage_group(stage)
    if group == QUANTIZER:
        return config.privacy.quantizer.steps_per_round, spare_coordinates(plan.stages[QUANTIZER].steps)
    if group == CTR:
        return config.privacy.ctr.steps, spare_coordinates(plan.stages[CTR].steps)
    iterations = plan.stages[EMBEDDING].steps if group == EMBEDDING else 1  # one where a Gram matrix is released
    return iterations, spare_coordinates(iterations)


@dataclass(frozen=True)
class Without:
    """Takes what the canaries of a market added off its spare sums.

    Attributes:
        plan: of the market.
        canaries: None where there are none.
    """

    plan: SpendingPlan
    canaries: RunCanaries | None

    def __call__(self, entry: Entry, values: IntArray) -> IntArray:
        """Noise alone ``(n,)``, of spare sums ``(n,)`` of one release."""
        if self.canaries is None or not has_canaries(self.plan, entry.stage):
            return values
        steps, count = spare_shape(self.plan, entry.stage)
        spare = self.canaries.spare(count, self.plan, entry.stage, entry.round)
        return values - canary_sums(self.plan, entry.stage, spare, steps).ravel()


def canary_findings(evidence: Evidence, level: float) -> Iterator[Finding]:
    """What canaries refute, at a false-alarm rate of ``level`` for the run; notes say what else they showed."""
    from attacks.auditing.run_canaries import measure  # and with it JAX, which takes seconds

    opened = {market: opened_canaries(evidence, market) for market in evidence.plans}
    for market, canaries in opened.items():
        where = str(evidence.ledger(market))
        if canaries is None:
            yield Finding(where, "canaries: its last line opens no coins that its first line commits to")
            continue
        plan = evidence.plans[market]
        for found in measure(plan, _spare_sums(evidence, market, canaries), level / len(opened)):
            evidence.notes.append(f"canaries: {market}, {found.stage}: {_text(found)}")
            evidence.measured.setdefault(market, []).append(found)
            if found.alarm is not None:
                yield Finding(where, f"canaries: {found.stage}: is not as stated: {found.alarm}")


def _text(found: Measured) -> str:
    noise, weight = (f"{one:.3f} [{low:.3f}, {high:.3f}]" for one, low, high in (found.noise, found.weight))
    text = f"noise {noise} and a canary's weight {weight} of what is stated"
    if found.result is None:
        return f"{text}; too few canaries have room to bound ε"
    bounds = f"{found.result.low_fdp:.2f} (f-DP), {found.result.low_one_run:.2f} (Steinke et al.)"
    return f"{text}; {found.result.canaries} canaries: ε >= {bounds}, of {epsilon_text(found.result.claimed)} claimed"


def _spare_sums(evidence: Evidence, market: str, canaries: RunCanaries) -> dict[str, list[SpareSums]]:
    content, plan = ByKey([evidence.messages]), evidence.plans[market]
    found = dict[str, list[SpareSums]]()
    for charge in evidence.ledgers[market].charges:
        entry = charge.entry
        if not charge.key or stage_group(entry.stage) not in plan.noise or not has_canaries(plan, entry.stage):
            continue
        data = content.get((METER, entry.stage, entry.round or 0, entry.attempt or 0, market))
        steps, count = spare_shape(plan, entry.stage)
        if data is not None and len(data) == 8 * steps * count:  # else the noise meter says so
            spare = canaries.spare(count, plan, entry.stage, entry.round)
            found.setdefault(entry.stage, []).append(SpareSums(integers(data).reshape(steps, count), spare))
    return found
