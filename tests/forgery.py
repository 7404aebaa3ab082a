"""Whoever has a run's directory and wants it to say something else: an outsider, or its owner.

An outsider edits files, the transcript's index, and ledgers, whose hash chains he computes again: nothing in them is
secret. He cannot sign. The owner does all that, fits the ledgers' first lines to it, and signs their last lines again
with the key of the market, which the run keeps.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fedmm_secure.config import Config, configuration_hash
from fedmm_secure.federation.closing import (
    closing_text,
    file_digests,
    private_commitments,
    transcript_digest,
)
from fedmm_secure.federation.transcript import INDEX, Record, index_bytes, read_index
from fedmm_secure.guarantee.statement import guarantees
from fedmm_secure.storage.layout import PRIVATE, RunDirectory
from fedmm_secure.storage.run_directory import read_config
from privacy.accounting.ledger import CHARGE, CLOSE, GENESIS, OPEN, SEAL, Entry, encode_line
from privacy.aggregation.identities import Identity
from privacy.files import json_bytes


@dataclass
class Line:
    """A ledger line; a seal knows its charge whatever is dropped between them."""

    kind: str
    body: dict[str, Any]
    of: "Line | None" = None

    @property
    def stage(self) -> str:
        return str((self.body if self.of is None else self.of.body)["entry"]["stage"])


class Forgery:
    """A copy of a run, to be changed and then finished."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.markets = sorted(path.stem for path in (directory / "ledger").glob("*.jsonl"))
        self.ledgers = {market: _lines(directory / "ledger" / f"{market}.jsonl") for market in self.markets}
        self.records = {record.file: record for record in read_index(directory / "transcript")}

    # files

    def json(self, name: str, change: Callable[[Any], None]) -> None:
        path = self.directory / name
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_bytes(json_bytes(content))

    def configure(self, section: str, **values: Any) -> None:
        path = self.directory / "config.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        inner = content
        for key in section.split("."):
            inner = inner[key]
        inner.update(values)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    # ledgers

    def entries(self, market: str) -> list[dict[str, Any]]:
        return [line.body["entry"] for line in self.ledgers[market] if "entry" in line.body]

    def drop(self, market: str, gone: Callable[[Line], bool]) -> None:
        """Leave out charges and notes, and the seals of the former."""
        kept = self.ledgers[market]
        self.ledgers[market] = [
            line
            for line in kept
            if line.kind in (OPEN, CLOSE) or not (gone(line) if line.of is None else gone(line.of))
        ]

    def seal_of(self, market: str, stage: str) -> dict[str, Any]:
        return next(line.body for line in self.ledgers[market] if line.kind == SEAL and line.stage == stage)

    def opening(self, market: str) -> dict[str, Any]:
        return self.ledgers[market][0].body["commitments"]

    # the transcript

    def read(self, file: str) -> bytes:
        return (self.directory / "transcript" / file).read_bytes()

    def replace(self, file: str, data: bytes, **changed: Any) -> None:
        """Other bytes for a record, with the seal that names them."""
        record = self.records[file]
        digest = hashlib.sha256(data).hexdigest()
        for line in self.ledgers.get(record.sender, []):
            for name in ("digest", "meter"):
                if line.kind == SEAL and line.body[name] == record.sha256:
                    line.body[name] = digest
        self.add(Record(**{**vars(record), "sha256": digest, "size": len(data), **changed}), data)

    def add(self, record: Record, data: bytes) -> None:
        path = self.directory / "transcript" / record.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.records[record.file] = record

    def remove(self, gone: Callable[[Record], bool]) -> None:
        for record in [record for record in self.records.values() if gone(record)]:
            del self.records[record.file]
            (self.directory / "transcript" / record.file).unlink()

    # what a market keeps to itself

    def own(self, market: str, file: str) -> bytes:
        return (self.directory / PRIVATE / market / file).read_bytes()

    def keep(self, market: str, kept: Callable[[Record], bool], changed: Mapping[str, bytes] | None = None) -> None:
        """Keep some of its records, some with other bytes."""
        folder, records = self.directory / PRIVATE / market, []
        for record in read_index(folder):
            if not kept(record):
                (folder / record.file).unlink()
                continue
            data = (changed or {}).get(record.file, self.own(market, record.file))
            (folder / record.file).write_bytes(data)
            records.append(replace(record, sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
        (folder / INDEX).write_bytes(index_bytes(records))

    # the end

    def state_again(self) -> None:
        """Make the privacy statement of the metrics what the ledgers now give."""
        config = read_config(self.directory)

        def change(metrics: Any) -> None:
            for market in self.markets:
                entries = [Entry.from_data(entry) for entry in self.entries(market)]
                metrics["privacy"]["markets"][market] = guarantees(config, entries)

        self.json("metrics.json", change)

    def finish(self, *, owner: bool) -> None:
        """Write index and ledgers; as the owner, with first lines that fit and last lines that are signed."""
        (self.directory / "transcript" / INDEX).write_bytes(index_bytes(self.records.values()))
        config = read_config(self.directory) if owner else None
        for market in self.markets:
            if config is not None:
                self._fit_opening(market, config)
            self._write(market, config)

    def _fit_opening(self, market: str, config: Config) -> None:
        environment = (self.directory / "environment.json").read_bytes()
        self.opening(market).update(
            configuration=configuration_hash(config).hex(),
            environment=hashlib.sha256(environment).hexdigest(),
            code=json.loads(environment)["code"],
        )

    def _write(self, market: str, config: Config | None) -> None:
        head, written = GENESIS, b""
        numbers = {id(line): number for number, line in enumerate(self.ledgers[market])}
        for number, line in enumerate(self.ledgers[market]):
            body = line.body if line.of is None else {**line.body, "charge": numbers[id(line.of)]}
            if line.kind == CLOSE and config is not None:
                body = {"statement": self._statement(market, number + 1, head, config)}
            raw, head = encode_line(line.kind, body, number, head)
            written += raw
        (self.directory / "ledger" / f"{market}.jsonl").write_bytes(written)

    def _statement(self, market: str, lines: int, head: str, config: Config) -> dict[str, Any]:
        signer = Identity.load(self.directory / "state" / "keys" / market)
        salt = RunDirectory(self.directory).private_key(market).read_bytes()
        statement = {
            "files": file_digests(self.directory, config, market),
            "private": private_commitments(self.directory, config, market, salt),
            "transcript": transcript_digest(self.records.values()),
            "lines": lines,
        }
        text = closing_text(market, self.opening(market)["run"], head, statement)
        return {**statement, "card": asdict(signer.card), "signature": signer.sign(text).hex()}


def _lines(path: Path) -> list[Line]:
    found: list[Line] = []
    for raw in path.read_bytes().splitlines():
        data = json.loads(raw)
        of = found[data["body"]["charge"]] if data["kind"] == SEAL else None
        assert of is None or of.kind == CHARGE
        found.append(Line(data["kind"], data["body"], of))
    return found
