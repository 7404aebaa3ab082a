"""A ledger against the plan: one charge and one seal for every planned release, in order, and nothing else."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import NonPrivateDpEvent, NoOpDpEvent

from fedmm_secure.federation.coins import COINS, coin_note, is_coin
from fedmm_secure.guarantee.observed import is_of_runs
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import PlannedPlace, Release, again
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting.filters import are_noted_failures, is_noted
from privacy.accounting.guarantees import (
    EARLIER_RUNS,
    EARLIER_RUNS_MECHANISM,
    LISTED_EARLIER_RUNS,
    coarsely,
    composed_epsilon,
)
from privacy.accounting.ledger import CHARGE, NOTE, Charge, Entry, LedgerContent, stage_group
from privacy.accounting.ledger_check import Finding, unaccountable
from privacy.accounting.text import delta_text, epsilon_text
from privacy.hexadecimal import is_digest
from privacy.json_text import json_text

_MOST_NAMED = 20  # of what is missing
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_ONE_COURSE = "and a run that an auditor replays has one course"


@dataclass(frozen=True)
class Line:
    """A charge or a note, and where it stands.

    Attributes:
        number: of the line, from 1.
        entry: what it says.
        charge: None for a note.
    """

    number: int
    entry: Entry
    charge: Charge | None

    @property
    def place(self) -> PlannedPlace:
        """Stage and round."""
        return _of(self.entry)


def spending_findings(
    path: Path,
    content: LedgerContent,
    plan: SpendingPlan,
    *,
    data: str,
    left_out: Collection[PlannedPlace] = (),
    other_code: bool = False,
) -> list[Finding]:
    """Where a ledger is not that of its plan.

    Right are, beside the plan itself: notes of earlier runs anywhere; an auditor's coin, at the beginning; further
    attempts of a round, which send the same for a smaller cohort and spend nothing; a round that this market joined in
    a later attempt, or not at all where the sum says so; charges that another course of the run had in hand, which stay
    counted and are made again. In a run that an auditor replays there are none: who charges a release twice can choose
    which of two noises is let out.

    Args:
        path: the ledger.
        content: what it says.
        plan: what the configuration makes of the market's sizes.
        data: fingerprint of the rows that the run was opened on.
        left_out: rounds whose sum lacks this market.
        other_code: whether the run is of another version, which may list the steps of earlier runs.
    """
    given_up = given_up_charges(content)
    walk = _Walk(path, plan, left_out, content, other_code)
    for line in entry_lines(content):
        walk.take(line)
    walk.end()
    seeded = plan.config.privacy.noise_seed is not None
    findings = [*walk.findings, *_transactions(path, content, given_up, data=data, left_out=left_out)]
    own = (entry for entry in content.entries if entry.stage != EARLIER_RUNS)  # that note has others' coordinates
    if any(entry.seeded != (seeded and entry.coordinates > 0) for entry in own):
        findings.append(Finding(str(path), "says of its noise that it came from a seed, or did not, against the plan"))
    return [*findings, *_over_budget(path, content, plan, given_up)]


def entry_lines(content: LedgerContent) -> Iterator[Line]:
    """Charges and notes of a ledger, in order, with their lines."""
    entries, charges = iter(content.entries), iter(content.charges)
    for number, kind in enumerate(content.kinds, start=1):
        if kind in (CHARGE, NOTE):
            yield Line(number, next(entries), next(charges) if kind == CHARGE else None)


def noted_courses(content: LedgerContent) -> int:
    """Courses of the run that a ledger knows of: each begins with a note of what earlier runs spent."""
    return max(sum(entry.stage == EARLIER_RUNS for entry in content.entries), 1)  # of rows that are nobody's none is


def given_up_charges(content: LedgerContent) -> frozenset[int]:
    """Sequences of charges without a seal that a later course of the run made again, under another key.

    A course begins with a note of what earlier runs spent, the course before among them. What was in hand then is not
    computed once more: a copy may have been, or the machine is another one. It counts as spent, here and there.
    """
    courses = [line.number for line in entry_lines(content) if line.entry.stage == EARLIER_RUNS]
    last = {_of(charge.entry): charge.line for charge in content.charges}

    def made_again(charge: Charge) -> bool:
        at = bisect_right(courses, charge.line)
        return at < len(courses) and last[_of(charge.entry)] > courses[at]

    unsealed = (charge for charge in content.charges if charge.sequence not in content.seals)
    return frozenset(charge.sequence for charge in unsealed if made_again(charge))


def is_note(release: Release) -> bool:
    """Whether a planned release is noted, not charged: what is raw and belongs to no round stays in the market."""
    return isinstance(release.event, NonPrivateDpEvent) and release.round is None


class _Walk:
    """Compares the lines of a ledger with the plan, one after the other."""

    def __init__(
        self,
        path: Path,
        plan: SpendingPlan,
        left_out: Collection[PlannedPlace],
        content: LedgerContent,
        other_code: bool,
    ) -> None:
        self.findings: list[Finding] = []
        self._content, self._replayed = content, plan.config.audit.replay is not None
        self._other_code = other_code
        self._tossed = not self._replayed
        self._given_up = given_up_charges(content)
        self._path, self._plan, self._left_out = path, plan, left_out
        self._planned = list(plan.releases())
        self._places = {release.place: index for index, release in enumerate(self._planned)}
        self._next, self._attempt = 0, 0
        self._noted = False

    @property
    def _of_people(self) -> bool:
        """Generated rows are nobody's: no account knows of runs on them."""
        return self._plan.config.data.synthetic is None

    def take(self, line: Line) -> None:
        if line.entry.stage == EARLIER_RUNS and self._of_people:
            if self._noted and self._replayed:
                self._report(line, f"begins another course, {_ONE_COURSE}")
            self._noted = True
            self._earlier_runs(line)
            return
        if line.entry.stage == COINS and not self._tossed:
            self._tossed = True
            self._coin(line)
            return
        index = self._places.get(line.place)
        if index is None:
            self._report(line, f"{_name(line.place)} is nothing that this configuration releases")
        elif line.charge is not None and line.charge.sequence in self._given_up and self._of_people:
            self._given(line, self._planned[index])
        elif index >= self._next:
            self._skip(index)
            self._first(line, self._planned[index])
            self._next = index + 1
        elif index == self._next - 1 and line.entry.round is not None:
            self._another_attempt(line, self._planned[index])
        else:
            self._report(line, f"{_name(line.place)} again, or out of order")

    def end(self) -> None:
        self._skip(len(self._planned))
        if not self._tossed:
            self.findings.append(Finding(str(self._path), "no line holds the coin of the auditor who is to replay it"))
        if not self._noted and self._of_people:
            self.findings.append(Finding(str(self._path), "no line says what earlier runs on the same data spent"))

    def _skip(self, until: int) -> None:
        places = [release.place for release in self._planned[self._next : until]]
        missing = [_name(place) for place in places if place not in self._left_out]
        named = (
            missing if len(missing) <= _MOST_NAMED else [*missing[:_MOST_NAMED], f"{len(missing) - _MOST_NAMED} more"]
        )
        for name in named:
            self.findings.append(Finding(str(self._path), f"{name} is missing: planned, and neither charged nor noted"))

    def _first(self, line: Line, planned: Release) -> None:
        if (line.charge is None) != is_note(planned):
            self._report(line, f"{_name(line.place)} is {'charged' if line.charge else 'noted'}, against the plan")
            return
        if planned.round is not None:
            attempt = line.entry.attempt
            if not _is_attempt(attempt, 0, self._plan.n_markets):
                self._report(line, f"{_name(line.place)}: attempt {attempt!r} of {self._plan.n_markets}")
                return
            self._attempt = attempt or 0
            planned = self._plan.of_round(planned.stage, planned.round, self._attempt)
        self._compare(line, planned)

    def _another_attempt(self, line: Line, planned: Release) -> None:
        attempt = line.entry.attempt
        if line.charge is None or not _is_attempt(attempt, self._attempt + 1, self._plan.n_markets):
            self._report(line, f"{_name(line.place)}: attempt {attempt!r} after attempt {self._attempt}")
            return
        self._attempt = attempt or 0
        first = self._plan.of_round(planned.stage, planned.round or 0, self._attempt)
        self._compare(line, again(first, self._attempt))

    def _given(self, line: Line, planned: Release) -> None:
        """A charge that was made again: as planned itself; the order is that of the ones that were sealed."""
        if self._replayed:  # its noise would be chosen among those of both charges
            self._report(line, f"{_name(line.place)} is given up and charged again, {_ONE_COURSE}")
        attempt = line.entry.attempt
        if planned.round is None:
            self._compare(line, planned)
        elif not _is_attempt(attempt, 0, self._plan.n_markets):
            self._report(line, f"{_name(line.place)}: attempt {attempt!r} of {self._plan.n_markets}")
        else:
            first = self._plan.of_round(planned.stage, planned.round, attempt or 0)
            spends_nothing = bool(attempt) and line.entry.coordinates == 0 != first.coordinates
            self._compare(line, again(first, attempt or 0) if spends_nothing else first)

    def _compare(self, line: Line, planned: Release) -> None:
        seeded = self._plan.config.privacy.noise_seed is not None
        wanted = planned.entry(self._plan.market, delta=self._plan.delta, seeded=seeded).to_data()
        found = line.entry.to_data()
        for name in wanted:
            if _spelled(found[name]) != _spelled(wanted[name]):
                what = f"{name} is {_spelled(found[name])}, planned is {_spelled(wanted[name])}"
                self._report(line, f"{_name(line.place)}: {what}")

    def _coin(self, line: Line) -> None:
        """The auditor's coin comes before anything is charged, and is of this ledger's first line."""
        asked, opening, coin = self._plan.config.audit.replay, self._content.opening, line.entry.remark or ""
        run, hashed = str(opening.get("run")), self._content.opening_hash
        if line.charge is not None or self._next:
            self._report(line, "is a coin where none is tossed any more")
        elif asked is None or not is_coin(asked.card, coin, self._plan.market, run, hashed):
            self._report(line, "is no coin of the auditor whom the configuration names, for this first line")
        else:
            self._compare(line, coin_note(coin))

    def _earlier_runs(self, line: Line) -> None:
        """A note of what may be anything in size, but nothing else: it is read as a part of the statement over runs."""
        entry, plan = line.entry, self._plan
        fixed = (entry.market, entry.delta, entry.audience, entry.depends_on, entry.round, entry.attempt)
        runs = int(entry.remark) if isinstance(entry.remark, str) and _NUMBER.fullmatch(entry.remark) else -1
        right = (
            line.charge is None
            and self._is_noted(entry, runs)
            and (entry.unit, entry.sensitivity, entry.seeded) == ("user", None, False)
            and fixed == (plan.market, plan.delta, (), (), None, None)
            and unaccountable([entry]) is None
            and entry.event == NoOpDpEvent()
            and (runs > 0 or (runs, entry.coordinates, entry.extra_delta) == (0, 0, 0.0))  # of no run there are none
        )
        if not right:
            self._report(line, "is no note of earlier runs")

    def _is_noted(self, entry: Entry, runs: int) -> bool:
        views, said = entry.view_events.keys(), entry.view_events.values()
        if entry.mechanism == LISTED_EARLIER_RUNS and self._other_code:
            return views <= set(DECRYPTED_VIEWS) and all(is_of_runs(found, runs) for found in said)
        drawn = entry.coordinates == 0 and are_noted_failures(entry.extra_delta)
        whole = entry.mechanism == EARLIER_RUNS_MECHANISM and views == set(DECRYPTED_VIEWS)
        return whole and drawn and all(is_noted(found, runs) for found in said)

    def _report(self, line: Line, what: str) -> None:
        self.findings.append(Finding(f"{self._path}:{line.number}", what))


