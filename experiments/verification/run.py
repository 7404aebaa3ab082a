"""Check a run: its ledgers against its configuration, its transcript against its ledgers, its files against both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.presentation.steps import tell_step
from experiments.verification.canaries import canary_findings
from experiments.verification.closing import ClosingSignature, closing_findings, not_shown, signature_of
from experiments.verification.evidence import Evidence, irregular, read_configuration, read_evidence
from experiments.verification.figures import figure_findings
from experiments.verification.files import file_findings
from experiments.verification.layout import unread
from experiments.verification.messages import (
    message_findings,
    open_messages,
    rounds_without,
    server_findings,
)
from experiments.verification.meter import METER_LEVEL, noise_findings
from experiments.verification.opening import market_findings, opening_findings, statement_findings
from experiments.verification.platform import one_thread, same_code
from experiments.verification.publications import artefact_findings, read_publications
from experiments.verification.replay import Replay, refuse_another_auditor, replay_findings
from experiments.verification.spending import spending_findings
from experiments.verification.transcript import Opened, transcript_findings
from fedmm_secure.federation.canaries import CANARIES
from fedmm_secure.federation.coins import REPLAY
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.releases import PlannedPlace
from fedmm_secure.storage.provenance import code_version
from fedmm_secure.storage.run_directory import MALFORMED
from privacy.accounting.ledger_check import Finding
from privacy.aggregation import AggregationError
from privacy.aggregation.identities import Card
from privacy.foreign import reading_once

if TYPE_CHECKING:
    from attacks.auditing.run_canaries import Measured

# Every check, and what it looks at; reports print these words.
CHECKS: Mapping[str, str] = {
    "files": "the directory holds the plain files that a run leaves, with the fields that they may have, alone",
    "markets": "all markets of the federation are there",
    "opening line": "each ledger's hash chain, and its first line against configuration, bundle, environment and sizes",
    "messages": "signatures of all messages, and every sum added up again",
    "plan": "one charge and one seal for every release that the configuration plans, in order, and nothing else",
    "epsilon": "epsilon of every view and stage by PLD (dp-accounting) and PRV (Opacus), within 1 %",
    "transcript": "every message and publication against its ledger line",
    "publications": "every array of every publication by name, shape and type",
    "test figures": "test figures that the budget paid for, against the published histograms",
    "models and codes": "models and codes, computed again or by hash",
    "noise meter": "the size and the law of the noise, on spare coordinates",
    "closing line": "each ledger's last line: its signature, and the files that it names",
}


@dataclass(frozen=True)
class Examination:
    """What verification found.

    Attributes:
        checks: findings by the check that made them; a check that found nothing has none.
        signatures: by market, who signed its ledger's last line, where that signature holds.
        plans: by market, what its configuration makes of its sizes: to be relied on where there are no findings.
        notes: what a reader should know beside them.
        unchecked: what could not be held to the plan here; a report leaves it open.
        measured: by market, what canaries of the run showed, where it has any.
    """

    checks: Mapping[str, tuple[Finding, ...]]
    signatures: Mapping[str, ClosingSignature] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    plans: Mapping[str, SpendingPlan] = field(default_factory=dict)
    measured: Mapping[str, Sequence[Measured]] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All findings, in the order of the checks."""
        return [finding for found in self.checks.values() for finding in found]

    @property
    def complete(self) -> bool:
        """Whether there was something to check, and every check ran."""
        return self.checks.keys() >= CHECKS.keys()

    def to_data(self) -> dict[str, Any]:
        """Signatures, notes, what was not checked and what canaries showed, for machines."""
        signatures = {name: vars(found) for name, found in self.signatures.items()}
        data = {"signatures": signatures, "notes": list(self.notes), "unchecked": list(self.unchecked)}
        if not self.measured:
            return data
        return data | {"canaries": {name: [asdict(one) for one in found] for name, found in self.measured.items()}}


def verify_run(directory: Path, server: Path | None = None, signer: Card | None = None) -> list[Finding]:
    """Findings of a run; empty if everything holds. See ``examine_run``."""
    return examine_run(directory, server, signer).findings


