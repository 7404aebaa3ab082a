"""The noise meter's verdict: spare coordinates of every mechanism hold noise of the stated size and law.

A spare coordinate belongs to nobody's data and is noised by the same draw as the real ones, so its value is noise, and
may be read. That noise was added to the real coordinates too is beyond any reading of them: audits and canaries measure
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.verification.canaries import Without, opened_canaries
from experiments.verification.evidence import Evidence
from experiments.verification.payloads import integers
from experiments.verification.transcript import ByKey
from fedmm_secure.federation.transcript import METER
from fedmm_secure.guarantee.canary_sums import levels
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import CTR, EMBEDDING, QUANTIZER, USER_CODES
from privacy.accounting.ledger import stage_group
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.base import IntVector
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.meter import ENOUGH, meter_findings, repeats, response_findings, spare_coordinates

METER_LEVEL = 1e-3  # false alarms a run, split evenly over its markets and their stages


@dataclass(frozen=True)
class MeterReading:
    """All spare values of one stage in one market.

    Attributes:
        market: whose.
        group: the stage, all repetitions and rounds together.
        values: in grid units, ``(n,)``; of randomised response, answers of users whose value is 0.
        missing: what was planned and cannot be read.
    """

    market: str
    group: str
    values: IntVector
    missing: tuple[str, ...]


def noise_findings(evidence: Evidence) -> list[Finding]:
    """Noise that is missing, or not what the ledgers state."""
    readings = list(_readings(evidence))
    share = METER_LEVEL / 2 if evidence.config.audit.canaries else METER_LEVEL  # canaries have the other half
    level = share / (len(readings) + 1)  # one more: whether any two of them share noise
    findings = list(_shared(evidence, readings, level))
    for reading in readings:
        where = f"{evidence.messages.directory} market {reading.market}, {reading.group}"
        findings += [Finding(where, f"noise meter: {what}") for what in reading.missing]
        if len(reading.values):
            problem = _problem(evidence.plans[reading.market], reading, level)
            if problem:
                findings.append(Finding(where, f"noise meter: {problem}"))
    return findings


def spare_values(plan: SpendingPlan, stage: str) -> int:
    """Spare values of one release of a stage; what a market's plan draws beside what it releases."""
    config, group = plan.config, stage_group(stage)
    if group == EMBEDDING and not config.embedding.private.uses_gram(plan.size.items):
        iterations = config.embedding.private.iterations
        return iterations * spare_coordinates(iterations)
    if group == QUANTIZER:
        return config.privacy.quantizer.steps_per_round * spare_coordinates(plan.stages[QUANTIZER].steps)
    if group == CTR:
        return config.privacy.ctr.steps * spare_coordinates(plan.stages[CTR].steps)
    return ENOUGH


def _readings(evidence: Evidence) -> Iterator[MeterReading]:
    content = ByKey([evidence.messages])
    for market, ledger in evidence.ledgers.items():
        plan = evidence.plans.get(market)
        if plan is None:
            continue  # said where plans are made
        parts: dict[str, list[IntVector]] = {stage_group(found.stage): [] for found in plan.releases() if found.draws}
        missing: dict[str, list[str]] = {group: [] for group in parts}
        noise_of = Without(plan, opened_canaries(evidence, market))
        for charge in ledger.charges:
            entry, group = charge.entry, stage_group(charge.entry.stage)
            if entry.coordinates <= 0 or group not in parts or charge.sequence not in ledger.seals:
                continue
            data = content.get((METER, entry.stage, entry.round or 0, entry.attempt or 0, market))
            at = entry.stage if entry.round is None else f"{entry.stage}, round {entry.round}"
            planned = spare_values(plan, entry.stage)
            if data is None or len(data) != 8 * planned:
                found = "no" if data is None else f"{len(data) / 8:g}"
                missing[group].append(f"{at}: {found} spare values where {planned} are planned")
            else:
                parts[group].append(noise_of(entry, integers(data)))
        for group, values in parts.items():
            joined = np.concatenate(values) if values else np.zeros(0, np.int64)
            nothing = [] if len(joined) or missing[group] else ["no spare values at all"]
            yield MeterReading(market, group, joined, tuple(missing[group] + nothing))


def _problem(plan: SpendingPlan, reading: MeterReading, level: float) -> str | None:
    config = plan.config
    if reading.group == USER_CODES:
        epsilon, quantizer = config.privacy.user_codes_epsilon, config.quantizer
        if epsilon is None:
            return "answers of a randomised response that nothing plans"
        n_values = quantizer.global_codes * quantizer.local_codes
        found = response_findings(reading.values, n_values=n_values, epsilon=epsilon, level=level)
    else:
        found = meter_findings(reading.values, scale=_scale(plan, reading.group), level=level)
    alarms = [f"{finding.test}: {finding.seen}" for finding in found if finding.alarm]
    return "; ".join(alarms) or None


def _scale(plan: SpendingPlan, group: str) -> float:
    """Standard deviation of a stage's noise in grid units."""
    return scale(levels(plan, group))


def _shared(evidence: Evidence, readings: Sequence[MeterReading], level: float) -> Iterator[Finding]:
    """No two stages, rounds or markets have the same noise: a copy is no reading of its own."""
    plans = evidence.plans
    scales = {_scale(plans[reading.market], reading.group) for reading in readings if reading.group != USER_CODES}
    for size in sorted(scales):
        parts = [
            reading.values
            for reading in readings
            if reading.group != USER_CODES and _scale(plans[reading.market], reading.group) == size
        ]
        found = repeats(parts, scale=size, level=level / len(scales))
        if found.alarm:
            yield Finding(str(evidence.messages.directory), f"noise meter: {found.seen}, over all markets and stages")