def _transactions(
    path: Path, content: LedgerContent, given_up: Collection[int], *, data: str, left_out: Collection[PlannedPlace]
) -> Iterator[Finding]:
    """Each charge names the rows that it reads and the key that it draws from, a key of its own, and has its seal."""
    keys: dict[str, int] = {}
    for charge in content.charges:
        where, entry = f"{path}:{charge.line}", charge.entry
        name = _name((entry.stage, entry.round))
        reads = not isinstance(entry.event, NoOpDpEvent)
        if charge.data != (data if reads else ""):
            yield Finding(where, f"{name}: reads other rows than the run was opened on")
        draws = entry.coordinates > 0
        if bool(charge.key) != draws:
            yield Finding(where, f"{name}: {'has no' if draws else 'has a'} key of randomness, against its mechanism")
        if charge.key and not is_digest(charge.key):
            yield Finding(where, f"{name}: its key of randomness is named by something that is no hash")
        if charge.key and charge.key in keys:
            yield Finding(where, f"{name}: draws the same noise as line {keys[charge.key]}")
        keys.setdefault(charge.key, charge.line)
        seal = content.seals.get(charge.sequence)
        if seal is None:
            if (entry.stage, entry.round) not in left_out and charge.sequence not in given_up:
                yield Finding(where, f"{name}: is charged, and never sealed")
        elif not is_digest(seal.digest) or not (seal.meter == "" or is_digest(seal.meter)):
            yield Finding(where, f"{name}: its seal names results by something that is no hash")
        elif bool(seal.meter) != draws:
            yield Finding(where, f"{name}: its seal {'names no' if draws else 'names'} spare values of noise")


