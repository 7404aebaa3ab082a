"""Sign a document, write it as JSON and HTML, read it back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import ValidationError

from experiments.assessment.signatures import check_signature, make_signature
from experiments.compliance.document import SCHEMA_ID, Document, SignedReport
from experiments.compliance.judgement import (
    ClaimedFigure,
    claimed,
    claimed_text,
    colour,
    counted_attacks,
    counted_audits,
    evaluation_note,
    persons_note,
    scope,
    untried_views,
)
from experiments.compliance.sentences import ceiling
from experiments.presentation.page import render
from experiments.presentation.text import WHO, catalogue_lines
from fedmm_secure.errors import RunDirectoryError
from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import Card, Identity
from privacy.files import write_atomic
from privacy.foreign import ForeignFileError, parse_json, read_bytes, utf8_text
from privacy.json_text import json_text

JSON_FILE, HTML_FILE = "compliance.json", "compliance.html"
MAX_REPORT_BYTES = 32 * 2**20  # a page carries the JSON beside what it shows of it
_DOMAIN = b"fedmm-secure compliance report\0"
_OPENING, _CLOSING = '<script type="application/json" id="report">', "</script>"


class ReportError(RunDirectoryError):
    """A file that is no compliance report; names the file and the field at fault."""


def sign(document: Document, identity: Identity | None) -> SignedReport:
    """Sign with a party's Ed25519 key; without an identity, the report stays unsigned."""
    signature = None if identity is None else make_signature(identity, signed_bytes(document))
    return SignedReport(document=document, signature=signature)


def signed_bytes(document: Document) -> bytes:
    """What a signature covers: the whole document, and that it is one."""
    return _DOMAIN + canonical_json(document.model_dump(mode="json"))


def signature_problem(report: SignedReport, trusted: Card | None = None) -> str | None:
    """Why a signature does not hold; None if it does.

    Args:
        report: a signed report.
        trusted: the card that the signer handed out; without it, any valid card's signature holds.
    """
    if report.signature is None:
        return "is not signed"
    try:
        card = check_signature(report.signature, signed_bytes(report.document))
    except ValueError as error:
        return str(error)
    if trusted is not None and trusted != card:
        return f"is signed by {card.name} {card.fingerprint}, not by {trusted.name} {trusted.fingerprint}"
    return None


def write_report_files(directory: Path, report: SignedReport) -> tuple[Path, Path]:
    """Write ``compliance.json`` and ``compliance.html``; returns both paths."""
    write_atomic(directory / JSON_FILE, report_text(report).encode())
    write_atomic(directory / HTML_FILE, page(report).encode())
    return directory / JSON_FILE, directory / HTML_FILE


def report_text(report: SignedReport) -> str:
    """The one spelling of a report as JSON."""
    return json_text(report.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def page(report: SignedReport) -> str:
    """The report for people, a function of the report alone; it carries the JSON inside."""
    data = json_text(report.model_dump(mode="json")).replace("<", "\\u003c")
    run = report.document.run
    return render(
        "compliance.html.j2",
        title=f"Compliance report of run {run.name}",
        report=report,
        document=report.document,
        ceiling=ceiling(report.document),
        colour=colour(report.document),
        claims=_by_unit(report.document),
        scope=scope(report.document),
        persons=persons_note(report.document),
        text=partial(claimed_text, report.document),
        who=WHO,
        evaluation=evaluation_note(report.document.run.private_evaluation),
        audits={name: counted_audits(report.document, name) for name in report.document.markets},
        attacked=len(counted_attacks(report.document)),
        untried=untried_views(report.document),
        schema=SCHEMA_ID,
        catalogues=catalogue_lines({name: found.catalogue.kind for name, found in report.document.markets.items()}),
        embedded=data,
    )


def _by_unit(document: Document) -> dict[str, list[ClaimedFigure]]:
    units: dict[str, list[ClaimedFigure]] = {}
    for found in claimed(document):
        units.setdefault(found.unit, []).append(found)
    return units


def read_report(path: Path) -> tuple[SignedReport, str | None]:
    """A report file, and its page's text where it is HTML.

    Raises:
        ReportError: no such file, or not a report.
    """
    try:
        text = utf8_text(read_bytes(path, MAX_REPORT_BYTES), path)
    except ForeignFileError as error:
        raise ReportError(str(error)) from error
    html = text if text.lstrip().lower().startswith("<!doctype html") else None
    return _parse(path, text if html is None else _embedded(path, html)), html


def _embedded(path: Path, html: str) -> str:
    start = html.find(_OPENING) + len(_OPENING)
    end = html.find(_CLOSING, start)
    if html.count(_OPENING) != 1 or end < 0:
        raise ReportError(f"{path}: not a compliance report: it carries no report's JSON")
    return html[start:end]


def _parse(path: Path, text: str) -> SignedReport:
    try:
        parse_json(text, path)  # what is no plain JSON of bounded depth is refused first
        report = SignedReport.model_validate_json(text, strict=True)  # strict of Python values refuses a verdict's name
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise ReportError(f"{path}: not a compliance report: {field}: {problem['msg']}") from error
    except ForeignFileError as error:
        raise ReportError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: not a compliance report") from error
    return report
