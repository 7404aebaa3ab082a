"""A compliance report as an in-toto Statement (v1) in a DSSE envelope, as supply-chain tools read it.

The predicate is the signed report itself, so that an envelope can be checked by itself; the subjects are the report's
file and those that it names by digest. https://github.com/in-toto/attestation/tree/main/spec/v1 and
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError

from experiments.compliance.document import SCHEMA_ID, SignedReport
from experiments.compliance.signing import JSON_FILE, MAX_REPORT_BYTES, ReportError, report_text
from privacy.aggregation.identities import Identity
from privacy.files import write_atomic
from privacy.foreign import ForeignFileError, json_object, read_bytes
from privacy.json_text import json_text

ATTESTATION_FILE = "compliance.intoto.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = SCHEMA_ID  # the predicate is what that schema describes


def attest(report: SignedReport, identity: Identity) -> Envelope:
    """An envelope around a report, signed by whoever signed the report."""
    unsigned = Envelope(statement_bytes(report), PAYLOAD_TYPE, {})
    signature = b64encode(identity.sign(unsigned.pae())).decode()
    return Envelope.from_dict(
        {**unsigned.to_dict(), "signatures": [{"keyid": identity.card.fingerprint, "sig": signature}]}
    )


def statement_bytes(report: SignedReport) -> bytes:
    """The one statement that there is about a report."""
    files = sorted(set(_subjects(report)))
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": report.model_dump(mode="json"),  # keys in the order of the file, whose digest it is
    }
    return json_text(statement, separators=(",", ":"), ensure_ascii=False).encode()


def _subjects(report: SignedReport) -> Iterator[tuple[str, str]]:
    """Files, relative to the run directory, and their SHA-256."""
    yield JSON_FILE, report_digest(report)
    for market in report.document.markets.values():
        if market.ledger.sha256 is not None:
            yield market.ledger.file, market.ledger.sha256
        yield from market.shown.items()


def report_digest(report: SignedReport) -> str:
    """SHA-256 of ``compliance.json``."""
    return sha256(report_text(report).encode()).hexdigest()


def envelope_text(envelope: Envelope) -> str:
    """The one spelling of an envelope."""
    return json_text(envelope.to_dict(), indent=2) + "\n"


def write_attestation(directory: Path, report: SignedReport, identity: Identity) -> Path:
    """Write ``compliance.intoto.json``; returns its path."""
    path = directory / ATTESTATION_FILE
    write_atomic(path, envelope_text(attest(report, identity)).encode())
    return path


def is_envelope(path: Path) -> bool:
    """Whether a file looks like a DSSE envelope, and no report."""
    try:
        return "payloadType" in json_object(read_bytes(path, 2 * MAX_REPORT_BYTES), path)
    except ForeignFileError:
        return False


def read_attestation(path: Path) -> tuple[Envelope, SignedReport, bytes]:
    """An envelope, the report in it, and the file's bytes; nothing of them is checked but their form.

    Raises:
        ReportError: no such file, or not an envelope around a compliance report.
    """
    try:
        data = read_bytes(path, 2 * MAX_REPORT_BYTES)  # base64 takes a third more
        envelope = Envelope.from_dict(json_object(data, path))
        if not isinstance(envelope.payload_type, str):
            raise TypeError("payloadType is no text")
        statement = json_object(envelope.payload, path)
        return envelope, SignedReport.model_validate(statement["predicate"], strict=True), data
    except ForeignFileError as error:
        raise ReportError(str(error)) from error
    except (ValidationError, FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(f"{path}: not a DSSE envelope around a compliance report") from error
