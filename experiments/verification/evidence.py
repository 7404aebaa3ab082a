"""What a run directory holds, read by someone who does not trust it.

Nothing in it is executed, followed out of it, or believed: files are regular, of bounded size, and below the directory;
what cannot be read is a finding. ``state/`` is the run's memory and no evidence: it is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm_secure.config import Config
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.aggregation_plan import AggregationPlan, check_bundle
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.federation.transcript import INDEX, Record, has_own_file, read_index, read_record
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.storage.layout import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER,
    MARKET_FOLDERS,
    METRICS_FILE,
    TRANSCRIPT,
    RunDirectory,
)
from fedmm_secure.storage.run_directory import read_environment, read_foreign_config, read_metrics
from privacy.accounting.ledger import LedgerContent, LedgerError, read_ledger
from privacy.accounting.ledger_check import Finding, broken_ledger
from privacy.aggregation.bundle import BUNDLE_FILE, Bundle, read_bundle
from privacy.errors import InputError
from privacy.foreign import ForeignDirectory, ForeignFileError, is_inside

if TYPE_CHECKING:
    from attacks.auditing.run_canaries import Measured

MAX_TRANSCRIPT_BYTES = 2**32  # of all messages together, each of which is read a few times
MAX_EVIDENCE_BYTES = 2 * MAX_TRANSCRIPT_BYTES  # of these, ledgers, models, codes and what markets keep to themselves
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True)
class Messages:
    """A transcript directory, its files checked against its index.

    Attributes:
        directory: where it is.
        index: all records.
        records: those whose file is there as the index says.
        content: their bytes, by file; read, and held to the index again, when they are asked for.
    """

    directory: Path
    index: tuple[Record, ...]
    records: tuple[Record, ...]
    content: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes that the index names."""
        return sum(max(record.size, 0) for record in self.index if has_own_file(record))

    def where(self, record: Record) -> str:
        """How a finding names a record."""
        return str(self.directory / record.file)


class _Content(Mapping[str, bytes]):
    """Bytes of records whose hashes were found as their index says; nothing of them is kept."""

    def __init__(self, directory: Path, records: Mapping[str, Record]) -> None:
        self._directory, self._records = directory, records

    def __getitem__(self, file: str) -> bytes:
        return read_record(self._directory, self._records[file])

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


