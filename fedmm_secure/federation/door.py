"""The one door: everything that leaves a market goes through ``Door``. No other code path may send or publish.

**A release is a transaction.** ``begin`` checks all that can be checked, refuses what the budget does not allow, makes
the key of the release's randomness and writes the *charge*; only then may private rows be read. What was computed is
kept, then the *seal* with its digest is written, then the key is erased, and only then is anything sent. A crash
leaves a charge without a seal: it is redone with the same key and the same data on the same kind of machine, which is
the same computation and not a second one. So computations with distinct keys never outnumber charges: a crash can
over-count, never under-count. Nor does one key have two results: the account lets one process seal, and one result;
what another course of the run had in hand is charged anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting.dp_event import NoOpDpEvent

from fedmm_secure.errors import LostResultError
from fedmm_secure.federation.account import Entrance
from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.budget import Budget
from fedmm_secure.federation.messages import Header, MessageError, pack
from fedmm_secure.federation.orders import Order, Place
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.transactions import Result, Transaction
from fedmm_secure.federation.transcript import METER, OWN_UPDATE, PUBLICATION, SUM, UPDATE, Transcript
from fedmm_secure.guarantee.releases import Release
from privacy.accounting.ledger import Charge, Entry, Ledger, LedgerError
from privacy.aggregation import Binding, FixedPointCodec, ForgedSumError, MarketAggregator
from privacy.aggregation.base import IntVector
from privacy.aggregation.identities import Identity
from privacy.files import KeyFileError, write_atomic
from privacy.mechanisms.randomness import NoiseSource


@dataclass(frozen=True)
class Channel:
    """How a market's messages are protected, what they are bound to, and who signs them.

    Attributes:
        run: id of the run.
        parameters: hash of the federation's bundle.
        codec: fixed-point format.
        aggregator: the market's side of it.
        identity: the market's.
        largest: largest absolute value of a sum; by default it follows from cohort and format.
        burn: gives up the markets' shared secrets, once a sum was not what the markets sent.
    """

    run: str
    parameters: str
    codec: FixedPointCodec
    aggregator: MarketAggregator
    identity: Identity
    largest: int | None = None
    burn: Callable[[], None] = lambda: None


class Door:
    """The way out of one market, and the way back in.

    Args:
        market: its name.
        ledger: where every release is written first.
        budget: what may be spent.
        channel: protection of messages to the server.
        wide: the same by stage, for those whose updates have another length.
        agreement: what all markets of the run have agreed to.
        transcript: what each party sees.
        keys: of the randomness of releases in hand.
        entrance: how the run's privacy account let it in: the fingerprint of the rows, where charges and seals are
            taken down, and which charges a course before this one made; None for a rehearsal.
    """

    def __init__(
        self,
        market: str,
        *,
        ledger: Ledger,
        budget: Budget,
        channel: Channel,
        agreement: Agreement,
        transcript: Transcript,
        own: PrivateRecord,
        keys: ReleaseKeys,
        entrance: Entrance | None = None,
        wide: Mapping[str, Channel] | None = None,
    ) -> None:
        self.market = market
        self.ledger = ledger
        self.budget = budget
        self.channel, self.agreement, self._wide = channel, agreement, dict(wide or {})
        self._transcript, self.own = transcript, own
        self._keys, self._entrance = keys, entrance or Entrance("", [])

    def note(self, release: Release) -> None:
        """Enter a stage that draws nothing and stays in the market, but is built upon; once a stage."""
        # nor is it seeded where the run is: a note of earlier runs has their coordinates, and nothing drawn of its own
        entry = release.entry(self.market, delta=self.budget.delta, seeded=False)
        if entry not in self.ledger.entries:
            self.ledger.note(entry)

    def begin(self, release: Release, kept: Iterable[Path] = ()) -> Transaction:
        """Charge a release, or find its charge; private rows may be read for it when this returns.

        Args:
            release: what it is.
            kept: files in which its result is kept; what stands there without a charge is of one that was given up,
                and goes.

        Raises:
            BudgetExceededError: the budget does not allow it; nothing was written.
            LostResultError: it was charged, and the key of its randomness is gone.
            RunEndedError: the run has ended here.
            AccountError: the run was started elsewhere since.
        """
        self.agreement.require_open()
        before = [charge for charge in self.ledger.charges if charge.entry.identity == release.identity]
        for charge in filter(self.stands, before):
            if charge.entry != self._entry(release):
                raise LedgerError(f"{self.ledger.path}:{charge.line}: charged as another release than is asked for")
            if charge.sequence not in self.ledger.seals:
                with self._charging(len(self.ledger.charges)):
                    pass  # it may have been interrupted between the ledger and the account
            return self._transaction(charge)
        self.ledger.ready()
        self.budget.refuse_overspending(self._of_this_course(), self._entry(release))
        for path in kept:
            path.unlink(missing_ok=True)
        for charge in before:
            self._keys.erase(charge)
        # ledger first, account second: rows are read after both, so the account never knows of fewer than were read for
        with self._charging(len(self.ledger.charges) + 1):
            key = self._keys.make(release, self.ledger)
            digest = hashlib.sha256(key).hexdigest() if key else ""
            reads_rows = self._entrance.data if not isinstance(release.event, NoOpDpEvent) else ""
            charge = self.ledger.charge(self._entry(release), data=reads_rows, key=digest)
            self._keys.charged(charge)
        return Transaction(charge, None, key)

    def _of_this_course(self) -> list[Entry]:
        """Entries that the budget is held against: what was given up is stated as spent, and of the course before."""
        given_up = [id(charge.entry) for charge in self.ledger.charges if not self.stands(charge)]
        return [entry for entry in self.ledger.entries if id(entry) not in given_up]

    def _charging(self, charges: int) -> AbstractContextManager[None]:
        standing = self._entrance.standing
        return nullcontext() if standing is None else standing.charging(charges)

    def stands(self, charge: Charge) -> bool:
        """Whether a charge is of this course, or was sealed: what was in hand when another began is not redone.

        A copy of it may be computed elsewhere, or it was begun on a machine that rounds otherwise: two results of one
        key differ by nothing but what they are of. It stays charged, and is charged anew under another key.
        """
        return charge.sequence in self.ledger.seals or charge.sequence >= self._entrance.inherited

    def charged(self, stage: str, round: int) -> Transaction | None:
        """The first transaction of a round, which paid for its training; None if there is none yet."""
        for charge in self.ledger.charges:
            if (charge.entry.stage, charge.entry.round) == (stage, round) and self.stands(charge):
                return self._transaction(charge)
        return None

    def _transaction(self, charge: Charge) -> Transaction:
        seal = self.ledger.seals.get(charge.sequence)
        if seal is not None:
            return Transaction(charge, seal.digest)
        return Transaction(charge, None, self._keys.of(charge, self.ledger.path))

    def seal(self, transaction: Transaction, digest: str, meter: IntVector | None = None) -> None:
        """Say what a charge was spent on, and erase its key; the result has been kept before.

        Raises:
            AccountError: the run was started elsewhere since, or the account knows of another result.
            LostResultError: it was sealed with another one.
        """
        data = b"" if meter is None else meter.astype("<i8").tobytes()
        if transaction.digest is not None:
            if transaction.digest != digest:
                raise LostResultError(
                    f"{self.ledger.path}:{transaction.charge.line}: sealed with another result than is there now"
                )
        else:
            standing = self._entrance.standing
            # account first, ledger second: what a ledger has sealed may be out, and no copy may seal another result
            with nullcontext() if standing is None else standing.sealing(len(self.ledger.seals) + 1, digest):
                self.ledger.seal(transaction.charge, digest, hashlib.sha256(data).hexdigest() if data else "")
        self._keys.erase(transaction.charge)
        if data:
            self._record(transaction.charge.entry, METER, data, "release")

    def perform(self, release: Release, compute: Callable[[NoiseSource], Result], keep: Path) -> bytes:
        """The bytes of a result that is kept in a file: computed once for its charge, and read from there after.

        Args:
            release: what it is.
            compute: from the release's randomness.
            keep: the file; that of the spare coordinates stands beside it.

        Raises:
            BudgetExceededError: the budget does not allow it.
            LostResultError: it was sealed, and the file is gone or changed.
        """
        meter_file = keep.with_name(f"{keep.name}.meter")
        transaction = self.begin(release, (keep, meter_file))
        if transaction.digest is None and not keep.is_file():
            found = compute(transaction.source)
            if found.meter is not None:
                write_atomic(meter_file, found.meter.astype("<i8").tobytes())
            write_atomic(keep, found.data)
        self.conclude(transaction, keep, meter_file)
        return keep.read_bytes()

    def conclude(self, transaction: Transaction, keep: Path, meter_file: Path) -> None:
        """Seal a transaction whose result and spare coordinates are kept in files; publish it where it has an audience.

        Raises:
            LostResultError: it was sealed, and a file is gone or changed.
        """
        if not keep.is_file():
            raise LostResultError(
                f"{keep}: is gone, and was paid for; it is not drawn again: restore it, or start a new run"
            )
        data = keep.read_bytes()
        meter = np.frombuffer(meter_file.read_bytes(), "<i8") if meter_file.is_file() else None
        entry = transaction.charge.entry
        if entry.audience and "release" not in entry.audience:
            # user codes: the profile view's ε counts them and that of what is handed out does not
            self.seal(transaction, self.own.digest(entry, PUBLICATION, data), meter)
            self.own.add(entry, PUBLICATION, data, entry.audience[0])
            return
        self.seal(transaction, hashlib.sha256(data).hexdigest(), meter)
        if entry.audience:
            self._record(entry, PUBLICATION, data, "release")

    def publish(self, release: Release, data: bytes) -> None:
        """Let out what was computed from other releases alone.

        Raises:
            BudgetExceededError: the budget does not allow it.
            LostResultError: something else was let out for it before.
        """
        transaction = self.begin(release)
        self.seal(transaction, hashlib.sha256(data).hexdigest())
        self._record(release, PUBLICATION, data, "release")

    def ready(self, order: Order) -> None:
        """Raise whatever would fail after the training: no agreement, keys that are missing or used up, no masks."""
        self.agreement.require(order)
        self._channel_of(order.stage).aggregator.ready(order.cohort)

    def protect(self, release: Release, values: IntVector, cohort: tuple[str, ...]) -> bytes:
        """The sealed message of an update ``(length,)``, bound to run, stage, round, attempt and cohort.

        Raises:
            AggregationError: a value is out of range.
            MaskReuseError: something was sent for this attempt before.
        """
        channel = self._channel_of(release.stage)
        bound = Binding(channel.run, release.stage, release.round or 0, release.attempt or 0, cohort)
        header = Header(
            "update", channel.run, bound.stage, bound.round, bound.attempt, self.market, channel.parameters, cohort
        )
        return pack(header, channel.aggregator.protect(values, bound), channel.identity.sign)

    def withhold(self, transaction: Transaction, values: IntVector, meter: IntVector | None = None) -> None:
        """Seal an update ``(length,)`` that was never sent: its attempt was given up, and a later one sends it."""
        data, entry = values.astype("<i8").tobytes(), transaction.charge.entry
        self.seal(transaction, self.own.digest(entry, OWN_UPDATE, data), meter)
        self.own.add(entry, OWN_UPDATE, data, f"owner:{self.market}")

    def send(
        self,
        transaction: Transaction,
        values: IntVector,
        message: bytes,
        send: Callable[[bytes], None],
        meter: IntVector | None = None,
    ) -> None:
        """Let an update out to the server; the caller has kept the message, and brings the same after a crash.

        Args:
            transaction: the update's.
            values: integers ``(length,)``, for the market's own record.
            message: what ``protect`` made of them.
            send: hands the message to the engine.
            meter: spare coordinates of all steps.
        """
        self.agreement.require_open()
        self.seal(transaction, hashlib.sha256(message).hexdigest(), meter)
        release = transaction.charge.entry
        # never in what is handed out: under distributed noise it carries a part of the noise only
        self.own.add(release, OWN_UPDATE, values.astype("<i8").tobytes(), f"owner:{self.market}")
        self._record(release, UPDATE, message, "server", receivers=1)
        send(message)

    def take(self, message: bytes, place: Place, statements: Mapping[str, bytes] | None = None) -> None:
        """Keep the aggregate of a round, unopened.

        Raises:
            MessageError: see ``Agreement.take``.
        """
        self.agreement.take(message, place, statements)

    def receive(self, place: Place) -> tuple[Header, IntVector]:
        """Open the sum ``(length,)`` that was taken for a round and record it; the one way in.

        Each round has one sum, so this is the one question that the server can ask of the shared key. If the answer
        is no, whatever the reason, the run ends here and the key is given up before anything else happens.

        Raises:
            MessageError: nothing was taken, or not what may be.
            ForgedSumError: it is not what the cohort sent, or is outside the cohort's range.
            KeyBurnedError: another run has given the key up.
            OSError, KeyFileError: this machine's disk failed before anything was opened. The sum is opened when the run
                goes on; nobody outside can tell.
        """
        message = self.agreement.taken(place)
        if message is None:
            raise MessageError(f"market {self.market}: no sum of {place[0]}, round {place[1]} was taken")
        header, payload = self.agreement.take(message, place)
        try:
            total = self._open(header, payload)
        except (OSError, KeyFileError):
            raise  # of this machine, and nothing of the sum: to open one takes no file but those of the keys
        except Exception:
            self.give_up()
            raise
        self._transcript.add(
            total.astype("<i8").tobytes(),
            kind=SUM,
            stage=header.stage,
            round=header.round,
            sender=header.sender,
            visible_to=("markets",),
            receivers=0,
        )
        return header, total

    def give_up(self) -> None:
        """End the run at this market, and give up the shared key: no second sum is ever opened."""
        try:
            self.channel.burn()  # first: without the key nothing is opened, whatever else the disk refuses
        finally:
            self.agreement.end()

    def _open(self, header: Header, payload: bytes) -> IntVector:
        bound, channel = (
            Binding(header.run, header.stage, header.round, header.attempt, header.cohort),
            self._channel_of(header.stage),
        )
        total = channel.aggregator.reveal(payload, bound)
        largest = channel.largest or len(header.cohort) * 2**channel.codec.bits
        if np.abs(total).max(initial=0) > largest:
            raise ForgedSumError
        return total

    def _channel_of(self, stage: str) -> Channel:
        return self._wide.get(stage, self.channel)

    def close(self, statement: Mapping[str, Any]) -> None:
        """The ledger's last line; keys of what was charged and never finished are erased."""
        if self.ledger.closing is None:
            self.ledger.close(statement)
        self._keys.erase_all()

    def spent(self) -> float:
        """ε that the budget's stages have spent so far, rounded up a little; ``inf`` without DP."""
        return self.budget.spent(self.ledger.entries)

    def _entry(self, release: Release) -> Entry:
        return release.entry(self.market, delta=self.budget.delta, seeded=self._keys.seeded)

    def _record(self, release: Release | Entry, kind: str, data: bytes, visible_to: str, receivers: int = 0) -> None:
        self._transcript.add_release(
            release, data, kind=kind, sender=self.market, visible_to=visible_to, receivers=receivers
        )
