"""Messages of a run: who signed them, what they agree on, and every sum added up again with public material."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from experiments.verification.agreements import agreement_findings
from experiments.verification.evidence import Evidence, Messages, irregular, read_messages
from experiments.verification.payloads import Forms, integers, sum_problem
from experiments.verification.spending import rounds_of
from experiments.verification.transcript import OF_SERVER, ByKey, Opened, Planned, key_of
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.messages import MessageError, verify
from fedmm_secure.federation.transcript import AGGREGATE, HELLO, OWN_UPDATE, STATEMENT, SUM, UPDATE
from fedmm_secure.guarantee.releases import PlannedPlace
from fedmm_secure.guarantee.stages import SUMMED
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger_check import Finding
from privacy.aggregation import AggregationError
from privacy.aggregation.base import IntVector
from privacy.aggregation.bundle import SERVER


def open_messages(evidence: Evidence, messages: Messages, opened: Opened) -> list[Finding]:
    """Add every message that is signed by whom its record names to ``opened``; returns what is not."""
    bundle, findings = evidence.bundle, list[Finding]()
    forms = Forms(evidence.config, evidence.aggregation, bundle.markets)
    runs = {content.opening.get("run") for content in evidence.ledgers.values()}
    for record in messages.records:
        if record.kind not in OF_SERVER:
            continue
        try:
            if record.sender not in bundle.cards:
                raise MessageError("its sender is not in the federation")
            header, payload = verify(messages.content[record.file], bundle.cards[record.sender])
            if (header.kind, header.stage, header.round, header.attempt, header.sender) != key_of(record):
                raise MessageError("its header is of another message")
            if header.parameters != bundle.digest:
                raise MessageError("its header names another bundle")
            if header.run not in runs:
                raise MessageError("is of another run than the ledgers")
            if record.kind == AGGREGATE and record.receivers != len(header.cohort):
                raise MessageError(f"was sent to {len(header.cohort)}, its record says to {record.receivers}")
            forms.check(header, payload)
            opened.add(header, record)
        except MessageError as error:
            findings.append(Finding(messages.where(record), str(error)))
    return findings


def rounds_without(opened: Opened, markets: Iterable[str]) -> dict[str, set[PlannedPlace]]:
    """By market, rounds whose signed sum lacks it."""
    found: dict[str, set[PlannedPlace]] = {market: set() for market in markets}
    for key in opened:
        if key[0] == AGGREGATE:
            for market in found.keys() - set(opened.header(key).cohort):
                found[market].add(key[1:3])
    return found


def message_findings(evidence: Evidence, opened: Opened) -> list[Finding]:
    """What the messages of a market's, or of all markets', directory do not agree on."""
    here = set(evidence.ledgers)
    findings = list(_hellos(evidence.messages, opened, here))
    findings += agreement_findings(evidence, evidence.messages, opened)
    findings += _rounds(evidence, opened)
    return findings + list(_sums(evidence, evidence.messages, opened, here))


def server_findings(evidence: Evidence, server: Path) -> list[Finding]:
    """The server's transcript by itself, and that it is of the same run as the directory's."""
    links = irregular(server)
    if links:
        return links
    messages, findings = read_messages(RunDirectory(server).transcript)
    if not messages.records:
        return findings
    planned = Planned.of(evidence)
    for record in messages.records:
        problem = planned.problem(record)
        if record.kind not in OF_SERVER:
            problem = f"a {record.kind}: no server sees one"
        if problem:
            findings.append(Finding(messages.where(record), problem))
    opened = Opened(messages)
    findings += open_messages(evidence, messages, opened)
    known = {record.file: record.sha256 for record in messages.records}
    for record in evidence.messages.records:
        absent = record.sha256 if record.kind in (STATEMENT, UPDATE) else None  # it keeps none that came too late
        if record.kind in OF_SERVER and known.get(record.file, absent) != record.sha256:
            findings.append(Finding(evidence.messages.where(record), f"is not what {server} holds"))
    everyone = set(evidence.bundle.markets)
    findings += _hellos(messages, opened, everyone)
    findings += agreement_findings(evidence, messages, opened)
    return findings + list(_sums(evidence, messages, opened, everyone))


def _hellos(messages: Messages, opened: Opened, markets: Iterable[str]) -> Iterator[Finding]:
    """Each market introduced itself."""
    here = {sender for kind, *_, sender in opened if kind == HELLO}
    for market in sorted(set(markets) - here):
        yield Finding(str(messages.directory), f"no hello of market {market}")


def _rounds(evidence: Evidence, opened: Opened) -> Iterator[Finding]:
    """One aggregate and one sum of every round, and no more; no attempt after the one that was summed."""
    directory = str(evidence.messages.directory)
    plan = next(iter(evidence.plans.values()), None)
    attempts: dict[tuple[str, int], list[int]] = {}
    for kind, stage, round, attempt, _ in opened:
        if kind == AGGREGATE:
            attempts.setdefault((stage, round), []).append(attempt)
    for stage, round in rounds_of(plan) if plan is not None else ():
        found = len(attempts.get((stage, round), ()))
        if found != 1:
            yield Finding(directory, f"{stage}, round {round}: {found} aggregates where one is planned")
    for kind, stage, round, attempt, sender in opened:
        if attempt > max(attempts.get((stage, round), (attempt,))):
            what = f"{stage}, round {round}: a {kind} of {sender} for an attempt after the one that was summed"
            yield Finding(directory, what)
    summed = {(found.stage, found.round) for found in evidence.messages.records if found.kind == SUM}
    for stage, round in rounds_of(plan) if plan is not None else ():
        if (stage, round) not in summed:
            yield Finding(directory, f"{stage}, round {round}: its sum is not there")
    aggregation = evidence.aggregation
    for record in evidence.messages.records:
        if record.kind == SUM:
            sums = plan.sums if plan is not None and record.stage in SUMMED else None
            problem = sum_problem(aggregation.of_stage(record.stage), evidence.messages.content[record.file], sums)
            if problem:
                yield Finding(evidence.messages.where(record), problem)


def _sums(evidence: Evidence, messages: Messages, opened: Opened, here: set[str]) -> Iterator[Finding]:
    """Every aggregate is the sum of the recorded updates, and every sum in the clear that of the own updates."""
    aggregation = evidence.aggregation
    content = ByKey([messages, *evidence.own.values()])  # what markets keep to themselves is compared where it is shown
    for key in opened:
        kind, stage, round, attempt, _ = key
        if kind != AGGREGATE:
            continue
        header, payload = opened[key]
        where, plan = f"{messages.directory} {stage}, round {round}", aggregation.of_stage(stage)
        total = content.get((SUM, stage, round, 0, SERVER))
        if plan.parameters is None and total is not None and not payload.startswith(total):
            yield Finding(where, "the sum in the clear is not the aggregate, which nothing encrypts")
        if not set(header.cohort) <= here:
            continue
        try:
            parts = [opened[UPDATE, stage, round, attempt, sender] for sender in header.cohort]
            asked = {part.cohort for part, _ in parts}
            if len(asked) > 1 or not all(set(header.cohort) <= set(cohort) for cohort in asked):
                yield Finding(where, "updates were sealed for other cohorts than the aggregate's")
            if plan.masked and asked != {header.cohort}:
                yield Finding(where, "under masks, a sum needs all that its updates were sealed for")
            same = plan.server().aggregate([part for _, part in parts]) == payload
        except (KeyError, AggregationError) as error:
            yield Finding(where, f"the aggregate cannot be added up again: {error}")
            continue
        if not same:
            yield Finding(where, "the aggregate is not the sum of the recorded updates")
        own = [content.get((OWN_UPDATE, stage, round, attempt, sender)) for sender in header.cohort]
        if total is not None and all(found is not None for found in own):
            problem = _clear_sum(plan, total, [found for found in own if found is not None])
            if problem:
                yield Finding(where, problem)


def _clear_sum(plan: AggregationPlan, total: bytes, own: list[bytes]) -> str | None:
    if any(len(data) != 8 * plan.values for data in (total, *own)):
        return f"a sum or an update in the clear is not of {plan.values} values"
    difference = np.sum([integers(data) for data in own], axis=0) - integers(total)
    if plan.masked:  # under masks, sums are residues
        difference = difference % 2**plan.mask_bits
    return "the sum in the clear is not that of the markets' own updates" if difference.any() else None


def sums_of(messages: Messages, opened: Opened, stage: str) -> dict[int, tuple[IntVector, int]]:
    """By round, the sum in the clear and the number of markets in it."""
    found, content = {}, ByKey([messages])
    for key in opened:
        kind, of, round, _, _ = key
        if kind != AGGREGATE or of != stage:
            continue
        total = content.get((SUM, stage, round, 0, SERVER))
        if total is not None and len(total) % 8 == 0:
            found[round] = integers(total), len(opened.header(key).cohort)
    return found
