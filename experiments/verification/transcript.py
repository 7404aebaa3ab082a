"""A transcript against plan and ledgers: records of fixed kinds, each of which something planned accounts for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.verification.closing import private_digests
from experiments.verification.evidence import Evidence, Messages
from experiments.verification.spending import is_note, noted_courses, rounds_of
from fedmm_secure.federation.messages import HELLO_STAGE, Header, unpack
from fedmm_secure.federation.private_record import private_name
from fedmm_secure.federation.transcript import (
    AGGREGATE,
    HELLO,
    METER,
    OWN_UPDATE,
    PUBLICATION,
    SERVER_AND_MARKETS,
    START,
    STATEMENT,
    SUM,
    UPDATE,
    Record,
    record_file,
)
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import PlannedPlace
from fedmm_secure.guarantee.stages import USER_CODES
from privacy.accounting.ledger import Charge, LedgerContent, stage_group
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.bundle import SERVER

Key = tuple[str, str, int, int, str]  # kind, stage, round, attempt, sender
OF_SERVER = frozenset({START, HELLO, STATEMENT, UPDATE, AGGREGATE})  # what a server's directory holds


def key_of(record: Record) -> Key:
    """What is recorded once."""
    return record.kind, record.stage, record.round, record.attempt, record.sender


class ByKey:
    """Bytes of records by what is recorded once; read when they are asked for. Of two, the later directory's counts."""

    def __init__(self, directories: Sequence[Messages]) -> None:
        self._found = {key_of(record): (messages, record) for messages in directories for record in messages.records}

    def get(self, key: Key) -> bytes | None:
        """The bytes; None where nothing is recorded."""
        if key not in self._found:
            return None
        messages, record = self._found[key]
        return messages.content[record.file]


class Opened(Mapping[Key, tuple[Header, bytes]]):
    """Header and payload of messages whose signatures hold; the payloads stay in their files until they are asked for.

    Args:
        messages: that they are among.
    """

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._known: dict[Key, tuple[Header, Record]] = {}

    def add(self, header: Header, record: Record) -> None:
        """Add a message whose signature was checked."""
        self._known[key_of(record)] = header, record

    def header(self, key: Key) -> Header:
        """The header alone."""
        return self._known[key][0]

    def __getitem__(self, key: Key) -> tuple[Header, bytes]:
        return unpack(self._messages.content[self._known[key][1].file])  # bytes of the hash whose signature was checked

    def __iter__(self) -> Iterator[Key]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@dataclass(frozen=True)
