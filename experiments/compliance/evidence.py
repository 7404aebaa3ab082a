"""What statements of attacks and audits are worth.

Only those that fit their run and are signed with a key from outside it *count* in favour of a guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attacks.auditing import AUDIT_LEVEL, LOST
from experiments.assessment.findings import AttackRow, attack_rows
from experiments.assessment.signatures import check_signature
from experiments.assessment.statements import (
    AUDIT,
    CANARY_USERS,
    EvidenceError,
    Kind,
    Results,
    ResultStatement,
    RunBinding,
    binding_of,
    evidence_files,
    read_evidence_file,
)
from experiments.compliance.document import (
    AttackStated,
    AuditStated,
    CanariesStated,
    CanaryUsersStated,
    EvidenceStanding,
    EvidenceStated,
    RatioStated,
)
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.text import rounded_down, rounded_up
from privacy.aggregation.bundle import BUNDLE_FILE, read_bundle
from privacy.errors import InputError
from privacy.hexadecimal import bytes_of

if TYPE_CHECKING:
    from attacks.auditing.run_canaries import Measured

VIOLATED, SHOWS_NOTHING = "VIOLATED", "shows nothing"
_BOUNDS = (("f-DP", "low_fdp"), ("Steinke et al.", "low_one_run"))
UNSIGNED = "unsigned, computed by whoever wrote the directory"
SELF_SIGNED = "signed with a key of the run's own federation, which vouches for nothing outside it"
UNTRUSTED = "nobody has vouched for card {} here: --trust CARD, once its fingerprint was compared with its owner's"


@dataclass(frozen=True)
class WeighedStatement:
    """One statement of a run directory, and what it is worth.

    Attributes:
        stated: where it stands, who signed it, whether it counts.
        results: by kind, as they were written; empty where they cannot be read.
        attacks: attacks among them, all.
        audits: audits among them by the market that they are about, whatever folder they stand in.
        canary_users: what an auditor's canary users showed, by market likewise.
    """

    stated: EvidenceStated
    results: Results
    attacks: Sequence[AttackStated]
    audits: Mapping[str, Sequence[AuditStated]]
    canary_users: Mapping[str, Sequence[CanaryUsersStated]] = field(default_factory=dict)


def examine(run: Path) -> list[WeighedStatement]:
    """Every statement of a run directory and whether it counts; changes no file."""
    binding, own_keys = binding_of(run), _own_keys(run)
    return [evidence for kind, path in evidence_files(run) for evidence in _examine(run, kind, path, binding, own_keys)]


def trusting(found: Sequence[WeighedStatement], fingerprints: Collection[str]) -> list[WeighedStatement]:
    """The same evidence, where only what is signed by one of these cards counts: anybody can make a key."""
    return [
        _untrusted(evidence)
        if evidence.stated.standing == "counts" and evidence.stated.fingerprint not in fingerprints
        else evidence
        for evidence in found
    ]


def _untrusted(evidence: WeighedStatement) -> WeighedStatement:
    problem = UNTRUSTED.format(evidence.stated.fingerprint)
    return replace(evidence, stated=evidence.stated.model_copy(update={"standing": "untrusted", "problem": problem}))


def _examine(
    run: Path, kind: Kind, path: Path, binding: RunBinding, own_keys: frozenset[bytes]
) -> Iterator[WeighedStatement]:
    name = str(path.relative_to(run))
    try:
        statements = read_evidence_file(run, path)
    except EvidenceError as error:
        problem = str(error).removeprefix(f"{name}: ")
        stated = EvidenceStated(id=name, kind=kind, signer=None, fingerprint=None, standing="broken", problem=problem)
        yield WeighedStatement(stated, {}, [], {})
        return
    for number, statement in enumerate(statements, start=1):
        standing, problem_found = _worth(statement, kind, binding, own_keys)
        signature = statement.signature
        stated = EvidenceStated(
            id=f"{name}#{number}",
            kind=kind,
            signer=None if signature is None else signature.card.name,
            fingerprint=None if signature is None else signature.fingerprint,
            standing=standing,
            problem=problem_found,
        )
        try:
            attacks = [_attack(row, stated.id) for row in attack_rows(statement.results)]
            audits, canary_users = _audits(statement, stated.id), _canary_users(statement, stated.id)
            yield WeighedStatement(stated, statement.results, attacks, audits, canary_users)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
        ):  # what was signed need not be results
            unread = {"standing": "broken", "problem": "its results cannot be read"}
            yield WeighedStatement(stated.model_copy(update=unread), {}, [], {})


def _refutes(statement: ResultStatement, result: Mapping[str, Any], p_value: float, share: float = 1.0) -> bool:
    """Whether a p-value refutes, at the level of its result, or at the share that the result would have of 5 %.

    Who makes an audit chooses its level, and an audit at a lower one refutes less.
    """
    level = float(result["level"]) * max(1.0, AUDIT_LEVEL / float(statement.settings["level"]))
    return p_value <= share * level


def _audits(statement: ResultStatement, evidence: str) -> dict[str, list[AuditStated]]:
    found: dict[str, list[AuditStated]] = {}
    for result in statement.results.get(AUDIT, []):
        refuted = result["verdict"] == VIOLATED or _refutes(statement, result, result["p_value"])
        audit = AuditStated(
            stage=result["stage"],
            game=result["game"],
            claimed=result["claimed"],
            lower_bounds={name: result[key] for name, key in _BOUNDS},
            detects=result["detects"],
            canaries=result["canaries"],
            verdict=VIOLATED if refuted else result["verdict"],
            evidence=evidence,
        )
        found.setdefault(str(result["market"]), []).append(audit)
    return found


def _canary_users(statement: ResultStatement, evidence: str) -> dict[str, list[CanaryUsersStated]]:
    found: dict[str, list[CanaryUsersStated]] = {}
    for result in statement.results.get(CANARY_USERS, []):
        verdict = result["verdict"]
        if _refutes(statement, result, result["p_value"]):
            verdict = VIOLATED
        elif verdict != VIOLATED and _refutes(statement, result, result["light"], LOST):
            verdict = SHOWS_NOTHING
        reading = CanaryUsersStated(
            **{name: result[name] for name in ("reading", "claimed", "candidates", "present", "auc", "p_value")},
            lower_bounds={name: result[key] for name, key in _BOUNDS},
            verdict=verdict,
            evidence=evidence,
        )
        found.setdefault(str(result["market"]), []).append(reading)
    return found


def canaries_stated(measured: Sequence[Measured]) -> list[CanariesStated]:
    """What canaries of a run showed of one market's stages, at as many digits as every machine computes alike."""
    return [
        CanariesStated(
            stage=one.stage,
            noise=_ratio(one.noise),
            weight=_ratio(one.weight),
            claimed=_claimed(one),
            lower_bounds={name: rounded_down(vars(one.result)[key], 2) for name, key in _BOUNDS} if one.result else {},
            canaries=0 if one.result is None else one.result.canaries,
            verdict="as stated" if one.alarm is None else "NOT AS STATED",
        )
        for one in measured
    ]


