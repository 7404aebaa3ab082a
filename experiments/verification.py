"""Check a run from its ledgers and transcript alone."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from experiments.differences import differences
from experiments.run_directory import read_config
from fedmm_secure.config import Config
from fedmm_secure.federation.aggregation_plan import AggregationPlan, check_bundle
from fedmm_secure.federation.closing import read_metrics
from fedmm_secure.federation.messages import Header, MessageError, verify
from fedmm_secure.federation.transcript import INDEX, PUBLICATION, Record, read_index
from fedmm_secure.guarantee.publications import publication_problem
from fedmm_secure.guarantee.stages import VIEWS
from fedmm_secure.guarantee.statement import guarantees
from privacy.accounting.ledger import Entry, LedgerError, read_ledger
from privacy.accounting.ledger_check import Finding, verify_ledger
from privacy.aggregation import AggregationError
from privacy.aggregation.keys import BUNDLE_FILE, read_bundle
from privacy.errors import InputError

OUTGOING = ("update", PUBLICATION)


def verify_run(directory: Path, server: Path | None = None) -> list[Finding]:
    """Findings of a run; empty if everything holds.

    A market of a deployed run has its own ledger and messages alone; with ``server``, the server's directory of that
    run, its aggregates are added up again too.

    Checked: each ledger's hash chain; ε per market and view by two accountants, against the metrics; every
    message and publication that left a market has its ledger line, and the bytes that the line names; publications
    hold values of items and of models, and of users only through randomised response; every aggregate is the sum of
    the recorded updates.

    Raises:
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_config(directory), read_metrics(directory)
    findings: list[Finding] = []
    released: dict[str, set[str]] = {}
    claimed = metrics.get("privacy", {}).get("markets", {})
    for market in sorted(set(metrics["markets"]) | set(claimed)):
        path = directory / "ledger" / f"{market}.jsonl"
        views = claimed.get(market)
        if views is None:
            findings.append(Finding(str(directory / "metrics.json"), f"no privacy statement for market {market}"))
            continue
        findings += verify_ledger(path, {view: _claim(views, view) for view in VIEWS})
        try:
            entries, _ = read_ledger(path)
        except LedgerError:
            continue  # reported above
        if entries:
            findings += _verify_statement(directory, config, market, views, entries)
        released[market] = {entry.message_sha256 for entry in entries if entry.message_sha256}
    sizes = {market: (values["n_users"], values["n_items"]) for market, values in metrics["markets"].items()}
    findings += _verify_transcript(directory, config, released, sizes, server)
    return findings


def _claim(views: dict[str, Any], view: str) -> float | None:
    epsilon = views.get(view, {}).get("epsilon")
    return None if epsilon is None else float(epsilon)


def _verify_statement(
    directory: Path, config: Config, market: str, claimed: dict[str, Any], entries: list[Entry]
) -> list[Finding]:
    """Every field of the privacy statement (δ, unit, basis, stages, profile) must follow from the ledger."""
    where = str(directory / "metrics.json")
    findings = [
        Finding(where, f"market {market}, {view}.{field}: says {found!r}, the ledger gives {expected!r}")
        for view, statement in guarantees(config, entries).items()
        for field, expected, found in differences(statement, claimed.get(view), same=_close)
    ]
    server_reads = config.aggregation.kind == "plaintext"
    for number, entry in enumerate(entries, start=1):
        if entry.message_sha256 and entry.round is not None and ("server" in entry.audience) != server_reads:
            path = directory / "ledger" / f"{market}.jsonl"
            findings.append(Finding(f"{path}:{number}", f"audience {entry.audience} does not fit the aggregator"))
    return findings


def _close(expected: Any, found: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, int | float):
        return math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-12)
    return bool(expected == found)