class Planned:
    """What a run may record.

    Attributes:
        markets: of the federation.
        here: those whose ledgers are in the directory; of others it holds what the server passes on.
        rounds: stage and round of every sum.
        published: by market, stages of what it publishes.
        drawn: by market, stage and round of what draws noise.
        courses: of the run, as the ledgers note them: each begins with hellos of its own.
    """

    markets: tuple[str, ...]
    here: frozenset[str]
    rounds: frozenset[tuple[str, int]]
    published: dict[str, frozenset[str]]
    drawn: dict[str, frozenset[PlannedPlace]]
    courses: int

    @classmethod
    def of(cls, evidence: Evidence) -> Planned:
        """What the plans of an evidence's markets let one expect."""
        plans = evidence.plans
        return cls(
            evidence.bundle.markets,
            frozenset(evidence.ledgers),
            frozenset(place for plan in plans.values() for place in rounds_of(plan)),
            {market: _published(plan) for market, plan in plans.items()},
            {market: frozenset(plan.drawing) for market, plan in plans.items()},
            max((noted_courses(content) for content in evidence.ledgers.values()), default=1),
        )

    def problem(self, record: Record) -> str | None:
        """What is wrong with a record of the transcript by itself; None if something planned accounts for it."""
        place, sender = (record.stage, record.round), record.sender
        of_round = place in self.rounds and 0 <= record.attempt < len(self.markets)
        of_stage = record.round == 0 and record.attempt == 0
        of_keys = record.stage == HELLO_STAGE
        of_course = record.round == 0 and 0 <= record.attempt < self.courses
        published = of_stage and record.stage in self.published.get(sender, ()) and not _is_private(record.stage)
        # what it must be, who sees it, and how many it was sent to (None: as many as its header says)
        return _problem(
            record,
            {
                START: (of_stage and of_keys and sender == SERVER, SERVER_AND_MARKETS, len(self.markets)),
                HELLO: (of_keys and of_course and sender in self.markets, SERVER_AND_MARKETS, 1),
                STATEMENT: (of_round and sender in self.markets, SERVER_AND_MARKETS, 1),
                UPDATE: (of_round and sender in self.markets, ("server",), 1),
                AGGREGATE: (of_round and sender == SERVER, SERVER_AND_MARKETS, None),
                SUM: (of_round and record.attempt == 0 and sender == SERVER, ("markets",), 0),
                PUBLICATION: (published, ("release",), 0),
                METER: (self._may_be_metered(record), ("release",), 0),
            },
        )

    def private_problem(self, market: str, record: Record) -> str | None:
        """The same for a record that a market keeps to itself."""
        own = record.sender == market and market in self.here
        of_round = (record.stage, record.round) in self.rounds and 0 <= record.attempt < len(self.markets)
        published = (record.round, record.attempt) == (0, 0) and record.stage in self.published.get(market, ())
        return _problem(
            record,
            {
                OWN_UPDATE: (own and of_round, (f"owner:{market}",), 0),
                PUBLICATION: (own and published and _is_private(record.stage), ("profile",), 0),
            },
        )

    def _may_be_metered(self, record: Record) -> bool:
        drawn = self.drawn.get(record.sender, frozenset())
        if (record.stage, record.round) in drawn:
            return 0 <= record.attempt < len(self.markets)
        return (record.stage, None) in drawn and (record.round, record.attempt) == (0, 0)


def _problem(record: Record, expected: Mapping[str, tuple[bool, tuple[str, ...], int | None]]) -> str | None:
    if record.kind not in expected:
        return f"is of kind {record.kind!r:.50}; there is none such"
    planned, seen_by, receivers = expected[record.kind]
    if not planned:
        return f"a {record.kind} of {record.sender!r:.50}, {record.stage!r:.50}, round {record.round}: nothing plans it"
    if record.visible_to != seen_by or (receivers is not None and record.receivers != receivers):
        return f"a {record.kind} is seen by {', '.join(seen_by)}, not by what its record says"
    return None


def _is_private(stage: str) -> bool:
    """Randomised user codes are for the profile view, whose ε counts them, and stay beside what is handed out."""
    return stage_group(stage) == USER_CODES


def _published(plan: SpendingPlan) -> frozenset[str]:
    return frozenset(
        found.stage for found in plan.releases() if found.round is None and found.audience and not is_note(found)
    )


def transcript_findings(evidence: Evidence, left_out: dict[str, set[PlannedPlace]]) -> list[Finding]:
    """Every record is planned, and is what a market's ledger was sealed with; every seal has its record.

    Args:
        evidence: the run, its plans made.
        left_out: by market, rounds whose sum lacks it: what it had charged for them may be missing.
    """
    planned, messages = Planned.of(evidence), evidence.messages
    findings = []
    for record in messages.records:
        problem = planned.problem(record)
        if problem is None and record.kind == UPDATE and record.sender not in planned.here:
            problem = f"a {record.kind} of market {record.sender}, whose ledger is not here"
        if problem:
            findings.append(Finding(messages.where(record), problem))
    for market, own in evidence.own.items():
        found = ((own.where(record), planned.private_problem(market, record)) for record in own.records)
        findings += [Finding(where, problem) for where, problem in found if problem]
    digests = {key_of(record): record.sha256 for record in messages.records}
    for market, content in evidence.ledgers.items():
        if market in evidence.plans:
            sealed = _Sealed(evidence.ledger(market), market, content, digests, left_out.get(market, set()))
            findings += sealed.findings(planned.published[market])
            findings += _unsealed_records(evidence, market, content)
    return findings


