"""Results of attacks and audits as statements: bound to the run that they were made on, and signed by who made them.

Anyone who can write into a run directory can write into its results. So each *statement*, the results of one call of
``fedmm attack`` or ``fedmm audit``, names the run, the heads of its ledgers and the code that computed it, and a
signature covers the whole of it: nothing can be edited in it, left out of it, or carried over to another run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from experiments.assessment.records import ATTACKS
from experiments.assessment.signatures import Signature, SignedPart, check_signature, make_signature
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.storage.digests import Digest
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.provenance import code_version
from fedmm_secure.storage.texts import Time
from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import Identity
from privacy.files import write_json
from privacy.foreign import ForeignDirectory, ForeignFileError
from privacy.json_text import finite, json_text

Kind = Literal["attack", "audit"]


Results = dict[str, list[dict[str, Any]]]


AUDIT = "audit"  # under which the results of an audit stand


CANARY_USERS = "canary users"  # under which stands what an auditor's canary users showed, in the same file


ATTACKS_FILE, AUDIT_FILE = "attacks.json", "audit.json"


_DOMAIN = b"fedmm-secure evidence\0"


_AUDITED = {AUDIT: ("market", "stage", "game"), CANARY_USERS: ("market", "reading")}  # what a result is about


class RunBinding(SignedPart):
    """What a statement is about."""

    run: str
    ledgers: dict[str, Digest]
    code: str


class ResultStatement(SignedPart):
    """The results of one call, by kind of attack; those of an audit under ``AUDIT`` or ``CANARY_USERS``."""

    kind: Kind
    created: Time
    binding: RunBinding
    settings: dict[str, Any]
    results: dict[str, list[dict[str, Any]]]
    signature: Signature | None

    @property
    def signed_bytes(self) -> bytes:
        """What a signature covers: everything beside itself."""
        return _DOMAIN + canonical_json(self.model_dump(mode="json", exclude={"signature"}))


class EvidenceFile(SignedPart):
    """What ``attacks/attacks.json`` and ``audit/<market>/audit.json`` hold."""

    format: Literal["fedmm-secure evidence"] = "fedmm-secure evidence"
    version: Literal[2] = 2
    statements: list[ResultStatement]


class EvidenceError(RunDirectoryError):
    """A file of results that cannot be read."""


def make_statement(
    run: Path, kind: Kind, settings: Mapping[str, Any], results: Results, identity: Identity | None
) -> ResultStatement:
    """A statement about a run as it is now, by the code that is running; signed where there is an identity.

    An infinite number becomes null, which stands for unbounded.
    """
    plain = json.loads(json_text(finite({"settings": settings, "results": results})))
    binding = binding_of(run).model_copy(update={"code": code_version()})
    created = datetime.now(UTC).isoformat(timespec="seconds")
    statement = ResultStatement(kind=kind, created=created, binding=binding, signature=None, **plain)
    if identity is None:
        return statement
    return statement.model_copy(update={"signature": make_signature(identity, statement.signed_bytes)})


def binding_of(run: Path) -> RunBinding:
    """What a run is by its ledgers: the id and the code that they were opened with, and their heads.

    A ledger whose chain is broken is as if it had no line; verification says so.
    """
    from privacy.accounting.ledger import GENESIS, LedgerError, read_ledger  # brings the accountants

    opened, heads = [], {}
    for path in sorted(RunDirectory(run).ledgers.glob("*.jsonl")):
        try:
            content = read_ledger(path)
        except LedgerError:
            heads[path.stem] = GENESIS
            continue
        heads[path.stem] = content.head
        opened.append(content.opening)
    first = opened[0] if opened else {}
    return RunBinding(run=str(first.get("run", "")), ledgers=heads, code=str(first.get("code", "")))


def attacks_file(run: Path) -> Path:
    """What attacks on a run found."""
    return RunDirectory(run).attacks / ATTACKS_FILE


def audit_file(run: Path, market: str) -> Path:
    """What audits of a market found."""
    return RunDirectory(run).audits / market / AUDIT_FILE


def evidence_files(run: Path) -> list[tuple[Kind, Path]]:
    """Files of results in a run directory."""
    attacks = attacks_file(run)
    found: list[tuple[Kind, Path]] = [("attack", attacks)] if attacks.is_file() else []
    return found + [("audit", path) for path in sorted(RunDirectory(run).audits.glob(f"*/{AUDIT_FILE}"))]


def read_evidence_file(run: Path, path: Path) -> list[ResultStatement]:
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


def add_statement(run: Path, path: Path, new: ResultStatement) -> Results:
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


def merge(statements: Sequence[ResultStatement]) -> Results:
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


def _author(statement: ResultStatement) -> str:
    """Fingerprint of who signed a statement; empty where nobody did, or the signature does not hold."""
    if statement.signature is None:
        return ""
    try:
        return check_signature(statement.signature, statement.signed_bytes).fingerprint
    except ValueError:
        return ""


def _beside(earlier: ResultStatement, new: ResultStatement) -> ResultStatement | None:
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
    if kind in _AUDITED:
        keys: Iterable[str] = _AUDITED[kind]
    else:
        keys = ATTACKS[kind].about if kind in ATTACKS else sorted(result)
    return tuple(json_text(result.get(key)) for key in keys)