def _verify_transcript(
    directory: Path,
    config: Config,
    released: dict[str, set[str]],
    sizes: dict[str, tuple[int, int]],
    server: Path | None,
) -> list[Finding]:
    transcript = directory / "transcript"
    if not (transcript / INDEX).is_file():
        return [Finding(str(transcript), "missing")]
    records, content, findings = _read_transcript(transcript)
    for record in (found for found in records if found.file in content):
        path, data = transcript / record.file, content[record.file]
        if record.kind in OUTGOING and record.sha256 not in released.get(record.sender, set()):
            findings.append(Finding(str(path), f"let out by market {record.sender} without a line in its ledger"))
        if record.kind == PUBLICATION:
            problem = publication_problem(record.stage, data, config, *sizes.get(record.sender, (0, 0)))
            findings += [Finding(str(path), problem)] if problem else []
    updates = {r.sha256 for r in records if r.kind in OUTGOING}
    for market, hashes in released.items():
        for missing in sorted(hashes - updates):
            findings.append(Finding(f"ledger of {market}", f"message {missing[:12]}… is not in the transcript"))
    findings += _verify_messages(directory, config, set(released), records, content)
    if server is not None:
        findings += _verify_server(directory, config, server, {record.file: record.sha256 for record in records})
    return findings


def _read_transcript(transcript: Path) -> tuple[list[Record], dict[str, bytes], list[Finding]]:
    """Index and files of a transcript, and which files are not what the index says."""
    records, content, findings = read_index(transcript), {}, []
    for record in records:
        path = transcript / record.file
        data = path.read_bytes() if path.is_file() else None
        if data is None or hashlib.sha256(data).hexdigest() != record.sha256:
            findings.append(Finding(str(path), "missing, or its bytes do not match the index"))
        else:
            content[record.file] = data
    return records, content, findings


def _verify_server(directory: Path, config: Config, server: Path, known: dict[str, str]) -> list[Finding]:
    """The server's transcript by itself, and that it is of the same run as the market's."""
    transcript = server / "transcript"
    if not (transcript / INDEX).is_file():
        return [Finding(str(transcript), "missing")]
    records, content, findings = _read_transcript(transcript)
    for record in records:
        if known.get(record.file, record.sha256) != record.sha256:
            findings.append(Finding(str(transcript / record.file), f"is not what {directory} holds"))
    if not known.keys() & content.keys():
        findings.append(Finding(str(transcript), f"has nothing in common with {directory}"))
    senders = {record.sender for record in records}
    return findings + _verify_messages(server, config, senders, records, content)


def _verify_messages(
    directory: Path, config: Config, here: set[str], records: list[Record], content: dict[str, bytes]
) -> list[Finding]:
    """Check who signed each message, and add the recorded updates again with public material.

    Args:
        directory: of the run.
        config: its configuration.
        here: markets whose updates should be in the transcript; sums over others are not checked.
        records: the transcript's index.
        content: its files.
    """
    path = directory / "transcript" / BUNDLE_FILE
    try:
        bundle = read_bundle(path)
        check_bundle(bundle, plan := AggregationPlan.of(config, len(bundle.markets)), path)
    except InputError as error:
        return [Finding(str(path), str(error))]
    server = plan.server()
    opened: dict[tuple[str, str, int, int, str], tuple[Header, bytes]] = {}
    findings = []
    for record in records:
        if record.kind not in ("hello", "update", "aggregate") or record.file not in content:
            continue
        key = (record.kind, record.stage, record.round, record.attempt, record.sender)
        try:
            if record.sender not in bundle.cards:
                raise MessageError("its sender is not in the federation")
            header, payload = verify(content[record.file], bundle.cards[record.sender])
            if (header.kind, header.stage, header.round, header.attempt, header.sender) != key:
                raise MessageError("its header is of another message")
            if header.parameters != bundle.digest:
                raise MessageError("its header names another bundle")
            opened[key] = header, payload
        except MessageError as error:
            findings.append(Finding(record.file, str(error)))
    if len({header.run for header, _ in opened.values()}) > 1:
        findings.append(Finding(str(path.parent), "holds messages of several runs"))
    for (kind, stage, round, attempt, _), (header, payload) in opened.items():
        if kind != "aggregate" or not set(header.cohort) <= here:
            continue
        where = f"{stage}, round {round}"
        try:
            parts = [opened["update", stage, round, attempt, sender] for sender in header.cohort]
            same = server.aggregate([part for _, part in parts]) == payload
        except (KeyError, AggregationError) as error:
            findings.append(Finding(where, f"the aggregate cannot be added up again: {error}"))
            continue
        if not same:
            findings.append(Finding(where, "the aggregate is not the sum of the recorded updates"))
    return findings
