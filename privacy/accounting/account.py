"""What all runs on the same data have spent, added up over runs.

A run enters what it plans to spend before it releases anything, so that a crash over-counts and never
under-counts. Data is recognised by a keyed fingerprint (HMAC-SHA256): without the key, which stays beside the
account and is readable by its owner alone, the fingerprint tells nothing about the rows.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent

from privacy.accounting.events import UnknownEventError, event_from_data, event_to_data
from privacy.accounting.ledger import append_line, canonical_json, drop_torn_tail
from privacy.errors import InputError
from privacy.files import write_secret

_KEY_BYTES = 32


class AccountError(InputError):
    """An account that cannot be read or written; names file and line."""


@dataclass(frozen=True)
class Spending:
    """What one run spends on one market's data.

    Attributes:
        run: id of the run.
        events: by view, everything that the view will observe, upstream stages included.
    """

    run: str
    events: Mapping[str, DpEvent]


class PrivacyAccount:
    """An append-only file, one line for each run and data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key_path = path.with_name(f"{path.name}.key")

    def fingerprint(self, rows: Iterable[bytes]) -> str:
        """Keyed hash of a data set; the order of rows does not matter."""
        digest = hmac.new(self._key(), digestmod=hashlib.sha256)
        for row in sorted(rows):
            digest.update(len(row).to_bytes(4, "big") + row)
        return digest.hexdigest()

    def register(self, fingerprint: str, spending: Spending) -> list[Spending]:
        """Enter a run's spending, once; returns that of the runs before it on the same data."""
        with self._locked():
            known = self._read(fingerprint)
            earlier: list[Spending] = []
            for found in known:
                if found.run == spending.run:
                    return earlier
                earlier.append(found)
            line = {
                "fingerprint": fingerprint,
                "run": spending.run,
                "events": {view: event_to_data(event) for view, event in spending.events.items()},
            }
            append_line(self.path, canonical_json(line) + b"\n")
        return earlier

    def spendings(self, fingerprint: str) -> list[Spending]:
        """What all runs on a data set spend, in the order in which they were entered.

        Raises:
            AccountError: there is no account at this path, or it cannot be read.
        """
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        with self._locked():
            return self._read(fingerprint)

    def _read(self, fingerprint: str) -> list[Spending]:
        found: list[Spending] = []
        if not self.path.exists():
            return found
        drop_torn_tail(self.path)
        for number, raw in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                line: dict[str, Any] = json.loads(raw)
                events = {view: event_from_data(data) for view, data in line["events"].items()}
                spending = Spending(line["run"], events)
                same = line["fingerprint"] == fingerprint
            except (ValueError, KeyError, TypeError, AttributeError, UnknownEventError) as error:
                raise AccountError(f"{self.path}:{number}: not a line of a privacy account: {error}") from error
            if same:
                found.append(spending)
        return found

    def _key(self) -> bytes:
        with self._locked():
            if not self._key_path.exists():
                write_secret(self._key_path, secrets.token_bytes(_KEY_BYTES))
            key = self._key_path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise AccountError(f"{self._key_path}: {len(key)} bytes where a key has {_KEY_BYTES}")
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be used: {error.strerror}; set privacy.account") from error
