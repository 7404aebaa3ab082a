"""A door that lets nothing out: what was released is computed again, and compared with what was sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.budget import Budget
from fedmm_secure.federation.door import Channel, Door
from fedmm_secure.federation.private_record import PrivateRecord, private_name
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.federation.transcript import OWN_UPDATE, record_file
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import Charge, Entry, Ledger, LedgerContent
from privacy.aggregation import FixedPointCodec
from privacy.aggregation.base import Binding, IntVector
from privacy.errors import StoppedError
from privacy.files import write_atomic


class NotChargedError(StoppedError):
    """A ledger has no charge for what its configuration releases."""


@dataclass(frozen=True)
class ReplayDifference:
    """A release that comes out otherwise.

    Attributes:
        charge: what it was charged as.
        what: the part of it that differs, in words.
    """

    charge: Charge
    what: str


@dataclass(frozen=True)
class Recorded:
    """What a market says of its releases.

    Attributes:
        content: its ledger.
        keys: of the randomness, by the charge's sequence: those that both sides' coins make.
        published: bytes of publications that are shown, by stage.
        private: what the last line says of files that the market keeps to itself.
        shown: whether the key of those is there, without which they are compared with nothing.
    """

    content: LedgerContent
    keys: Mapping[int, bytes] = field(repr=False)
    published: Mapping[str, bytes] = field(repr=False)
    private: Mapping[str, str] = field(repr=False)
    shown: bool

    def charge(self, release: Release) -> Charge:
        """What was let out, or else was charged first; raises ``NotChargedError`` where nothing was charged."""
        found = [charge for charge in self.content.charges if charge.entry.identity == release.identity]
        if not found:
            raise NotChargedError(f"{release.stage}: was never charged")
        return min(found, key=self._without_seal)

    def paying(self, stage: str, round: int) -> Charge | None:
        """The charge that paid for a round; None where this market was not in it."""
        found = self._of_round(stage, round)
        return min(found, key=lambda one: (not one.key, self._without_seal(one)), default=None)

    def sent(self, stage: str, round: int) -> list[Charge]:
        """Sealed charges of a round, one an attempt: all of the same update."""
        return [charge for charge in self._of_round(stage, round) if not self._without_seal(charge)]

    def _of_round(self, stage: str, round: int) -> list[Charge]:
        return [charge for charge in self.content.charges if (charge.entry.stage, charge.entry.round) == (stage, round)]

    def _without_seal(self, charge: Charge) -> bool:
        return charge.sequence not in self.content.seals


class NoAggregator:
    """An aggregator of nothing: a replay sends nothing and opens nothing."""

    def ready(self, cohort: tuple[str, ...]) -> None:
        """Refuse."""
        raise TypeError("a replay takes part in no round")

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Refuse."""
        raise TypeError("a replay sends nothing")

    def reveal(self, aggregate: bytes, binding: Binding) -> IntVector:
        """Refuse."""
        raise TypeError("a replay opens nothing")


class ReplayingDoor(Door):
    """Stands where a market's door stood. Whatever differs is taken down, and what was published then is built upon:
    each release is held to those before it as they were, so that one that differs makes no other differ.

    Args:
        recorded: what the market says.
        agreement: of the run; nothing is agreed to.
        codec: fixed-point format of updates.
        delta: δ of the market.
        scratch: folder for what is computed, thrown away after.
    """

    def __init__(
        self, recorded: Recorded, agreement: Agreement, codec: FixedPointCodec, delta: float, scratch: Path
    ) -> None:
        market, layout = agreement.market, RunDirectory(scratch)
        channel = Channel(agreement.run, agreement.bundle.digest, codec, NoAggregator(), agreement.identity)
        super().__init__(
            market,
            ledger=Ledger(layout.ledger(market)),
            budget=Budget(None, delta),
            channel=channel,
            agreement=agreement,
            transcript=agreement.transcript,
            own=PrivateRecord(scratch, market),
            keys=ReleaseKeys(market, layout.charges(market)),
        )
        self.recorded = recorded
        self.differences: list[ReplayDifference] = []
        self.compared: set[int] = set()
        self.unseen: dict[int, str] = {}  # stages by the charge's sequence: what is sealed of them is not shown
        self.added_up: set[int] = set()

    @property
    def left(self) -> list[Charge]:
        """Sealed charges that were held to nothing."""
        content = self.recorded.content
        return [one for one in content.charges if one.sequence in content.seals.keys() - self.compared]

    @property
    def in_sums(self) -> set[str]:
        """Stages of which the sum over all markets alone was compared."""
        return {stage for sequence, stage in self.unseen.items() if sequence in self.added_up}

    @property
    def open(self) -> dict[int, str]:
        """Stages, by the charge's sequence, of which nothing but spare values was compared."""
        return {sequence: stage for sequence, stage in self.unseen.items() if sequence not in self.added_up}

    def note(self, release: Release) -> None:
        """Nothing is drawn."""

    def begin(self, release: Release, kept: Iterable[Path] = ()) -> Transaction:
        """The transaction of a release as it was charged, with the key that both coins make."""
        return self.paid(self.recorded.charge(release))

    def paid(self, charge: Charge) -> Transaction:
        """The transaction of a charge."""
        return Transaction(charge, None, self.recorded.keys.get(charge.sequence))

    def seal(self, transaction: Transaction, digest: str, meter: IntVector | None = None) -> None:
        """Compare what was computed with what was sealed."""
        charge, seal = transaction.charge, self.recorded.content.seals.get(transaction.charge.sequence)
        if seal is None:
            return  # a finding of the plan
        audience = charge.entry.audience
        if audience and "release" not in audience and not self.recorded.shown:
            self.unseen[charge.sequence] = charge.entry.stage
        elif digest != seal.digest:
            self.differences.append(ReplayDifference(charge, "comes out otherwise"))
        self._compare_meter(charge, seal.meter, meter)
        self.compared.add(charge.sequence)

    def conclude(self, transaction: Transaction, keep: Path, meter_file: Path) -> None:
        """Compare, and go on with what was published."""
        super().conclude(transaction, keep, meter_file)
        published = self.recorded.published.get(transaction.charge.entry.stage)
        if published is not None:
            write_atomic(keep, published)

    def compare_update(self, charge: Charge, values: IntVector, meter: IntVector | None) -> None:
        """Hold a round's update ``(length,)`` to the market's own record of it, whose HMAC its last line names.

        The seal is of a message that is encrypted, and of which nobody computes the bytes again.
        """
        entry, seal = charge.entry, self.recorded.content.seals.get(charge.sequence)
        if seal is None:
            return  # a finding of the plan
        named = self.recorded.private.get(private_name(self.market, _file(entry, self.market)))
        if not self.recorded.shown:
            self.unseen[charge.sequence] = entry.stage
        elif named != self.own.digest(entry, OWN_UPDATE, values.astype("<i8").tobytes()):
            self.differences.append(ReplayDifference(charge, "the update comes out otherwise"))
        self._compare_meter(charge, seal.meter, meter)
        self.compared.add(charge.sequence)

    def _compare_meter(self, charge: Charge, sealed: str, meter: IntVector | None) -> None:
        data = b"" if meter is None else meter.astype("<i8").tobytes()
        if (hashlib.sha256(data).hexdigest() if data else "") != sealed:
            self.differences.append(ReplayDifference(charge, "the spare values of its noise come out otherwise"))


def _file(entry: Entry, market: str) -> str:
    return record_file(entry.stage, entry.round or 0, entry.attempt or 0, OWN_UPDATE, market)
