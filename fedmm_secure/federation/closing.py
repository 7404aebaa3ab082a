"""The end of a run: each ledger's last line commits to what the run left, signed.

A ledger is handed out, so its last line must not show anything of private rows. A plain hash does: whoever has a guess
at the rows computes it again and compares. What is published is named by plain hash; every other file by an HMAC under
a random key that stays in the market. Whoever has the key and the files, the owner, can check them.

The signature counts where its key is from outside the run: a key that the run made itself shows that nothing was
changed since by who lacks it, and nothing about who ran it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config, configuration_hash
from fedmm_secure.config.choices import CONFIGURED, MODELS
from fedmm_secure.ctr.recipes import baseline_recipe
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.account_entries import data_fingerprint
from fedmm_secure.federation.canaries import CANARIES, kept_nonce
from fedmm_secure.federation.parties import Federation
from fedmm_secure.federation.private_record import commitment, committed_absence, make_salt
from fedmm_secure.federation.transcript import Record
from fedmm_secure.storage.layout import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, QuantizerKind, RunDirectory
from fedmm_secure.storage.run_directory import published_models, read_environment, read_metrics
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.ledger import read_ledger
from privacy.accounting.lines import canonical_json
from privacy.files import one_time, write_json
from privacy.foreign import read_bytes

SHARED_FILES = (CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE)


def is_closed(directory: Path, markets: Iterable[str]) -> bool:
    """Whether a run is over and all of its ledgers are closed; changes nothing."""
    paths = [RunDirectory(directory).ledger(market) for market in markets]
    return all(path.is_file() for path in paths) and all(read_ledger(path).closing is not None for path in paths)


def refuse_another(config: Config, markets: Mapping[str, PreparedMarket], directory: Path) -> None:
    """Raises ``RunDirectoryError`` where a closed run is not of this configuration and these rows; changes nothing."""
    account, problem = account_of(config, directory), None
    for name, prepared in markets.items():
        opening = read_ledger(RunDirectory(directory).ledger(name)).opening
        if opening.get("configuration") != configuration_hash(config).hex():
            problem = "another configuration"
        elif set(opening.get("sizes", {})) != set(markets):
            problem = "other markets"
        elif isinstance(account, PrivacyAccount) and not account.path.is_file():
            problem = f"rows that cannot be compared: {account.path} is missing"
        elif opening.get("data") != data_fingerprint(account, str(opening.get("run")), prepared):
            problem = f"other rows of market {name}"
        if problem:
            raise RunDirectoryError(f"{directory}: holds a finished run of {problem}; choose another directory")


def close_ledgers(federation: Federation, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the metrics, once, and close every ledger of this process; returns what was written.

    In the end every file has the time when the run began: when it was written depends on how many rows there are.
    """
    directory = federation.directory
    path = directory / METRICS_FILE
    if path.is_file() and any(door.ledger.closing is not None for door in federation.doors.values()):
        metrics = read_metrics(directory)  # killed between two markets: the first has committed to these
    else:
        write_json(path, metrics)
    federation.transcript.settle()
    for market, door in federation.doors.items():
        if door.ledger.closing is None:
            door.own.transcript.settle()
            statement = {
                "files": file_digests(directory, federation.config, market),
                "private": private_commitments(directory, federation.config, market, make_salt(directory, market)),
                "transcript": transcript_digest(federation.transcript.records),
                "lines": door.ledger.length + 1,
            }
            nonce = kept_nonce(door.ledger.opening, RunDirectory(directory).charges(market))
            statement |= {} if nonce is None else {CANARIES: nonce.hex()}
            signer = federation.signers[market]
            text = closing_text(market, federation.run, door.ledger.head, statement)
            door.close({**statement, "card": asdict(signer.card), "signature": signer.sign(text).hex()})
    one_time(directory, _begun(directory))
    return metrics


def _begun(directory: Path) -> datetime:
    """When a run began, as its environment says, which is handed out with it; now where there is none."""
    if not (directory / ENVIRONMENT_FILE).is_file():
        return datetime.now(UTC)
    return datetime.fromisoformat(str(read_environment(directory)["created"]))


def file_digests(directory: Path, config: Config, market: str) -> dict[str, str]:
    """SHA-256 by path of what a run shows of a market: configuration, environment, metrics, published models."""
    paths = [*(directory / name for name in SHARED_FILES), *published_models(directory, config, market)]
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(read_bytes(path, below=directory)).hexdigest()
        for path in paths
        if path.is_file()
    }


def private_commitments(directory: Path, config: Config, market: str, salt: bytes) -> dict[str, str]:
    """HMAC-SHA256 by path of what a run leaves of a market and does not show.

    Which files are there may depend on single users' rows: of rows that leave nothing to train on there is no model. So
    all that the configuration may leave are named, and of those that are not there it is committed that they are not.
    """
    there = {
        path.relative_to(directory).as_posix(): commitment(salt, path, directory)
        for path in private_files(directory, config, market)
    }
    return {name: committed_absence(salt, name) for name in kept_names(config, market)} | there


def kept_names(config: Config, market: str) -> list[str]:
    """Paths of what a market may keep to itself beside its record, whatever its rows: by the configuration alone."""
    names, ctr = RunDirectory(), config.ctr
    trained = [CONFIGURED, *(name for name in ctr.baselines if baseline_recipe(name) is not None)]
    kinds: list[QuantizerKind] = ["quantizer"]
    kinds += ["refined"] if config.refines else []
    kinds += ["own"] if ctr.codes == "local" or ctr.average_local else []
    kinds += ["own-alone"] if ctr.average_local and "shared" in ctr.features else []
    found = [names.codes(market), names.predictions(market)]
    found += [names.tuned(market, recipe) for recipe in trained] if ctr.tune else []
    for seed in config.seed:
        found += [names.quantizer(market, seed, kind=kind) for kind in kinds]
        found.append(names.ctr(market, seed, MODELS[ctr.model].suffix))
    shown = published_models(Path(), config, market)
    return [path.as_posix() for path in found if path not in shown]


def private_files(directory: Path, config: Config, market: str) -> list[Path]:
    """Files of a market that are not published: codes, predictions, its own models and record."""
    shown = set(published_models(directory, config, market))
    return [path for path in RunDirectory(directory).own_files(market) if path not in shown]


def transcript_digest(records: Iterable[Record]) -> str:
    """Hash over all records of a transcript, in the order of their files."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda record: record.file):
        digest.update(canonical_json(vars(record)) + b"\n")
    return digest.hexdigest()


def closing_text(market: str, run: str, head: str, statement: Mapping[str, Any]) -> bytes:
    """What the signer of a closing line signs: the statement, and the ledger up to it."""
    fields = {"market": market, "run": run, "head": head, "statement": dict(statement)}
    return b"fedmm-secure closing\0" + canonical_json(fields)