def _claimed(measured: Measured) -> float | None:
    if measured.result is None or math.isinf(measured.result.claimed):
        return None
    return rounded_up(measured.result.claimed, 6)


def _ratio(measured: tuple[float, float, float]) -> RatioStated:
    value, low, high = (round(one, 3) for one in measured)
    return RatioStated(value=value, low=low, high=high)


def _attack(row: AttackRow, evidence: str) -> AttackStated:
    return AttackStated(
        kind=row.kind,
        attack=row.attack,
        view=row.view,
        measure=row.measure,
        success=row.success["value"],
        low=row.success["low"],
        high=row.success["high"],
        chance=row.chance,
        over=row.over,
        verdict=row.verdict,
        says=row.says,
        evidence=evidence,
    )


def _worth(
    statement: ResultStatement, kind: Kind, binding: RunBinding, own_keys: frozenset[bytes]
) -> tuple[EvidenceStanding, str | None]:
    signer = None
    if statement.signature is not None:
        try:
            signer = check_signature(statement.signature, statement.signed_bytes)
        except ValueError as error:
            return "broken", str(error)
    if statement.kind != kind:
        return "broken", f"holds results of an {statement.kind} where those of an {kind} belong"
    about = statement.binding
    if about.run != binding.run:
        return "unbound", "of another run"
    if about.ledgers != binding.ledgers:
        return "unbound", "of another state of the ledgers"
    if about.code != binding.code:
        return "unbound", "computed by other code than that of the run"
    if signer is None:
        return "unsigned", UNSIGNED
    if bytes_of(signer.signing) in own_keys:
        return "unsigned", SELF_SIGNED
    return "counts", None


def _own_keys(run: Path) -> frozenset[bytes]:
    """Signing keys of the run's own parties; where they cannot be read, verification says so."""
    try:
        bundle = read_bundle(RunDirectory(run).transcript / BUNDLE_FILE, below=run)
    except InputError:
        return frozenset()
    return frozenset(bytes_of(card.signing) for card in bundle.cards.values())
