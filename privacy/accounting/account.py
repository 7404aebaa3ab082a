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
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent

from privacy.accounting.events import UnknownEventError, event_from_data, event_to_data
from privacy.accounting.lines import append_line, canonical_json, drop_torn_tail
from privacy.errors import InputError
from privacy.files import open_private, private_folder, write_secret

_KEY_BYTES = 32


class AccountError(InputError):
    """An account that cannot be read or written; names file and line."""


@dataclass(frozen=True)
class Spending:
    """What one run spends on one market's data.

    Attributes:
        run: id of the run.
        events: by view, everything that the view will observe, upstream stages included.
        coordinates: values of discrete noise that are drawn in all, at most.
        extra_delta: probability of failure that the events do not carry.
    """

    run: str
    events: Mapping[str, DpEvent]
    coordinates: int = 0
    extra_delta: float = 0.0


@dataclass(frozen=True)
class Started:
    """What the account answers to a start or a resumption.

    Attributes:
        earlier: what other runs on the same data spend that were entered before.
        again: whether the run had gone on elsewhere since the state that it is resumed from: what it does from here on
            is another run, and was entered as one.
    """

    earlier: list[Spending]
    again: bool


@dataclass
class _Course:
    """One course of a run: its spending, the nonce of its latest start, and how many releases it has charged."""

    spending: Spending
    nonce: str
    charges: int = 0


class PrivacyAccount:
    """An append-only file, a line for each start of a run on a data set and for each release that it charges.

    Each start enters a nonce, which the run keeps beside its state. A resumption names the nonces it knows, and how
    many releases its ledger has charged; if the account's latest nonce is among them, and the account knows of no more
    charges, the same course goes on. Whatever else is resumed, a copy that was made earlier or a ledger that was lost,
    draws noise of its own from there on, and is charged as another run. A process whose run was started elsewhere in
    the meantime may charge nothing any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key_path = path.with_name(f"{path.name}.key")

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False) -> str:
        """Keyed hash of a data set; of its rows in any order, unless it is ``ordered``."""
        digest = hmac.new(self._key(), digestmod=hashlib.sha256)
        for row in rows if ordered else sorted(rows):
            digest.update(len(row).to_bytes(4, "big") + row)
        return digest.hexdigest()

    def start(
        self, fingerprint: str, spending: Spending, *, known: Collection[str], nonce: str, charges: int = 0
    ) -> Started:
        """Enter a start of a run, before it spends anything.

        Args:
            fingerprint: of the data.
            spending: what the run will have spent when it is over.
            known: nonces that the state says were entered, or may have been.
            nonce: a fresh one, which the state holds already.
            charges: releases that the run's ledger has charged.
        """
        with self._locked():
            courses = self._repaired(fingerprint)
            mine = [course for course in courses if course.spending.run == spending.run]
            going_on = next((one for one in mine if one.nonce in known and one.charges <= charges), None)
            line: dict[str, Any] = {"fingerprint": fingerprint, "run": spending.run, "nonce": nonce, "charges": charges}
            if going_on is None:
                line["events"] = {view: event_to_data(event) for view, event in spending.events.items()}
                line |= {"coordinates": spending.coordinates, "extra_delta": spending.extra_delta}
            else:
                line["follows"] = going_on.nonce
            append_line(self.path, canonical_json(line) + b"\n")
        before = courses if going_on is None else courses[: courses.index(going_on)]
        return Started([course.spending for course in before], again=going_on is None and bool(mine))

    @contextmanager
    def charging(self, fingerprint: str, run: str, nonce: str, charges: int) -> Iterator[None]:
        """Hold the account while a ledger charges a release, its ``charges``-th, and take it down.

        Raises:
            AccountError: the run was started elsewhere since the start with this nonce.
        """
        with self._locked():
            courses = self._repaired(fingerprint)
            course = next((one for one in courses if (one.spending.run, one.nonce) == (run, nonce)), None)
            if course is None:
                raise AccountError(
                    f"{self.path}: run {run} was started elsewhere since; this process may charge nothing"
                )
            yield
            if course.charges < charges:
                line = {"fingerprint": fingerprint, "run": run, "at": nonce, "charges": charges}
                append_line(self.path, canonical_json(line) + b"\n")

    def _repaired(self, fingerprint: str) -> list[_Course]:
        if self.path.exists():
            drop_torn_tail(self.path)
        return self._read(fingerprint)

    def spendings(self, fingerprint: str) -> list[Spending]:
        """What all runs on a data set spend, in the order in which they were entered; a run that was resumed from an
        old copy is there twice. Changes nothing.

        Raises:
            AccountError: there is no account at this path, or it cannot be read.
        """
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        return [course.spending for course in self._read(fingerprint)]

    def _read(self, fingerprint: str) -> list[_Course]:
        found: list[_Course] = []
        if not self.path.exists():
            return found
        for number, raw in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            if not raw.endswith(b"\n"):
                break  # its sync never returned, so that start spent nothing
            try:
                line: dict[str, Any] = json.loads(raw)
                if line["fingerprint"] != fingerprint:
                    continue
                if "at" in line:
                    place = (line["run"], line["at"])
                    course = next(one for one in found if (one.spending.run, one.nonce) == place)
                    course.charges = max(course.charges, int(line["charges"]))
                    continue
                if "nonce" not in line:  # of a version whose noise had a seed of 32 bits, which can be found
                    raw_events = dict.fromkeys(line["events"], NonPrivateDpEvent())
                    found.append(_Course(Spending(line["run"], raw_events), ""))
                    continue
                nonce = str(line["nonce"])
                if "follows" in line:
                    course = next(
                        one for one in found if (one.spending.run, one.nonce) == (line["run"], line["follows"])
                    )
                    course.nonce, course.charges = nonce, max(course.charges, int(line["charges"]))
                else:
                    events = {view: event_from_data(data) for view, data in line["events"].items()}
                    drawn, failing = int(line["coordinates"]), float(line["extra_delta"])
                    found.append(_Course(Spending(line["run"], events, drawn, failing), nonce, int(line["charges"])))
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration, UnknownEventError) as error:
                raise AccountError(f"{self.path}:{number}: not a line of a privacy account: {error!r}") from error
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
            private_folder(self.path.parent)
            name = self.path.with_name(f".{self.path.name}.lock")
            with os.fdopen(open_private(name, os.O_RDWR | os.O_CREAT), "r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be used: {error.strerror}; set privacy.account") from error
