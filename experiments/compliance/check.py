"""Check a compliance report: signature, verdict, page, and the run that it is about."""

from __future__ import annotations

from pathlib import Path

from experiments.compliance.build import build_document
from experiments.compliance.document import SignedReport
from experiments.compliance.judgement import ASSUMPTIONS, document_verdict, not_guaranteed
from experiments.compliance.questions import answer_questions
from experiments.compliance.signing import MAX_REPORT_BYTES, page, read_report, report_text, signature_problem
from experiments.runs.differences import differences
from fedmm_secure.storage.layout import CONFIG_FILE
from fedmm_secure.storage.run_directory import examining
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.identities import Card
from privacy.foreign import read_bytes


def verify_report(
    path: Path, run: Path | None = None, trusted: Card | None = None, account: Path | None = None
) -> tuple[SignedReport, list[Finding]]:
    """A report and what does not hold of it; no findings if everything does.

    Args:
        path: ``compliance.json`` or ``compliance.html``.
        run: the run's directory; by default the folder that the report stands in, if that is a run.
        trusted: the signer's card.
        account: the privacy account that holds the run; by default the reader's own on this machine.

    Raises:
        ReportError: not a compliance report.
        RunDirectoryError: ``run`` is not a finished run.
    """
    report, html = read_report(path)
    where = str(path)
    findings = report_findings(report, where, run or run_beside(path), trusted, account)
    if html is not None and html != page(report):
        findings.append(Finding(where, "the page does not show what the report inside it says"))
    if html is None and read_bytes(path, MAX_REPORT_BYTES) != report_text(report).encode():
        findings.append(Finding(where, "is not spelled as a report is written: it may show readers something else"))
    return report, findings


def run_beside(path: Path) -> Path | None:
    """The folder that a file stands in, if that is a run."""
    return path.parent if (path.parent / CONFIG_FILE).is_file() else None


def report_findings(
    report: SignedReport, where: str, run: Path | None, trusted: Card | None, account: Path | None
) -> list[Finding]:
    """What does not hold of a report's contents, whatever file they came in; arguments as ``verify_report`` has them.

    Raises:
        RunDirectoryError: ``run`` is not a finished run.
    """
    document, findings = report.document, list[Finding]()
    problem = signature_problem(report, trusted)
    if problem is not None and (report.signature is not None or trusted is not None or run is None):
        findings.append(Finding(where, problem if run else f"{problem}, and no run is there to compare it with: --run"))
    if document.declarations.signer != (None if report.signature is None else report.signature.fingerprint):
        findings.append(Finding(where, "names another card as its signer's than the one it is signed with"))
    if document.verdict != document_verdict(document):
        findings.append(Finding(where, "its verdict does not follow from what it holds"))
    if document.questions != answer_questions(document):
        findings.append(Finding(where, "its answers do not follow from what it holds"))
    if (document.assumptions, document.not_guaranteed) != (ASSUMPTIONS, not_guaranteed(document)):
        findings.append(Finding(where, "its assumptions are not those that its figures rest on"))
    if run is not None:
        with examining(run):
            again = build_document(run, document.declarations, created=document.created, account=account)
        stated, found = document.model_dump(mode="json"), again.model_dump(mode="json")
        findings += [
            Finding(where, f"{field}: says {said!r}, the run gives {given!r}")
            for field, said, given in differences(stated, found)
        ]
    return findings
