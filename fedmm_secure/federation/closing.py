"""The end of a run: each ledger's last line commits to what the run left, signed.

The signature counts where its key is from outside the run: a key that the run made itself shows that nothing was
changed since by who lacks it, and nothing about who ran it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.parties import Federation
from fedmm_secure.federation.transcript import Record
from fedmm_secure.provenance import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE
from fedmm_secure.results import Metrics
from fedmm_secure.storage import write_json
from privacy.accounting.ledger import read_ledger
from privacy.accounting.lines import canonical_json
from privacy.foreign import ForeignDirectory, read_bytes

SHARED_FILES = (CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE)
MARKET_FILES = ("codes", "models", "predictions")


def is_closed(directory: Path, markets: Iterable[str]) -> bool:
    """Whether a run is over and all of its ledgers are closed; changes nothing."""
    paths = [directory / "ledger" / f"{market}.jsonl" for market in markets]
    return all(path.is_file() for path in paths) and all(read_ledger(path).closing is not None for path in paths)


def read_metrics(directory: Path) -> Metrics:
    """The metrics of a finished run."""
    if not (directory / METRICS_FILE).is_file():
        raise RunDirectoryError(f"{directory}: no metrics.json; the run has not finished (fedmm run --resume)")
    return ForeignDirectory(directory).json(METRICS_FILE)


def close_ledgers(federation: Federation, metrics: Metrics) -> Metrics:
    """Write the metrics, once, and close every ledger of this process; returns what was written."""
    directory = federation.directory
    path = directory / METRICS_FILE
    if path.is_file() and any(door.ledger.closing is not None for door in federation.doors.values()):
        metrics = read_metrics(directory)  # killed between two markets: the first has committed to these
    else:
        write_json(path, metrics)
    for market, door in federation.doors.items():
        if door.ledger.closing is None:
            statement = {
                "files": file_digests(directory, market),
                "transcript": transcript_digest(federation.transcript.records),
                "lines": door.ledger.length + 1,
            }
            signer = federation.signers[market]
            text = closing_text(market, federation.run, door.ledger.head, statement)
            door.close({**statement, "card": asdict(signer.card), "signature": signer.sign(text).hex()})
    return metrics


def file_digests(directory: Path, market: str) -> dict[str, str]:
    """SHA-256 by path of everything that a run leaves of a market: configuration, metrics, models, codes."""
    paths = [directory / name for name in SHARED_FILES]
    for folder in MARKET_FILES:
        paths += [directory / folder / f"{market}.parquet", *sorted((directory / folder / market).rglob("*"))]
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(read_bytes(path, below=directory)).hexdigest()
        for path in paths
        if path.is_file()
    }


def transcript_digest(records: Iterable[Record]) -> str:
    """Hash over all records of a transcript, in the order of their files."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda record: record.file):
        digest.update(canonical_json(asdict(record)) + b"\n")
    return digest.hexdigest()


def closing_text(market: str, run: str, head: str, statement: Mapping[str, Any]) -> bytes:
    """What the signer of a closing line signs: the statement, and the ledger up to it."""
    fields = {"market": market, "run": run, "head": head, "statement": dict(statement)}
    return b"fedmm-secure closing\0" + canonical_json(fields)