@dataclass(frozen=True)
class _Sealed:
    """One market's charges against what is recorded of them."""

    path: Path
    market: str
    content: LedgerContent
    digests: dict[Key, str]
    left_out: set[PlannedPlace]

    def findings(self, published: frozenset[str]) -> Iterator[Finding]:
        last = {(found.entry.stage, found.entry.round): found.sequence for found in self.content.charges}
        for charge in self.content.charges:
            seal, place = self.content.seals.get(charge.sequence), (charge.entry.stage, charge.entry.round)
            if seal is None:
                continue  # among the findings about the plan
            if charge.entry.round is not None:
                given_up = charge.sequence != last[place] and self._key(charge, UPDATE) not in self.digests
                if given_up:  # before it was sent
                    yield from self._kept(charge, OWN_UPDATE, seal.digest)
                else:
                    yield from self._recorded(charge, UPDATE, seal.digest)
            elif charge.entry.stage in published:
                look = self._kept if _is_private(charge.entry.stage) else self._recorded
                yield from look(charge, PUBLICATION, seal.digest)
            if seal.meter:
                yield from self._recorded(charge, METER, seal.meter)

    def _recorded(self, charge: Charge, kind: str, digest: str) -> Iterator[Finding]:
        found, entry = self.digests.get(self._key(charge, kind)), charge.entry
        if found == digest:
            return
        if found is not None:
            what = f"{_at(charge)}: sealed with another {kind} than is in the transcript"
            yield Finding(f"{self.path}:{charge.line}", what)
        elif (entry.stage, entry.round) not in self.left_out:
            yield Finding(f"{self.path}:{charge.line}", f"{_at(charge)}: its {kind} is not in the transcript")

    def _kept(self, charge: Charge, kind: str, digest: str) -> Iterator[Finding]:
        """What the market keeps to itself: seal and last line say the same of it, whether it is shown or not."""
        entry = charge.entry
        file = record_file(entry.stage, entry.round or 0, entry.attempt or 0, kind, self.market)
        if self.content.closing is None:
            return  # among the findings about the last line
        if private_digests(self.content).get(private_name(self.market, file)) != digest:
            what = f"{_at(charge)}: the {kind} that it was sealed with is not among the private files of the last line"
            yield Finding(f"{self.path}:{charge.line}", what)

    def _key(self, charge: Charge, kind: str) -> Key:
        return kind, charge.entry.stage, charge.entry.round or 0, charge.entry.attempt or 0, self.market


def _at(charge: Charge) -> str:
    entry = charge.entry
    return entry.stage if entry.round is None else f"{entry.stage}, round {entry.round}, attempt {entry.attempt}"


def _unsealed_records(evidence: Evidence, market: str, content: LedgerContent) -> Iterator[Finding]:
    """Records of a market that no sealed charge of its ledger accounts for; of spare values, none that names some."""
    paid, metered = set[tuple[str, int, int]](), set[tuple[str, int, int]]()
    for charge in content.charges:
        seal, entry = content.seals.get(charge.sequence), charge.entry
        if seal is not None:
            at = entry.stage, entry.round or 0, entry.attempt or 0
            paid.add(at)
            metered |= {at} if seal.meter else set()
    for messages, record in evidence.shown():
        at = (record.stage, record.round, record.attempt)
        of_kind = {UPDATE: paid, OWN_UPDATE: paid, PUBLICATION: paid, METER: metered}.get(record.kind)
        if record.sender == market and of_kind is not None and at not in of_kind:
            yield Finding(messages.where(record), f"a {record.kind} of market {market} without a charge in its ledger")
