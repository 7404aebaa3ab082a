"""Files of a run: those that it may hold, each in its one spelling, with the fields that it may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.verification.evidence import Evidence
from experiments.verification.layout import layout_findings
from experiments.verification.platform import same_code
from experiments.verification.schemas import environment_problems, metrics_problems
from fedmm_secure.config import config_from_data
from fedmm_secure.federation.transcript import INDEX, index_bytes
from fedmm_secure.foreign.yaml_text import parse_yaml
from fedmm_secure.results.metrics import communication
from fedmm_secure.storage.layout import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, RunDirectory
from fedmm_secure.storage.run_directory import yaml_text
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.bundle import BUNDLE_FILE
from privacy.files import json_bytes
from privacy.foreign import read_bytes


def file_findings(evidence: Evidence) -> list[Finding]:
    """Files that no run has, spellings that no run writes, and fields that none has."""
    return [*layout_findings(evidence), *_spellings(evidence), *_fields(evidence)]


def _spellings(evidence: Evidence) -> Iterator[Finding]:
    """Blanks, comments and the order of lines mean nothing, and have room for a message."""
    directory = evidence.directory
    expected = {
        directory / METRICS_FILE: json_bytes(evidence.metrics),
        directory / ENVIRONMENT_FILE: json_bytes(evidence.environment),
        RunDirectory(directory).transcript / BUNDLE_FILE: json_bytes(evidence.bundle.to_json()),
        RunDirectory(directory).transcript / INDEX: index_bytes(evidence.messages.index),
        directory / CONFIG_FILE: _configuration(evidence),
    }
    for path, written in expected.items():
        if path.is_file() and read_bytes(path, below=directory) != written:
            yield Finding(str(path), "is not spelled as a run writes it: holds more than what is read of it")


def _configuration(evidence: Evidence) -> bytes:
    """As a run of this code writes what is read of it; one of other code may lack sections, or have another order.

    It is what the values mean that is written, not how they stand there: a number that stands as a text has room.
    """
    path = evidence.directory / CONFIG_FILE
    found = parse_yaml(read_bytes(path, below=evidence.directory), path)
    meant = config_from_data(found, source=str(path)).model_dump(mode="json")
    if same_code(evidence):
        return yaml_text(meant).encode()
    part = yaml_text(_part(meant, found)).encode()
    if part != yaml_text(meant).encode():
        evidence.unchecked.append(
            f"{CONFIG_FILE}: other code wrote it: which keys it leaves out, and their order, were not checked"
        )
    return part


def _part(meant: Any, found: Any) -> Any:
    """Of what a configuration means, the keys that are there."""
    if not (isinstance(meant, Mapping) and isinstance(found, Mapping)):
        return meant
    return {name: _part(meant[name], value) for name, value in found.items() if name in meant}


def _fields(evidence: Evidence) -> Iterator[Finding]:
    metrics = evidence.directory / METRICS_FILE
    yield from (Finding(str(metrics), what) for what in metrics_problems(evidence.config, evidence.metrics))
    sent = communication(evidence.messages.index, evidence.config.federation.rounds)
    if evidence.metrics.get("communication") != sent:
        yield Finding(str(metrics), f"communication: is not that of the transcript, {sent}")
    environment = evidence.directory / ENVIRONMENT_FILE
    yield from (Finding(str(environment), what) for what in environment_problems(evidence.environment))