@reading_once
def examine_run(
    directory: Path, server: Path | None = None, signer: Card | None = None, replay: Replay | None = None
) -> Examination:
    """Check a run from what its directory holds; nothing is changed, executed, or followed out of it.

    A market of a deployed run has its own ledger and messages alone. ``state/`` is no evidence, and not opened.

    ``CHECKS`` says what is checked.

    Args:
        directory: of the run.
        server: of a deployed run, the server's directory, whose aggregates are added up again too.
        signer: the card that must have signed every ledger's last line; None accepts any signature that holds, and
            ``Examination.signatures`` says whose.
        replay: what an auditor brings to draw all releases again; that is a check of its own then.

    Raises:
        InputError: no configuration, or not a finished run; or a replay by another auditor than it names.
    """
    config, metrics = read_configuration(directory)
    if replay is not None:
        refuse_another_auditor(directory, config, replay)
    links = irregular(directory)
    if links:
        return Examination({"files": tuple(links)})
    evidence, unreadable = read_evidence(directory, config, metrics)
    checks = {name: list(found) for name, found in unreadable.items()}
    if evidence is None:
        return Examination({name: tuple(found) for name, found in checks.items()})
    with one_thread():
        _Course(evidence, checks, server, signer, replay).run()
    signatures = {market: found[0] for market in evidence.ledgers if (found := signature_of(evidence, market))}
    found_by_check = {name: tuple(found) for name, found in checks.items()}
    return Examination(
        found_by_check, signatures, _notes(evidence), tuple(evidence.unchecked), evidence.plans, evidence.measured
    )


def _notes(evidence: Evidence) -> tuple[str, ...]:
    computed_by = {str(content.opening.get("code")) for content in evidence.ledgers.values()} - {code_version()}
    notes = [
        f"computed by code {code[:12]}, checked by {code_version()[:12]}: compare the former with a release you trust"
        for code in sorted(computed_by)
    ]
    for market in evidence.ledgers:
        absent = not_shown(evidence, market)
        if absent:
            notes.append(f"{market}: not shown, or not with the key that stays in the market: {', '.join(absent)}")
    beside = unread(evidence.directory)
    if beside:
        notes.append(f"not read, so not vouched for: {', '.join(beside)}")
    return (*notes, *evidence.notes)


@dataclass
class _Course:
    """The checks in order; later ones build on what earlier ones read."""

    evidence: Evidence
    checks: dict[str, list[Finding]]
    server: Path | None
    signer: Card | None
    replay: Replay | None = None

    def run(self) -> None:
        evidence = self.evidence
        self._check("files", lambda: file_findings(evidence))
        self._check("markets", lambda: market_findings(evidence))
        self._check("opening line", lambda: opening_findings(evidence))
        opened = Opened(evidence.messages)
        self._check("messages", lambda: open_messages(evidence, evidence.messages, opened))
        left_out = rounds_without(opened, evidence.ledgers)
        self._check("plan", lambda: self._spending(left_out))
        self._check("epsilon", lambda: statement_findings(evidence))
        self._check("transcript", lambda: transcript_findings(evidence, left_out))
        self._check("messages", lambda: message_findings(evidence, opened))
        if self.server is not None:
            server = self.server
            self._check("messages", lambda: server_findings(evidence, server))
        published: dict[str, Publications] = {market: Publications(plan) for market, plan in evidence.plans.items()}
        self._check("publications", lambda: self._published(published))
        self._check("test figures", lambda: figure_findings(evidence, published))
        self._check("models and codes", lambda: artefact_findings(evidence, published, opened))
        self._check("noise meter", lambda: noise_findings(evidence))
        if evidence.config.audit.canaries:
            self._check(CANARIES, lambda: list(canary_findings(evidence, METER_LEVEL / 2)))
        self._check("closing line", lambda: closing_findings(evidence, self.signer))
        if self.replay is not None:
            replay = self.replay
            self._check(REPLAY, lambda: replay_findings(evidence, replay))

    def _check(self, name: str, check: Callable[[], list[Finding]]) -> None:
        if name not in {*CHECKS, CANARIES, REPLAY}:
            raise KeyError(name)
        found = self.checks.setdefault(name, [])
        tell_step("checks", len(self.checks) - 1, len(CHECKS), name)
        try:
            found += check()
        except (AggregationError, *MALFORMED) as error:
            found.append(Finding(str(self.evidence.directory), f"{name}: cannot be checked: {error!r:.300}"))

    def _spending(self, left_out: Mapping[str, set[PlannedPlace]]) -> list[Finding]:
        findings = []
        for market, plan in self.evidence.plans.items():
            content = self.evidence.ledgers[market]
            data = str(content.opening.get("data"))
            path = self.evidence.ledger(market)
            findings += spending_findings(
                path, content, plan, data=data, left_out=left_out[market], other_code=not same_code(self.evidence)
            )
        return findings

    def _published(self, published: dict[str, Publications]) -> list[Finding]:
        found, findings = read_publications(self.evidence)
        published.update(found)
        return findings
