"""What attacks and audits found, bound to the run that they were made on, and signed by who made them.

Anyone who can write into a run directory can write into its results. So each *statement*, the results of one call of
``fedmm attack`` or ``fedmm audit``, names the run, the heads of its ledgers and the code that computed it, and a
signature covers the whole of it: nothing can be edited in it, left out of it, or carried over to another run. Only
statements that fit their run and are signed with a key from outside it *count* in favour of a guarantee.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from experiments.assessment.findings import AttackRow, attack_rows
from experiments.assessment.records import ATTACKS
from experiments.compliance.document import (
    AttackStated,
    AuditStated,
    Digest,
    EvidenceStated,
    Part,
    Signature,
    Standing,
)
from experiments.compliance.signatures import check_signature, make_signature
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.storage.provenance import code_version
from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import BUNDLE_FILE, read_bundle
from privacy.errors import InputError
from privacy.files import write_json
from privacy.foreign import ForeignDirectory, ForeignFileError
from privacy.json_text import finite, json_text

Kind = Literal["attack", "audit"]
Results = dict[str, list[dict[str, Any]]]
AUDIT = "audit"  # under which the results of an audit stand
UNSIGNED = "unsigned, computed by whoever wrote the directory"
SELF_SIGNED = "signed with a key of the run's own federation, which vouches for nothing outside it"
UNTRUSTED = "signed with a key that the report's signer does not know the owner of: --trust CARD, once its fingerprint "
UNTRUSTED += "was compared with the signer"
_DOMAIN = b"fedmm-secure evidence\0"
_AUDITED = ("market", "stage", "game")  # what a result of an audit is about


class Binding(Part):
    """What a statement is about."""

    run: str
    ledgers: dict[str, Digest]
    code: str


class Statement(Part):
    """The results of one call, by kind of attack; those of an audit under ``AUDIT``."""

    kind: Kind
    created: str
    binding: Binding
    settings: dict[str, Any]
    results: dict[str, list[dict[str, Any]]]
    signature: Signature | None

    @property
    def signed_bytes(self) -> bytes:
        """What a signature covers: everything beside itself."""
        return _DOMAIN + canonical_json(self.model_dump(mode="json", exclude={"signature"}))


class EvidenceFile(Part):
    """What ``attacks/attacks.json`` and ``audit/<market>/audit.json`` hold."""

    format: Literal["fedmm-secure evidence"] = "fedmm-secure evidence"
    version: Literal[1] = 1
    statements: list[Statement]


class EvidenceError(RunDirectoryError):
    """A file of results that cannot be read."""


@dataclass(frozen=True)
class Evidence:
    """One statement of a run directory, and what it is worth.

    Attributes:
        stated: where it stands, who signed it, whether it counts.
        results: by kind, as they were written; empty where they cannot be read.
        attacks: attacks among them, the strongest of each kind.
        audits: audits among them by the market that they are about, whatever folder they stand in.
    """

    stated: EvidenceStated
    results: Results
    attacks: Sequence[AttackStated]
    audits: Mapping[str, Sequence[AuditStated]]


def make_statement(
    run: Path, kind: Kind, settings: Mapping[str, Any], results: Results, identity: Identity | None
) -> Statement:
    """A statement about a run as it is now, by the code that is running; signed where there is an identity.

    An infinite number becomes null, which stands for unbounded.
    """
    plain = json.loads(json_text(finite({"settings": settings, "results": results})))
    binding = binding_of(run).model_copy(update={"code": code_version()})
    created = datetime.now(UTC).isoformat(timespec="seconds")
    statement = Statement(kind=kind, created=created, binding=binding, signature=None, **plain)
    if identity is None:
        return statement
    return statement.model_copy(update={"signature": make_signature(identity, statement.signed_bytes)})


def binding_of(run: Path) -> Binding:
    """What a run is by its ledgers: the id and the code that they were opened with, and their heads.

    A ledger whose chain is broken is as if it had no line; verification says so.
    """
    from privacy.accounting.ledger import GENESIS, LedgerError, read_ledger  # brings the accountants

    opened, heads = [], {}
    for path in sorted((run / "ledger").glob("*.jsonl")):
        try:
            content = read_ledger(path)
        except LedgerError:
            heads[path.stem] = GENESIS
            continue
        heads[path.stem] = content.head
        opened.append(content.opening)
    first = opened[0] if opened else {}
    return Binding(run=str(first.get("run", "")), ledgers=heads, code=str(first.get("code", "")))


# -- files -------------------------------------------------------------------------------------------------------------


def attacks_file(run: Path) -> Path:
    return run / "attacks" / "attacks.json"


def audit_file(run: Path, market: str) -> Path:
    return run / "audit" / market / "audit.json"


def evidence_files(run: Path) -> list[tuple[Kind, Path]]:
    """Files of results in a run directory."""
    attacks = attacks_file(run)
    found: list[tuple[Kind, Path]] = [("attack", attacks)] if attacks.is_file() else []
    return found + [("audit", path) for path in sorted((run / "audit").glob("*/audit.json"))]


def read_evidence_file(run: Path, path: Path) -> list[Statement]:
    """Statements of a file, in the order in which they were made.

    Raises:
        EvidenceError: it cannot be read, or leads out of the run directory.
    """
    name = path.relative_to(run).as_posix()
    try:
        return EvidenceFile.model_validate(ForeignDirectory(run).json(name)).statements
    except ForeignFileError as error:
        raise EvidenceError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from error
    except (ValidationError, ValueError, RecursionError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "malformed"
        raise EvidenceError(f"{name}: not evidence of this version: {what}") from error


def read_attacks(run: Path) -> Results:
    """Results of ``fedmm attack``, whoever made them; empty if the run was not attacked, or they cannot be read."""
    return _read(run, attacks_file(run))


def read_audits(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of ``fedmm audit`` by market, whoever made them; markets whose results cannot be read are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, path in evidence_files(run):
        for result in _read(run, path).get(AUDIT, []) if kind == "audit" else []:
            found.setdefault(result["market"], []).append(result)
    return found


def _read(run: Path, path: Path) -> Results:
    try:
        return merge(read_evidence_file(run, path)) if path.is_file() else {}
    except EvidenceError:
        return {}


def add_statement(run: Path, path: Path, new: Statement) -> Results:
    """Write a statement beside those that a file holds; returns all results of the file, as ``merge`` does.

    A statement that somebody else signed stays as it is. Of one's own earlier results, and of unsigned ones, those
    about the same thing are replaced, and so is what cannot be read or is about another state of the run.
    """
    try:
        earlier = read_evidence_file(run, path)
    except EvidenceError:
        earlier = []
    statements = [kept for statement in earlier if (kept := _beside(statement, new)) is not None] + [new]
    write_json(path, EvidenceFile(statements=statements).model_dump(mode="json"))
    return merge(statements)


def merge(statements: Sequence[Statement]) -> Results:
    """Results by kind; of several of one signer about the same thing the latest.

    Nobody's word replaces another's: anyone can append a statement, so what is unsigned, or signed in somebody's name
    by someone else, stands beside what was signed.
    """
    latest: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for statement in statements:
        author = _author(statement)
        for kind, results in statement.results.items():
            for result in results:
                latest.setdefault(kind, {})[author, *_about(kind, result)] = result
    return {kind: list(results.values()) for kind, results in latest.items()}


def _author(statement: Statement) -> str:
    """Fingerprint of who signed a statement; empty where nobody did, or the signature does not hold."""
    if statement.signature is None:
        return ""
    try:
        return check_signature(statement.signature, statement.signed_bytes).fingerprint
    except ValueError:
        return ""


def _beside(earlier: Statement, new: Statement) -> Statement | None:
    """What stays of an earlier statement."""
    covered = {kind: {_about(kind, result) for result in results} for kind, results in new.results.items()}
    if earlier.signature is not None:
        same_signer = new.signature is not None and new.signature.card == earlier.signature.card
        repeated = all(
            _about(kind, result) in covered.get(kind, ())
            for kind, results in earlier.results.items()
            for result in results
        )
        return None if same_signer and repeated else earlier
    if earlier.binding != new.binding:
        return None
    kept = {
        kind: [
            r for r in results if _about(kind, r) not in {_about(kind, other) for other in new.results.get(kind, [])}
        ]
        for kind, results in earlier.results.items()
    }
    kept = {kind: results for kind, results in kept.items() if results}
    return earlier.model_copy(update={"results": kept}) if kept else None


def _about(kind: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """What a result is about; a later one about the same replaces it. Of an unknown kind, none is but its own copy."""
    if kind == AUDIT:
        keys: Iterable[str] = _AUDITED
    else:
        keys = ATTACKS[kind].about if kind in ATTACKS else sorted(result)
    return tuple(json_text(result.get(key)) for key in keys)


# -- what it is worth --------------------------------------------------------------------------------------------------


def examine(run: Path) -> list[Evidence]:
    """Every statement of a run directory and whether it counts; changes no file."""
    binding, own_keys = binding_of(run), _own_keys(run)
    return [evidence for kind, path in evidence_files(run) for evidence in _examine(run, kind, path, binding, own_keys)]


def trusting(found: Sequence[Evidence], fingerprints: Collection[str]) -> list[Evidence]:
    """The same evidence, where only what is signed by one of these cards counts: anybody can make a key."""
    return [
        replace(evidence, stated=evidence.stated.model_copy(update={"standing": "untrusted", "problem": UNTRUSTED}))
        if evidence.stated.standing == "counts" and evidence.stated.fingerprint not in fingerprints
        else evidence
        for evidence in found
    ]


def _examine(run: Path, kind: Kind, path: Path, binding: Binding, own_keys: frozenset[bytes]) -> Iterator[Evidence]:
    name = str(path.relative_to(run))
    try:
        statements = read_evidence_file(run, path)
    except EvidenceError as error:
        problem = str(error).removeprefix(f"{name}: ")
        stated = EvidenceStated(id=name, kind=kind, signer=None, fingerprint=None, standing="broken", problem=problem)
        yield Evidence(stated, {}, [], {})
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
            yield Evidence(stated, statement.results, attacks, _audits(statement, stated.id))
        except (KeyError, TypeError, ValueError, AttributeError):  # what a signer wrote need not be results
            unread = {"standing": "broken", "problem": "its results cannot be read"}
            yield Evidence(stated.model_copy(update=unread), {}, [], {})


def _audits(statement: Statement, evidence: str) -> dict[str, list[AuditStated]]:
    bounds = {"none": "low", "gaussian trade-off": "low_gaussian", "one run": "low_one_run"}
    found: dict[str, list[AuditStated]] = {}
    for result in statement.results.get(AUDIT, []):
        audit = AuditStated(
            stage=result["stage"],
            game=result["game"],
            claimed=result["claimed"],
            lower_bounds={name: result[key] for name, key in bounds.items()},
            canaries=result["canaries"],
            verdict=result["verdict"],
            evidence=evidence,
        )
        found.setdefault(str(result["market"]), []).append(audit)
    return found


def _attack(row: AttackRow, evidence: str) -> AttackStated:
    return AttackStated(
        attack=row.attack,
        view=row.view,
        measure=row.measure,
        success=row.success["value"],
        low=row.success["low"],
        high=row.success["high"],
        chance=row.chance,
        within=row.within,
        evidence=evidence,
    )


def _worth(
    statement: Statement, kind: Kind, binding: Binding, own_keys: frozenset[bytes]
) -> tuple[Standing, str | None]:
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
    if bytes.fromhex(signer.signing) in own_keys:
        return "unsigned", SELF_SIGNED
    return "counts", None


def _own_keys(run: Path) -> frozenset[bytes]:
    """Signing keys of the run's own parties; where they cannot be read, verification says so."""
    try:
        bundle = read_bundle(run / "transcript" / BUNDLE_FILE, below=run)
    except InputError:
        return frozenset()
    return frozenset(bytes.fromhex(card.signing) for card in bundle.cards.values())