@dataclass
class Evidence:
    """A run directory.

    Attributes:
        directory: where it is.
        config: what it says was configured.
        metrics: what it says came out.
        environment: what it says of code and machine.
        bundle: the parties of the federation.
        sizes: of their markets, as the bundle states them; ``UNKNOWN`` where it does not.
        ledgers: by market, those that can be read.
        messages: its transcript.
        own: by market, what it recorded for itself; those that are shown.
        plans: by market, what the configuration makes of the sizes that a ledger was opened with; filled in when the
            opening lines are checked.
        measured: by market, what canaries of the run showed; filled in where it has any.
        notes: what checks have to say beside findings.
        unchecked: what they could not look at.
    """

    directory: Path
    config: Config
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    bundle: Bundle
    sizes: Mapping[str, MarketSize]
    ledgers: Mapping[str, LedgerContent]
    messages: Messages
    own: Mapping[str, Messages] = field(default_factory=dict)
    plans: dict[str, SpendingPlan] = field(default_factory=dict)
    measured: dict[str, list[Measured]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def aggregation(self) -> AggregationPlan:
        """How updates are protected and added up."""
        return AggregationPlan.of(self.config, self.sizes)

    def leave_open(self, text: str) -> None:
        """Say once what could not be looked at, however often it is met."""
        if text not in self.unchecked:
            self.unchecked.append(text)

    def ledger(self, market: str) -> Path:
        """A market's ledger file."""
        return ledger_file(self.directory, market)

    def shown(self) -> Iterator[tuple[Messages, Record]]:
        """Every record of the transcript, and of what markets recorded for themselves, that is there."""
        for messages in (self.messages, *self.own.values()):
            yield from ((messages, record) for record in messages.records)


def ledger_file(directory: Path, market: str) -> Path:
    """A market's ledger file."""
    return RunDirectory(directory).ledger(market)


def read_configuration(directory: Path) -> tuple[Config, Mapping[str, Any]]:
    """Configuration and metrics, without which there is nothing to check.

    Raises:
        InputError: they are missing or malformed, or the directory leads out of itself.
    """
    for path, problem in ForeignDirectory(directory).irregular((CONFIG_FILE, METRICS_FILE)):
        raise RunDirectoryError(f"{path}: {problem}")
    return read_foreign_config(directory), read_metrics(directory)


def irregular(directory: Path) -> list[Finding]:
    """Links, devices and oversized files among the evidence: no check opens anything while one is there.

    Nor where all files together are more than is read: one with holes takes no room on a disk, and as long to read.
    """
    evidence, run = (ENVIRONMENT_FILE, LEDGER, TRANSCRIPT, *MARKET_FOLDERS), ForeignDirectory(directory)
    found = [Finding(str(path), problem) for path, problem in run.irregular(evidence)]
    if not found and (size := run.size(evidence)) > MAX_EVIDENCE_BYTES:
        found = [Finding(str(directory), f"{size} bytes of evidence, of which at most {MAX_EVIDENCE_BYTES} are read")]
    return found


def read_evidence(
    directory: Path, config: Config, metrics: Mapping[str, Any]
) -> tuple[Evidence | None, dict[str, list[Finding]]]:
    """The rest of a run directory, and what cannot be read of it, by check; None without a bundle of its parties."""
    unreadable: dict[str, list[Finding]] = {"markets": [], "ledger chain": [], "transcript": []}
    bundle_file = RunDirectory(directory).transcript / BUNDLE_FILE
    try:
        bundle = read_bundle(bundle_file, below=directory)
        sizes = market_sizes(config, bundle.markets, {}, bundle.sizes)
        check_bundle(bundle, AggregationPlan.of(config, sizes), bundle_file)
        if not all(_NAME.fullmatch(name) for name in bundle.cards):
            raise RunDirectoryError(f"{bundle_file}: a party's name is none")
    except InputError as error:
        unreadable["markets"].append(Finding(str(bundle_file), str(error).removeprefix(f"{bundle_file}: ")))
        return None, unreadable
    ledgers = {}
    for market in bundle.markets:
        path = ledger_file(directory, market)
        if path.is_file():
            try:
                ledgers[market] = read_ledger(path)
            except LedgerError as error:
                unreadable["ledger chain"].append(broken_ledger(path, error))
    messages, unreadable["transcript"] = read_messages(RunDirectory(directory).transcript)
    own = dict[str, Messages]()
    for market in bundle.markets:
        place = RunDirectory(directory).private(market)
        if (place / INDEX).is_file():  # nobody has to show it
            left = MAX_TRANSCRIPT_BYTES - messages.size - sum(shown.size for shown in own.values())
            own[market], found = _read_messages(place, left)
            unreadable["transcript"] += found
    try:
        environment = read_environment(directory)
    except ForeignFileError as error:
        unreadable["markets"].append(Finding(str(directory / ENVIRONMENT_FILE), str(error)))
        environment = {}
    return Evidence(directory, config, metrics, environment, bundle, sizes, ledgers, messages, own), unreadable


def read_messages(directory: Path) -> tuple[Messages, list[Finding]]:
    """A transcript, and what of it is not what its index says, or not in its index."""
    messages, findings = _read_messages(directory)
    known = {record.file for record in messages.index} | {INDEX, BUNDLE_FILE}
    for path in sorted(directory.rglob("*")) if messages.index else ():
        if path.is_file() and path.relative_to(directory).as_posix() not in known:
            findings.append(Finding(str(path), "is not in the index"))
    return messages, findings


def _read_messages(directory: Path, most: int = MAX_TRANSCRIPT_BYTES) -> tuple[Messages, list[Finding]]:
    nothing = Messages(directory, (), (), _Content(directory, {}))
    if not (directory / INDEX).is_file():
        return nothing, [Finding(str(directory), "missing")]
    try:
        records = read_index(directory)
    except InputError as error:
        return nothing, [Finding(str(directory / INDEX), str(error).removeprefix(f"{directory / INDEX}: "))]
    found, findings = dict[str, Record](), list[Finding]()
    content = _Content(directory, found)
    if Messages(directory, tuple(records), (), content).size > most:
        what = f"names more messages than the {MAX_TRANSCRIPT_BYTES} bytes that are read of a run"
        return nothing, [Finding(str(directory / INDEX), what)]
    for record in records:
        if not is_inside(record.file):
            findings.append(Finding(str(directory / INDEX), f"names a file outside: {record.file!r:.200}"))
        elif not has_own_file(record):
            findings.append(Finding(str(directory / record.file), "is in another file than its record says"))
        elif not _is_indexed(directory, record):
            findings.append(Finding(str(directory / record.file), "missing, or its bytes do not match the index"))
        else:
            found[record.file] = record
    return Messages(directory, tuple(records), tuple(found.values()), content), findings


def _is_indexed(directory: Path, record: Record) -> bool:
    try:
        read_record(directory, record)
    except ForeignFileError:
        return False
    return True


def sections(metrics: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A part of the metrics that maps markets to what is said of them; empty where it does not."""
    found: Any = metrics
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(market): values for market, values in found.items() if isinstance(values, Mapping)}
