"""What all runs on the same data have spent, added up over runs.

A run enters what it plans to spend before it releases anything, so that a crash over-counts and never
under-counts. Data is recognised by a keyed fingerprint (HMAC-SHA256): without the key, which stays beside the
account and is readable by its owner alone, the fingerprint tells nothing about the rows.

The same key authenticates every line, and with it all lines before: an account in which a line was edited, inserted
or left out is refused, by runs and by reports. What no chain shows, that last lines are missing, shows as long as the
machine remembers how far the account had come (``privacy.accounting.places``): an older copy is refused too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.accounting.account_file import AccountError, AccountFile, Body, digest_of
from privacy.accounting.events import UnknownEventError
from privacy.accounting.fingerprints import keyed_fingerprint
from privacy.accounting.places import ChainHead
from privacy.accounting.spendings import (
    Elsewhere,
    Entered,
    OfData,
    Spending,
    spent_to_data,
    unite,
)


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


class PrivacyAccount:
    """An append-only file, a line for each start of a run on a data set and for each release that it charges.

    Each start enters a nonce, which the run keeps beside its state. A resumption names the nonces it knows, and how
    many releases its ledger has charged; if the account's latest nonce is among them, and the account knows of no more
    charges, the same course goes on. Whatever else is resumed, a copy that was made earlier or a ledger that was lost,
    draws noise of its own from there on, and is charged as another run. A process whose run was started elsewhere in
    the meantime may charge nothing any more.

    A start also takes down what other accounts held of the data at that time, as far as this one does not know it: what
    a run counts as earlier, its account knows too, wherever that was entered.

    Attributes:
        path: the file.
        others: accounts whose runs count as earlier ones too, and which are only read.
    """

    def __init__(self, path: Path, others: Sequence[PrivacyAccount] = ()) -> None:
        self.path = path
        self.others = tuple(others)
        self._file = AccountFile(path)

    @property
    def identity(self) -> str:
        """Hash of the account's key: the same for each copy of it, wherever it lies."""
        return digest_of(self._file.key())

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False) -> str:
        """Keyed hash of a data set; of its rows in any order, unless it is ``ordered``."""
        with self._file.locked():
            key = self._file.begun()
        return keyed_fingerprint(key, rows, ordered=ordered)

    def require_known(self) -> None:
        """Refuse a file that this machine never wrote as an account; see ``AccountFile.require_known``."""
        self._file.require_known()

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
        with self._file.locked():
            key = self._file.begun()
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
            if elsewhere is not None and (heard := held.unheard(elsewhere, digest_of(key))):
                line["elsewhere"] = heard
            self._file.append(key, head, line)
            before = list(courses if going_on is None else courses[: courses.index(going_on)])
            held.take(line)
        found = {identity: [one.spending for one in entered] for identity, entered in held.elsewhere.items()}
        return Started(
            {**found, digest_of(key): [course.spending for course in before]}, again=going_on is None and bool(mine)
        )

    @contextmanager
    def charging(self, fingerprint: str, run: str, nonce: str, charges: int) -> Iterator[None]:
        """Hold the account while a ledger charges a release, its ``charges``-th, and take it down.

        Raises:
            AccountError: the run was started elsewhere since the start with this nonce.
        """
        with self._file.locked():
            key = self._file.begun()
            held, head = self._read(fingerprint, key)
            course = next((one for one in held.courses if (one.spending.run, one.nonce) == (run, nonce)), None)
            if course is None:
                raise AccountError(
                    f"{self.path}: run {run} was started elsewhere since; this process may charge nothing"
                )
            yield
            if course.charges < charges:
                self._file.append(key, head, {"fingerprint": fingerprint, "run": run, "at": nonce, "charges": charges})

    def spendings(self, fingerprint: str) -> list[Spending]:
        """What all runs on a data set spend, in the order in which they were entered; a run that was resumed from an
        old copy is there twice. Changes nothing.

        Raises:
            AccountError: there is no account at this path, or it cannot be read, or its lines are not as they were
                written.
        """
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        held, _ = self._read(fingerprint, self._file.key())
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
        key = self._file.key()
        fingerprint = keyed_fingerprint(key, rows)
        held, _ = self._read(fingerprint, key)
        return Elsewhere(held.known(digest_of(key)), {**held.names, digest_of(key): fingerprint})

    def _held_with(
        self, run: str, market: str, named: Collection[str] = ()
    ) -> tuple[dict[str, list[Entered]], dict[str, set[str]]]:
        """What is known of all data that a run was entered with, here or elsewhere, or that is ``named``; empty if of
        none. And how other accounts name those data."""
        if not self.path.is_file():
            raise AccountError(f"{self.path}: no privacy account is here")
        key = self._file.key()
        of_data: dict[str, list[tuple[int, Body]]] = {}
        for number, body in self._file.bodies(key)[0]:
            of_data.setdefault(str(body.get("fingerprint")), []).append((number, body))
        found: dict[str, list[Entered]] = {}
        names: dict[str, set[str]] = {}
        for fingerprint, bodies in of_data.items():
            held = self._held(bodies)
            known = held.known(digest_of(key))
            if fingerprint in named or any(one.is_of(run, market) for runs in known.values() for one in runs):
                for identity, entered in known.items():
                    found.setdefault(identity, []).extend(entered)
                for identity, name in held.names.items():
                    names.setdefault(identity, set()).add(name)
        return found, names

    def _read(self, fingerprint: str, key: bytes) -> tuple[OfData, ChainHead]:
        bodies, head = self._file.bodies(key)
        return self._held((number, body) for number, body in bodies if body.get("fingerprint") == fingerprint), head

    def _held(self, bodies: Iterable[tuple[int, Body]]) -> OfData:
        found = OfData()
        for number, body in bodies:
            try:
                found.take(body)
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration, UnknownEventError) as error:
                raise AccountError(f"{self.path}:{number}: not a line of a privacy account: {error!r}") from error
        return found


def heard_of(accounts: Iterable[PrivacyAccount], rows: Sequence[bytes]) -> Elsewhere:
    """What several accounts know of rows, each run of each account once."""
    known: dict[str, list[Entered]] = {}
    names: dict[str, str] = {}
    for account in accounts:
        found = account.known_on(rows)
        unite(known, found.known)
        names |= found.names
    return Elsewhere(known, names)
