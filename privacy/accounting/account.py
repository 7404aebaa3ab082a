"""What all runs on the same data have spent, added up over runs.

A run enters what it plans to spend before it releases anything, so that a crash over-counts and never
under-counts. Data is recognised by a keyed fingerprint (HMAC-SHA256): without the key, which stays beside the
account and is readable by its owner alone, the fingerprint tells nothing about the rows.

The same key authenticates every line, and with it all lines before: an account in which a line was edited, inserted
or left out is refused, by runs and by reports. What no chain shows, that last lines are missing, shows as long as the
machine remembers how far the account had come (``privacy.accounting.places``): an older copy is refused too.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.accounting.events import UnknownEventError
from privacy.accounting.lines import append_line, canonical_json, drop_torn_tail
from privacy.accounting.places import Head, RecordedHead, recorded_head
from privacy.accounting.spendings import (
    Elsewhere,
    Entered,
    OfData,
    Spending,
    spent_to_data,
    unite,
)
from privacy.errors import InputError
from privacy.files import open_private, private_folder, write_secret

_KEY_BYTES = 32
_VERSION = 2
_GENESIS = "0" * 64
_LINE, _DATA = b"fedmm-secure privacy account line\0", b"fedmm-secure fingerprint of data\0"
_PUBLIC = b"fedmm-secure fingerprint of public data\0"


class AccountError(InputError):
    """An account that cannot be read or written; names file and line."""


@dataclass(frozen=True)
class Started:
    """What the account answers to a start or a resumption.

    Attributes:
        known: what other runs on the same data spend that were entered before, here or, as far as this account has ever
            heard, elsewhere: by the identity of the account that they were entered in, in an order that stays.
        again: whether the run had gone on elsewhere since the state that it is resumed from: what it does from here on
            is another run, and was entered as one.
    """

    known: Mapping[str, list[Spending]]
    again: bool

    @property
    def earlier(self) -> list[Spending]:
        """All of them."""
        return [one for found in self.known.values() for one in found]


class PublicData:
    """Stands where an account does for rows that are nobody's, as generated ones are: no run spends anything of theirs.

    Such rows are recognised by a plain hash: a guess at them tells of no person.
    """

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False) -> str:
        """Hash of a data set; of its rows in any order, unless it is ``ordered``."""
        digest = hashlib.sha256(_PUBLIC)
        _take(digest.update, rows, ordered)
        return digest.hexdigest()


class PrivacyAccount:
    """An append-only file, a line for each start of a run on a data set and for each release that it charges.

    Each start enters a nonce, which the run keeps beside its state. A resumption names the nonces it knows, and how
    many releases its ledger has charged; if the account's latest nonce is among them, and the account knows of no more
    charges, the same course goes on. Whatever else is resumed, a copy that was made earlier or a ledger that was lost,
    draws noise of its own from there on, and is charged as another run. A process whose run was started elsewhere in
    the meantime may charge nothing any more.

    A start also takes down what other accounts held of the data at that time, as far as this one does not know it: what
    a run counts as earlier, its account knows too, wherever that was entered.

    The first line commits to the key; each line carries an HMAC under it of its place, of the HMAC before, and of what
    it says.

    Attributes:
        path: the file.
        others: accounts whose runs count as earlier ones too, and which are only read.
    """

    def __init__(self, path: Path, others: Sequence[PrivacyAccount] = ()) -> None:
        self.path = path
        self.others = tuple(others)
        self._key_path = path.with_name(f"{path.name}.key")

    @property
    def identity(self) -> str:
        """Hash of the account's key: the same for each copy of it, wherever it lies."""
        return _digest(self._key())

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False) -> str:
        """Keyed hash of a data set; of its rows in any order, unless it is ``ordered``."""
        with self._locked():
            key = self._begun()
        return _fingerprint(key, rows, ordered)

    def require_known(self) -> None:
        """Refuse a file that this machine never wrote as an account, such as one that somebody laid there; no change.

        Raises:
            AccountError: it holds no line, or this machine does not remember how far it had come.
        """
        try:
            begun = self.path.stat().st_size > 0 and self._lines(*self._state(self._key()))[1].lines > 0
            known = begun and self._last_seen(recorded_head(self.identity)) is not None
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not known:
            raise AccountError(
                f"{self.path}: is in the way, and no account that this machine has written: remove it, or name it in "
                "privacy.account if you trust it"
            )

    def start(
        self,
        fingerprint: str,
        spending: Spending,
        *,
        known: Collection[str],
        nonce: str,
        market: str = "",
        charges: int = 0,
        begun: bool = False,
        elsewhere: Elsewhere | None = None,
    ) -> Started:
        """Enter a start of a run, before it spends anything.

        Args:
            fingerprint: of the data.
            spending: what the run will have spent when it is over.
            known: nonces that the state says were entered, or may have been.
            nonce: a fresh one, which the state holds already.
            market: whose data they are, by the name that it has in the run.
            charges: releases that the run's ledger has charged.
            begun: whether the state says that an account has let the run in before.
            elsewhere: what runs on the same data spend that other accounts hold.

        Raises:
            AccountError: that was another account, or this one cannot be read.
        """
        with self._locked():
            key = self._begun()
            held, head = self._read(fingerprint, key)
            courses = held.courses
            mine = [one for one in courses if one.spending.run == spending.run and one.market in (market, None)]
            if begun and not mine:
                raise AccountError(
                    f"{self.path}: does not hold run {spending.run}, which was begun under another account, or on "
                    "other data: name that account in privacy.account, or start a new run"
                )
            going_on = next((one for one in mine if one.nonce in known and one.charges <= charges), None)
            line: dict[str, Any] = {"fingerprint": fingerprint, "run": spending.run, "market": market}
            line |= {"nonce": nonce, "charges": charges}
            if going_on is None:
                line |= spent_to_data(spending)
            else:
                line["follows"] = going_on.nonce
            if elsewhere is not None and (heard := held.unheard(elsewhere, _digest(key))):
                line["elsewhere"] = heard
            self._append(key, head, line)
            before = list(courses if going_on is None else courses[: courses.index(going_on)])
            held.take(line)
        found = {identity: [one.spending for one in entered] for identity, entered in held.elsewhere.items()}
        return Started(
            {**found, _digest(key): [course.spending for course in before]}, again=going_on is None and bool(mine)
        )

    @contextmanager
    def charging(self, fingerprint: str, run: str, nonce: str, charges: int) -> Iterator[None]:
        """Hold the account while a ledger charges a release, its ``charges``-th, and take it down.

        Raises:
            AccountError: the run was started elsewhere since the start with this nonce.
        """
        with self._locked():
            key = self._begun()
            held, head = self._read(fingerprint, key)
            course = next((one for one in held.courses if (one.spending.run, one.nonce) == (run, nonce)), None)
            if course is None:
                raise AccountError(
                    f"{self.path}: run {run} was started elsewhere since; this process may charge nothing"
                )
            yield
            if course.charges < charges:
                self._append(key, head, {"fingerprint": fingerprint, "run": run, "at": nonce, "charges": charges})

    def spendings(self, fingerprint: str) -> list[Spending]:
        """What all runs on a data set spend, in the order in which they were entered; a run that was resumed from an
        old copy is there twice. Changes nothing.

        Raises:
            AccountError: there is no account at this path, or it cannot be read, or its lines are not as they were
                written.
        """
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        held, _ = self._read(fingerprint, self._key())
        return [course.spending for course in held.courses]

    def spendings_of(self, run: str, market: str) -> list[Spending]:
        """What all runs spend on the data that a run was entered with for a market; see ``spendings``.

        Which data those are, the account's own lines say: under the key, and with run and market beside them. Nothing
        that lies in a run directory takes part. A run that was entered with several data sets has spent on all. Those
        that other accounts held when runs were entered here, and those of ``others``, count too, each once.

        Raises:
            AccountError: as ``spendings``, or the account does not hold the run.
        """
        found, names = self._held_with(run, market)
        if not found:
            raise AccountError(f"{self.path}: does not hold this run of market {market}")
        for other in self.others:
            known, _ = other._held_with(run, market, names.get(other.identity, ()))
            unite(found, known)
        return [one.spending for entered in found.values() for one in entered]

    def spent_on(self, rows: Sequence[bytes]) -> list[Spending]:
        """What all runs spend on rows that this account or one of ``others`` holds or has heard of, each once.

        Begins no account. See ``spendings_of`` for who has no rows.

        Raises:
            AccountError: as ``spendings``.
        """
        found = heard_of((self, *self.others), rows).known
        return [one.spending for entered in found.values() for one in entered]

    def known_on(self, rows: Sequence[bytes]) -> Elsewhere:
        """What runs spend on rows, of this account and of those that it has heard of; see ``spendings``."""
        key = self._key()
        fingerprint = _fingerprint(key, rows, False)
        held, _ = self._read(fingerprint, key)
        return Elsewhere(held.known(_digest(key)), {**held.names, _digest(key): fingerprint})

    def _held_with(
        self, run: str, market: str, named: Collection[str] = ()
    ) -> tuple[dict[str, list[Entered]], dict[str, set[str]]]:
        """What is known of all data that a run was entered with, here or elsewhere, or that is ``named``; empty if of
        none. And how other accounts name those data."""
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        key = self._key()
        of_data: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for number, body in self._bodies(key)[0]:
            of_data.setdefault(str(body.get("fingerprint")), []).append((number, body))
        found: dict[str, list[Entered]] = {}
        names: dict[str, set[str]] = {}
        for fingerprint, bodies in of_data.items():
            held = self._held(bodies)
            known = held.known(_digest(key))
            if fingerprint in named or any(one.is_of(run, market) for runs in known.values() for one in runs):
                for identity, entered in known.items():
                    found.setdefault(identity, []).extend(entered)
                for identity, name in held.names.items():
                    names.setdefault(identity, set()).add(name)
        return found, names

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _begun(self) -> bytes:
        """The key of the account, which is made where there is neither account nor key; for who holds the lock."""
        if self.path.exists():
            drop_torn_tail(self.path)
        if self.path.exists() and self.path.stat().st_size:
            return self._key()
        if self.path.exists() and not self._key_path.exists():  # the key is there first
            raise AccountError(
                f"{self.path}: is empty and has no key: no account was ever here; remove it, and runs enter another"
            )
        if not self._key_path.exists():
            write_secret(self._key_path, secrets.token_bytes(_KEY_BYTES))
        key = self._key()
        # refused where the machine knows of lines of this key
        _, head = self._lines(b"", key, self._last_seen(recorded_head(_digest(key))))
        self._append(key, head, {"version": _VERSION, "key": _digest(key)})
        return key

    def _key(self) -> bytes:
        try:
            key = self._key_path.read_bytes()
        except FileNotFoundError:
            raise AccountError(
                f"{self._key_path}: is gone, and without it {self.path} tells of no data what was spent on it: restore "
                "it from a backup; if it is lost for good, keep the account as a record and name another in "
                "privacy.account, which will not know of the runs before"
            ) from None
        except OSError as error:
            raise AccountError(f"{self._key_path}: cannot be read: {error.strerror}") from error
        if len(key) != _KEY_BYTES:
            raise AccountError(f"{self._key_path}: {len(key)} bytes where a key has {_KEY_BYTES}")
        return key

    def _append(self, key: bytes, head: Head, body: Mapping[str, Any]) -> None:
        fields = {"sequence": head.lines, "previous": head.mac, "body": body}
        mac = _mac(key, fields)
        seen = recorded_head(_digest(key))
        with seen.locked():  # a copy of the account may be at another path, with a lock of its own
            latest = self._last_seen(seen)
            if latest is not None and latest != head and latest.lines >= head.lines:
                raise AccountError(f"{self.path}: {_OLDER}")
            append_line(self.path, canonical_json({**fields, "mac": mac}) + b"\n")
            seen.write(Head(head.lines + 1, mac))

    def _state(self, key: bytes) -> tuple[bytes, bytes, Head | None]:
        """The file, the key, and how far the machine saw it come before it was read.

        In this order, for readers hold no lock: another run may append a line at any moment, and only then is it noted
        how far the account has come. So the file is never behind what was noted before.
        """
        last_seen = self._last_seen(recorded_head(_digest(key)))
        return self.path.read_bytes(), key, last_seen

    def _last_seen(self, head: RecordedHead) -> Head | None:
        """How far the machine saw the account come; None where it has seen nothing of it."""
        try:
            return head.read()
        except ValueError as error:
            raise AccountError(
                f"{self.path}: what this machine remembers of the account, {head.path}, cannot be read ({error}): "
                "restore it, or remove it if the account is the latest that you have"
            ) from error

    def _lines(
        self, content: bytes, key: bytes, last_seen: Head | None
    ) -> tuple[list[tuple[int, dict[str, Any]]], Head]:
        """What each whole line says, with its number, once all of them are as they were written.

        Raises:
            AccountError: a line was edited, inserted or left out, or the machine has seen a later state of the account.
        """
        bodies: list[tuple[int, dict[str, Any]]] = []
        head = Head(0, _GENESIS)
        for number, raw in enumerate(content.splitlines(keepends=True), start=1):
            if not raw.endswith(b"\n"):
                break  # its sync never returned, so that start spent nothing
            try:
                line: dict[str, Any] = json.loads(raw)
                fields = {name: line[name] for name in ("sequence", "previous", "body")}
                mac = _mac(key, fields)
                body = dict(line["body"])
                holds = hmac.compare_digest(str(line["mac"]), mac)
            except (ValueError, KeyError, TypeError) as error:
                raise AccountError(
                    f"{self.path}:{number}: not a line of a privacy account of this version: {error!r}; keep the file "
                    "as a record, and name another in privacy.account, which will not know of its runs"
                ) from error
            if not holds or (line["sequence"], line["previous"]) != (head.lines, head.mac):
                raise AccountError(
                    f"{self.path}:{number}: not as it was written, or lines before it are missing, or {self._key_path} "
                    "is another account's key: restore both from a backup"
                )
            head = Head(head.lines + 1, mac)
            if number == 1:
                if body != {"version": _VERSION, "key": _digest(key)}:
                    raise AccountError(f"{self.path}:1: does not say that this is an account of this version and key")
            else:
                bodies.append((number, body))
            if last_seen is not None and last_seen.lines == head.lines and last_seen != head:
                raise AccountError(f"{self.path}:{number}: {_OLDER}")
        if last_seen is not None and last_seen.lines > head.lines:
            raise AccountError(f"{self.path}: has {head.lines} of {last_seen.lines} lines: {_OLDER}")
        return bodies, head

    def _bodies(self, key: bytes) -> tuple[list[tuple[int, dict[str, Any]]], Head]:
        try:
            state = self._state(key)
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be read: {error.strerror}") from error
        bodies, head = self._lines(*state)
        if not head.lines:
            raise AccountError(f"{self.path}: no privacy account is here")
        return bodies, head

    def _read(self, fingerprint: str, key: bytes) -> tuple[OfData, Head]:
        bodies, head = self._bodies(key)
        return self._held((number, body) for number, body in bodies if body.get("fingerprint") == fingerprint), head

    def _held(self, bodies: Iterable[tuple[int, dict[str, Any]]]) -> OfData:
        found = OfData()
        for number, body in bodies:
            try:
                found.take(body)
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration, UnknownEventError) as error:
                raise AccountError(f"{self.path}:{number}: not a line of a privacy account: {error!r}") from error
        return found

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


_OLDER = (
    "this machine has seen a later state of the account: this is an older copy, or one of two that went on apart; "
    "restore the latest, or keep this one as a record and name another in privacy.account"
)


def _take(update: Callable[[bytes], None], rows: Iterable[bytes], ordered: bool) -> None:
    """Each row with its length before it, into a hash."""
    for row in rows if ordered else sorted(rows):
        update(len(row).to_bytes(4, "big") + row)


def heard_of(accounts: Iterable[PrivacyAccount], rows: Sequence[bytes]) -> Elsewhere:
    """What several accounts know of rows, each run of each account once."""
    known: dict[str, list[Entered]] = {}
    names: dict[str, str] = {}
    for account in accounts:
        found = account.known_on(rows)
        unite(known, found.known)
        names |= found.names
    return Elsewhere(known, names)


def _fingerprint(key: bytes, rows: Iterable[bytes], ordered: bool) -> str:
    digest = hmac.new(key, _DATA, digestmod=hashlib.sha256)
    _take(digest.update, rows, ordered)
    return digest.hexdigest()


def _mac(key: bytes, fields: Mapping[str, Any]) -> str:
    return hmac.new(key, _LINE + canonical_json(fields), hashlib.sha256).hexdigest()


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