def _over_budget(
    path: Path, content: LedgerContent, plan: SpendingPlan, given_up: Collection[int]
) -> Iterator[Finding]:
    """ε of the budget's stages, whatever the plan says, by the accountant that the door asks.

    A charge that was given up was of the budget of the course before; what is stated of the run counts it too.
    """
    if plan.epsilon is None:
        return
    lines = entry_lines(content)
    counted = [line.entry for line in lines if line.charge is None or line.charge.sequence not in given_up]
    entries = [entry for entry in counted if stage_group(entry.stage) in plan.noise]
    if not entries or unaccountable(entries):
        return
    events = [entry.event for entry in entries]
    spent = composed_epsilon(events, entries, plan.delta, coarsely)
    if spent > plan.epsilon * (1 + 1e-9):
        yield Finding(
            str(path), f"spends epsilon {epsilon_text(spent)} at delta {delta_text(plan.delta)}, of {plan.epsilon:g}"
        )


def rounds_of(plan: SpendingPlan) -> list[tuple[str, int]]:
    """Stage and round of every sum of a run, in order."""
    return [(release.stage, release.round) for release in plan.releases() if release.round is not None]


def _of(entry: Entry) -> PlannedPlace:
    return entry.stage, entry.round


def _is_attempt(attempt: Any, least: int, n_markets: int) -> bool:
    return type(attempt) is int and least <= attempt < n_markets


def _name(place: PlannedPlace) -> str:
    stage, round = place
    return stage if round is None else f"{stage}, round {round}"


def _spelled(value: Any) -> str:
    return json_text(value, sort_keys=True)
