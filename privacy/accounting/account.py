"""What all runs on the same data have spent, added up over runs.

A run enters what it plans to spend before it releases anything, so that a crash over-counts and never
under-counts. Data is recognised by a keyed fingerprint (HMAC-SHA256): without the key, which stays beside the
account and is readable by its owner alone, the fingerprint tells nothing about the rows.

The same key authenticates every line, and with it all lines before: an account in which a line was edited, inserted
or left out is refused, by runs and by reports. What no chain shows, that last lines are missing, shows as long as the
machine remembers how far the account had come (``privacy.accounting.places``): an older copy is refused too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.accounting.account_file import AccountError, AccountFile, Body, digest_of
from privacy.accounting.account_lines import enters, is_named, is_of
from privacy.accounting.ceilings import refuse_above
from privacy.accounting.events import UnknownEventError
from privacy.accounting.fingerprints import RunKey, fingerprint_key, keyed_fingerprint, secret_of_run
from privacy.accounting.places import ChainHead
from privacy.accounting.spendings import (
    Course,
    Elsewhere,
    Entered,
    Known,
    Name,
    OfData,
    RunState,
    Spending,
    entered_alone,
    going_on_in,
    of_same_data,
    spent_to_data,
    unite,
)


@dataclass(frozen=True)
class Started:
    """What the account answers to a start or a resumption.

    Attributes:
        course: which of the run's courses goes on from here, by the nonce that it was entered with.
        before: by course of the run, up to this one, what runs spend that were known when it was entered, here or, as
            far as this account had ever heard, elsewhere, on a user as this run has them.
        again: whether this course was entered now, and the run had others before.
        parted: whether, when it was entered, another state of the run may have sent what this one does not know of.
    """

    course: str
    before: Mapping[str, list[Spending]]
    again: bool
    parted: bool

    @property
    def earlier(self) -> list[Spending]:
        """Of the course that goes on."""
        return self.before[self.course]


class PrivacyAccount:
    """An append-only file, a line for each start of a run on a market's data and for each charge and seal.

    Each start enters a nonce, which the run keeps beside its state. A resumption names the nonces it knows, and how
    many releases its ledger has charged and sealed; if the account's latest nonce is among them, and the account knows
    of no more, the same course goes on. Whatever else is resumed, a copy that was made earlier or a ledger that was
    lost, draws noise of its own from there on, and is charged as another run; so is a charge in hand that another kind
    of machine would compute otherwise. A process whose run was started elsewhere in the meantime may charge and seal
    nothing any more.

    A seal stands here before it stands in the ledger, with its digest. A ledger that lacks the last one (a kill between
    the two) may seal that result, and no other: what is drawn from one key has one result.

    A start also takes down what other accounts held of the data at that time, as far as this one does not know it: what
    a run counts as earlier, its account knows too, wherever that was entered.

    Which runs are on the same data is told by the market's name, and by its rows (``spendings.of_same_data``).

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, others: Sequence[PrivacyAccount] = ()) -> None:
        self.path = path
        self._others = tuple(others)
        self._file = AccountFile(path)

    @property
    def others(self) -> tuple[PrivacyAccount, ...]:
        """Accounts whose runs count as earlier ones too, and which are only read: those that are there by now."""
        return tuple(one for one in self._others if one.is_there)

    @property
    def identity(self) -> str:
        """Hash of the account's key: the same for each copy of it, wherever it lies."""
        return digest_of(self._file.key())

    @property
    def is_there(self) -> bool:
        """Whether it has begun; also of one that cannot be read, or was lost, which whoever asks it is told."""
        return self._file.is_there()

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False, run: str = "", reader: str = "") -> str:
        """Keyed hash of a data set; of its rows in any order, unless it is ``ordered``.

        That of a ``run`` has a key of its own: those of two runs do not say whether their rows are the same. So has
        what is said to a ``reader``, who may compare.
        """
        return keyed_fingerprint(fingerprint_key(self._begun(), run, reader), rows, ordered=ordered)

    def secret_of_run(self, run: str) -> bytes:
        """What locks a run's secrets in its folder, 32 bytes: who has the folder and not this account opens none."""
        return secret_of_run(self._begun(), run)

    def run_key(self, run: str, market: str, reader: str) -> RunKey:
        """What is handed to a reader who compares a run's rows, from the account that holds it, this or another one.

        Raises:
            AccountError: an account cannot be read, or this run of the market was entered in none. One that has heard
                of it has another key.
        """
        for account in (self, *self.others):
            if account.is_there and account._entered(run, market):
                return RunKey.of(account._file.key(), run, reader)
        raise AccountError(f"{self.path}: does not hold this run of market {market}")

    def _entered(self, run: str, market: str) -> bool:
        """Whether a run began under this account's own key."""
        lines, _ = self._file.bodies(self._file.key())
        return any(enters(body) and is_named(body, run, market) for _, body in lines)

    def begin(self) -> None:
        """Make the account where there is none; from then on the machine knows older states of it, or of one that is
        there, such as one that was moved here."""
        with self._file.locked():
            self._file.remember(self._file.begun())

    def _begun(self) -> bytes:
        with self._file.locked():
            return self._file.begun()

    def require_known(self) -> None:
        """Refuse a file that this machine never wrote as an account; see ``AccountFile.require_known``."""
        self._file.require_known()

    def enter(self, rows: Sequence[bytes], spending: Spending, state: RunState, *, market: str) -> Started:
        """Enter a start of a run on rows, with what the other accounts hold of them; see ``start``.

        One run of this user after the other, whichever accounts they enter: each knows of those before it.
        """
        with self._file.starting():
            elsewhere = heard_of(self.others, rows, market, self)
            return self.start(self.fingerprint(rows), spending, state, market=market, elsewhere=elsewhere)

    def start(
        self,
        fingerprint: str,
        spending: Spending,
        state: RunState,
        *,
        market: str = "",
        elsewhere: Elsewhere | None = None,
    ) -> Started:
        """Enter a start of a run, before it spends anything.

        A course that begins is held to every ceiling on the data, its own among them, while nobody else enters one. One
        that goes on was held to them when it began: before it charges anything, on the same rows alone.

        Args:
            fingerprint: of the data.
            spending: what the run will have spent when it is over.
            state: what the run's own files say of it.
            market: whose data they are, by the name that it has in the run.
            elsewhere: what runs on the same data spend that other accounts hold.

        Raises:
            AccountError: that was another account, or this one cannot be read.
            CeilingError: with what is known before, the run would come to more than a ceiling; nothing is entered.
        """
        with self._file.locked():
            key = self._file.begun()
            (lines, head), identity = self._file.bodies(key), digest_of(key)
            alone = of_same_data([(identity, lines)], [(None, market), (identity, fingerprint)])
            led = alone if elsewhere is None else of_same_data([(identity, lines)], alone.names.union(elsewhere.names))
            held = self._held(led.lines[0])
            mine = [one for one in held.courses if one.entered.is_of(spending.run, market)]
            if state.begun and not mine:
                raise AccountError(
                    f"{self.path}: does not hold run {spending.run}, which was begun under another account, or on "
                    "other data: name that account in privacy.account, or start a new run"
                )
            going_on, course = going_on_in(mine, fingerprint, spending, state)
            line: dict[str, Any] = {"fingerprint": fingerprint, "run": spending.run, "market": market}
            line |= {"nonce": state.nonce, "charges": state.charges}
            if course is None:
                parted = bool(mine) and (going_on is None or going_on.parted or going_on.seals > state.seals)
                line |= {"seals": state.seals, "parted": parted, **spent_to_data(spending)}
            else:
                line["follows"], parted = course.nonce, course.parted
            if elsewhere is not None and (heard := held.unheard(elsewhere.known, led.names - alone.names, identity)):
                line["elsewhere"] = heard
            if course is None:
                held.hear(line)
                refuse_above(self.path, market, spending, held.spendings())
            self._file.append(key, head, line)
        lines, found = [*lines, (head.lines + 1, line)], state.nonce if course is None else course.first
        before = {one: self._before(identity, lines, one) for one in [*(one.first for one in mine), found]}
        return Started(found, before, again=bool(mine) and course is None, parted=parted)

    def going_on(self, rows: Sequence[bytes], spending: Spending, state: RunState, *, market: str) -> Spending | None:
        """What the course spends that a start on rows would go on with; None where it would enter one. Changes nothing.

        Raises:
            AccountError: this account cannot be read.
        """
        if not self.is_there:
            return None
        held = self._held(line for line in self._lines() if line[1].get("run") == spending.run)
        mine = [one for one in held.courses if one.entered.is_of(spending.run, market)]
        _, course = going_on_in(mine, keyed_fingerprint(self._file.key(), rows), spending, state)
        return None if course is None else course.spending

    def _before(self, identity: str, lines: Sequence[tuple[int, Body]], course: str) -> list[Spending]:
        """What was known when a course was entered, itself left out: the same whenever it is asked."""
        entered = next(index for index, (_, body) in enumerate(lines) if enters(body) and body["nonce"] == course)
        body = lines[entered][1]
        names = (None, str(body.get("market") or "")), (identity, str(body["fingerprint"]))
        led = of_same_data([(identity, lines[: entered + 1])], names)
        held = self._held(led.lines[0][:-1])
        held.hear(body)
        return [one.to_user_of(body.get("users")) for one in held.spendings()]

    @contextmanager
    def charging(self, run: str, nonce: str, charges: int) -> Iterator[None]:
        """Hold the account while a ledger charges a release, its ``charges``-th, and take it down.

        Raises:
            AccountError: the run was started elsewhere since the start with this nonce.
        """
        with self._file.locked():
            key, head, course, line = self._course(run, nonce, "charge")
            yield
            if course.charges < charges:
                self._file.append(key, head, {**line, "charges": charges})

    @contextmanager
    def sealing(self, run: str, nonce: str, seals: int, digest: str) -> Iterator[None]:
        """Take down a seal, the run's ``seals``-th, and hold the account while the ledger does.

        Raises:
            AccountError: the run was started elsewhere since the start with this nonce, or has sealed another result.
        """
        with self._file.locked():
            key, head, course, line = self._course(run, nonce, "seal")
            if course.seals < seals:
                sealed = {"charges": course.charges, "seals": seals, "sealed": digest}
                self._file.append(key, head, {**line, **sealed})
            elif (course.seals, course.sealed) != (seals, digest):
                raise AccountError(
                    f"{self.path}: run {run} has sealed another result here: go on where that was, or start a new run"
                )
            yield

    def _course(self, run: str, nonce: str, what: str) -> tuple[bytes, ChainHead, Course, Body]:
        """A course that this process may go on with, and what a line of it begins with; for who holds the lock."""
        key = self._file.begun()
        lines, head = self._file.bodies(key)
        own = [(number, body) for number, body in lines if body.get("run") == run]
        course = next((one for one in self._held(own).courses if one.nonce == nonce), None)
        if course is None:
            raise AccountError(f"{self.path}: run {run} was started elsewhere since; this process may {what} nothing")
        fingerprint = next(body["fingerprint"] for _, body in own if body.get("nonce") == nonce)
        return key, head, course, {"fingerprint": fingerprint, "run": run, "at": nonce}

    def spendings(self, fingerprint: str) -> list[Spending]:
        """What all runs on a data set spend, in the order in which they were entered; a run that was resumed from an
        old copy is there twice. Changes nothing.

        Raises:
            AccountError: there is no account at this path, or it cannot be read, or its lines are not as they were
                written.
        """
        self._require()
        (found,) = of_same_data([(self.identity, self._lines())], [(self.identity, fingerprint)]).lines
        return [course.spending for course in self._held(found).courses]

    def spendings_of(self, run: str, market: str) -> list[Spending]:
        """What all runs spend on the data that a run was entered with for a market; see ``spendings``.

        Which data those are, the account's own lines say: under the key, and with run and market beside them. Nothing
        that lies in a run directory takes part. A run that was entered with several data sets has spent on all. Those
        that other accounts held when runs were entered here, and those of ``others``, count too, each once. All are
        spent on a user as this run has them.

        Raises:
            AccountError: as ``spendings``, or none of the accounts holds the run.
        """
        found, _ = _held_together((self, *self.others), self._names_of(run, market))
        own = {one.spending.users for entered in found.values() for one in entered if one.is_of(run, market)}
        known = _each(found)
        for users in own:
            known = [one.to_user_of(users) for one in known]
        return known

    def firsts_of(self, run: str, market: str) -> list[Spending]:
        """Runs that began with none known on the data that a run was entered with for a market; see ``spendings_of``.

        Where there is one alone, all others were entered by who knew of it. Of one that an account only heard of nobody
        knows what was known, so all of these count.
        """
        everyone = (self, *self.others)
        led = of_same_data([(one.identity, one._lines()) for one in everyone], self._names_of(run, market))
        held = {one.identity: (one._held(lines), lines) for one, lines in zip(everyone, led.lines, strict=True)}
        heard = [known for found, _ in held.values() for name, known in found.elsewhere.items() if name not in held]
        alone = ((found.courses, entered_alone(name, lines)) for name, (found, lines) in held.items())
        firsts = [courses[at].entered for courses, places in alone for at in places]
        return [one.spending for entered in (firsts, *heard) for one in entered]

    def spent_on(self, rows: Sequence[bytes], market: str = "") -> list[Spending]:
        """What all runs spend on rows, or a market, that this account or one of ``others`` has heard of, each once.

        Begins no account. See ``spendings_of`` for who has no rows.

        Raises:
            AccountError: as ``spendings``.
        """
        return _each(heard_of((self, *self.others), rows, market).known)

    def _names_of(self, run: str, market: str) -> list[Name]:
        """Of the data that a run was entered with for a market, here or in one of ``others``."""
        names: set[Name] = set()
        for one in (self, *self.others):
            one._require()
            names |= {(one.identity, str(body["fingerprint"])) for _, body in one._lines() if is_of(body, run, market)}
        if not names:
            raise AccountError(f"{self.path}: does not hold this run of market {market}")
        return [(None, market), *names]

    def _require(self) -> None:
        if not self.is_there:
            raise AccountError(f"{self.path}: no privacy account is here")

    def _lines(self) -> list[tuple[int, Body]]:
        """All lines, each checked against the one before."""
        lines, _ = self._file.bodies(self._file.key())
        return lines

    def _held(self, bodies: Iterable[tuple[int, Mapping[str, Any]]]) -> OfData:
        found = OfData()
        for number, body in bodies:
            try:
                found.take(body)
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration, UnknownEventError) as error:
                raise AccountError(f"{self.path}:{number}: not a line of a privacy account: {error!r}") from error
        return found


