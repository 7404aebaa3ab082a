"""What a market wants to let out, as data: the door charges it, the plan foresees it, verification expects it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, NoOpDpEvent

from fedmm_secure.config import MIN_COHORT
from privacy.accounting.ledger import Entry

PlannedPlace = tuple[str, int | None]  # stage and round: what is paid for, and drawn, once in whatever attempt


@dataclass(frozen=True)
class Release:
    """What a market wants to let out, or to build further stages on.

    Attributes:
        stage: stage of the run that computed it, e.g. ``quantizer/0``.
        mechanism: name of the mechanism that produced it.
        event: its privacy event.
        sensitivity: clipping norm, None where nothing bounds it.
        audience: the views that observe the payload itself (not its ciphertext).
        depends_on: stages whose outputs it was computed from.
        round: federation round, None outside the rounds.
        attempt: which attempt of the round.
        unit: the privacy unit.
        remark: what a reader of the ledger must know beside the numbers.
        view_events: events of views that observe less, or more, than ``event`` says.
        coordinates: values of discrete noise that are drawn for it, at most, spare ones included.
        extra_delta: probability of failure that the event does not carry.
    """

    stage: str
    mechanism: str
    event: DpEvent
    sensitivity: float | None
    audience: tuple[str, ...]
    depends_on: tuple[str, ...]
    round: int | None = None
    attempt: int | None = None
    unit: str = "user"
    remark: str | None = None
    view_events: Mapping[str, DpEvent] = field(default_factory=dict)
    coordinates: int = 0
    extra_delta: float = 0.0

    @property
    def draws(self) -> bool:
        """Whether randomness is drawn for it: post-processing and raw results draw none."""
        return self.coordinates > 0

    @property
    def identity(self) -> tuple[str, int | None, int | None]:
        """What happens once in a run: stage, round, attempt."""
        return self.stage, self.round, self.attempt

    @property
    def place(self) -> PlannedPlace:
        """Its place in the plan: all attempts of a round have one."""
        return self.stage, self.round

    def entry(self, market: str, *, delta: float, seeded: bool) -> Entry:
        """The ledger's record of it."""
        return Entry(market=market, delta=delta, seeded=seeded and self.draws, **vars(self))


def again(release: Release, attempt: int) -> Release:
    """A later attempt of a round: the same update for a smaller cohort, which was charged with the first."""
    return replace(
        release,
        event=NoOpDpEvent(),
        view_events={},
        mechanism="the same update, for a smaller cohort",
        attempt=attempt,
        coordinates=0,
    )


def small_cohort_remark(n_markets: int) -> str | None:
    """What every ledger line says where fewer markets than the minimum were forced."""
    if n_markets >= MIN_COHORT:
        return None
    return f"cohort of {n_markets}, forced: with its own update a market opens the others' from the sum"


def unprotected(stage: str, what: str, *depends_on: str) -> Release:
    """What is computed from raw rows, for the views that would see it: it has no guarantee, and its ledger says so."""
    return Release(stage, f"none: {what}", NonPrivateDpEvent(), None, ("consumer", "release"), depends_on)
