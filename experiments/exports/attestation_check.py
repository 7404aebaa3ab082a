"""Check an envelope: its signature, its subjects, the report in it, and the run that the report is about."""

from __future__ import annotations

from pathlib import Path

from securesystemslib.dsse import Envelope

from experiments.compliance.check import report_findings, run_beside
from experiments.compliance.document import SignedReport
from experiments.compliance.signing import JSON_FILE, MAX_REPORT_BYTES, report_text
from experiments.exports.attestation import (
    PAYLOAD_TYPE,
    envelope_text,
    read_attestation,
    statement_bytes,
)
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.identities import Card
from privacy.foreign import read_bytes
from privacy.hexadecimal import bytes_of


def verify_attestation(
    path: Path, run: Path | None = None, trusted: Card | None = None, account: Path | None = None
) -> tuple[SignedReport, list[Finding]]:
    """The report in an envelope, and what does not hold of either; no findings if everything does.

    The digests of ledgers, models and the rest stand in the report, and are compared with the run as all of it is. What
    the subjects say is that again, so that they have to be what follows from the report.

    Args:
        path: the envelope.
        run: the run's directory; by default the folder that the envelope stands in, if that is a run.
        trusted: the signer's card.
        account: the privacy account that holds the run; by default the reader's own on this machine.

    Raises:
        ReportError: not an envelope around a compliance report.
        RunDirectoryError: ``run`` is not a finished run.
    """
    envelope, report, data = read_attestation(path)
    where, run = str(path), run or run_beside(path)
    findings = []
    problem = _signature_problem(envelope, report)
    if problem is not None:
        findings.append(Finding(where, problem))
    if envelope.payload_type != PAYLOAD_TYPE:
        findings.append(Finding(where, f"is not of type {PAYLOAD_TYPE}"))
    if envelope.payload != statement_bytes(report):
        findings.append(Finding(where, "its subjects, types or spelling are not those of the report in it"))
    if data != envelope_text(envelope).encode():
        findings.append(Finding(where, "is not spelled as an envelope is written: it may show readers something else"))
    beside = None if run is None else run / JSON_FILE
    if beside is not None and beside.is_file() and read_bytes(beside, MAX_REPORT_BYTES) != report_text(report).encode():
        findings.append(Finding(where, f"its subject {JSON_FILE} is another file than {beside}"))
    return report, [*findings, *report_findings(report, where, run, trusted, account)]


def _signature_problem(envelope: Envelope, report: SignedReport) -> str | None:
    """Why the envelope is not signed by who signed the report; whether the card is valid, the report's check says."""
    if report.signature is None:
        return "holds a report that nobody signed"
    if list(envelope.signatures) != [report.signature.fingerprint]:
        return f"is not signed by the report's signer, card {report.signature.fingerprint}, alone"
    try:
        card = Card(**report.signature.card.model_dump())
        card.verify(bytes_of(envelope.signatures[report.signature.fingerprint].signature), envelope.pae())
    except (TypeError, ValueError) as error:
        return f"its envelope's signature does not hold: {error}"
    return None