def _each(known: Known) -> list[Spending]:
    return [one.spending for entered in known.values() for one in entered]


def heard_of(
    accounts: Sequence[PrivacyAccount], rows: Sequence[bytes], market: str = "", own: PrivacyAccount | None = None
) -> Elsewhere:
    """What several accounts know of rows, or of a market, each run of each account once.

    ``own`` is one that is not asked for runs, but knows by which other names the market goes.
    """
    leading = [own] if own is not None and accounts and own.is_there else []
    prints = [(one.identity, keyed_fingerprint(one._file.key(), rows)) for one in (*leading, *accounts)]
    return Elsewhere(*_held_together(accounts, [(None, market), *prints], leading))


def _held_together(
    accounts: Sequence[PrivacyAccount], names: Iterable[Name], leading: Sequence[PrivacyAccount] = ()
) -> tuple[dict[str, list[Entered]], set[Name]]:
    """What accounts hold of the data that names lead to, in all of them and in the ``leading`` ones; and all names.

    What one account knows by two names, another one may know by the second alone.
    """
    led = of_same_data([(one.identity, one._lines()) for one in (*accounts, *leading)], names)
    known: dict[str, list[Entered]] = {}
    for account, lines in zip(accounts, led.lines, strict=False):
        unite(known, account._held(lines).known(account.identity))
    return known, led.names
