"""What the owner of a run's rows hands to the auditor who is to replay it: a key for that run, not the account's."""

from __future__ import annotations

from pathlib import Path

from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account import account_of
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_config
from privacy.accounting.fingerprints import PublicData, RunKey
from privacy.accounting.ledger import read_ledger
from privacy.files import KeyFileError, read_secret, write_secret
from privacy.foreign import ForeignFileError, json_object
from privacy.hexadecimal import bytes_of
from privacy.json_text import json_text

_FIELDS = {"run", "reader", "of_run", "of_reader"}
_KEY_BYTES = 32


def make_run_key(directory: Path) -> RunKey:
    """The key of a run for the auditor whom its configuration names, by the account that holds the run.

    Raises:
        ConfigError: nobody is to replay it, or its rows are generated and compared without a key.
        AccountError: no account of this machine, or of the run's home, holds it.
        LedgerError: a ledger cannot be read.
    """
    config, ledgers = read_config(directory), sorted(RunDirectory(directory).ledgers.glob("*.jsonl"))
    if config.audit.replay is None or not ledgers:
        raise ConfigError(f"{directory}: no auditor replays this run, or it has no ledger: no key is handed over")
    account = account_of(config, directory)
    if isinstance(account, PublicData):
        raise ConfigError(f"{directory}: its rows are generated, and compared without a key")
    opening = read_ledger(ledgers[0]).opening
    run, market = str(opening.get("run")), str(opening.get("market"))
    return account.run_key(run, market, config.audit.replay.card.fingerprint)


def write_run_key(path: Path, key: RunKey) -> None:
    """For its owner's eyes until it is handed over; raises ``KeyFileError`` where a file is there."""
    fields = {"run": key.run, "reader": key.reader, "of_run": key.of_run.hex(), "of_reader": key.of_reader.hex()}
    write_secret(path, (json_text(fields, indent=2, sort_keys=True) + "\n").encode())


def read_run_key(path: Path) -> RunKey:
    """What ``write_run_key`` wrote; raises ``KeyFileError`` on anything else."""
    try:
        fields = json_object(read_secret(path), path)
        if fields.keys() != _FIELDS:
            raise ValueError
        keys = [bytes_of(fields[name]) for name in ("of_run", "of_reader")]
        if any(len(key) != _KEY_BYTES for key in keys):
            raise ValueError
        return RunKey(str(fields["run"]), str(fields["reader"]), *keys)
    except (ForeignFileError, ValueError, TypeError):
        raise KeyFileError(f"{path}: is no key of a run, as fedmm keys run-key makes") from None
