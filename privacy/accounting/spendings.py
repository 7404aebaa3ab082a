"""What runs spend on data, as accounts know it of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dp_accounting.dp_event import DpEvent

from privacy.accounting.events import event_from_data, event_to_data
from privacy.accounting.lines import canonical_json

AccountLine = tuple[int, Mapping[str, Any]]  # of an account: its number, and what it says


@dataclass(frozen=True)
class Spending:
    """What one run spends on one market's data.

    Attributes:
        run: id of the run.
        events: by view, everything that the view will observe, upstream stages included.
        coordinates: values of discrete noise that are drawn in all, at most.
        extra_delta: probability of failure that the events do not carry.
        markets: how many markets the run is of; None where a line of an earlier version does not say, and so does not
            say either which noise is one for all of them.
    """

    run: str
    events: Mapping[str, DpEvent]
    coordinates: int = 0
    extra_delta: float = 0.0
    markets: int | None = None


@dataclass(frozen=True)
class Entered:
    """What one run spends, and for which market it was entered; lines of an earlier version name none.

    Attributes:
        spending: of the run.
        market: by the name that it has in the run.
    """

    spending: Spending
    market: str | None = None

    def to_data(self) -> dict[str, Any]:
        """For a line of an account."""
        return {"run": self.spending.run, "market": self.market, **spent_to_data(self.spending)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Entered:
        """From a line of an account."""
        return cls(spending_from_data(data), None if data["market"] is None else str(data["market"]))

    def is_of(self, run: str, market: str) -> bool:
        """Whether it may be this run's."""
        return self.spending.run == run and self.market in (market, None)


Known = Mapping[str, Sequence[Entered]]  # by the identity of the account that they were entered in


def spent_to_data(spending: Spending) -> dict[str, Any]:
    """What a run spends, for a line of an account that names the run."""
    events = {view: event_to_data(event) for view, event in spending.events.items()}
    of_run = {"coordinates": spending.coordinates, "extra_delta": spending.extra_delta, "markets": spending.markets}
    return {"events": events, **of_run}


def spending_from_data(data: Mapping[str, Any]) -> Spending:
    """From a line that names the run."""
    events = {view: event_from_data(event) for view, event in data["events"].items()}
    markets = data.get("markets")
    of_run = int(data["coordinates"]), float(data["extra_delta"]), None if markets is None else int(markets)
    return Spending(data["run"], events, *of_run)


def entered_beyond(known: Iterable[Entered], found: Iterable[Entered]) -> list[Entered]:
    """What was found more often than it is known, in its order: the same run is there once for each of its courses."""
    left = Counter(canonical_json(one.to_data()) for one in known)
    unknown = []
    for one in found:
        name = canonical_json(one.to_data())
        if left[name] > 0:
            left[name] -= 1
        else:
            unknown.append(one)
    return unknown


def unite(known: dict[str, list[Entered]], found: Known) -> None:
    """Take into what is known what was found beyond it, account by account."""
    for identity, entered in found.items():
        before = known.setdefault(identity, [])
        before.extend(entered_beyond(before, entered))


@dataclass
class Course:
    """One course of a run, as it was entered and as far as it has come.

    Lines of an earlier version name no market, and count no seals.

    Attributes:
        spending: of the run.
        first: nonce of the start that entered it, by which it is known.
        nonce: of its latest start.
        market: by the name that it has in the run.
        charges: how many releases it has charged.
        seals: how many results it has sealed.
        sealed: digest of the last of them.
        parted: whether, when it was entered, another state of the run may have sent what this one does not know of.
    """

    spending: Spending
    first: str
    nonce: str
    market: str | None = None
    charges: int = 0
    seals: int = 0
    sealed: str = ""
    parted: bool = False

    @property
    def entered(self) -> Entered:
        """What the run spends, and for which market."""
        return Entered(self.spending, self.market)


@dataclass
class OfData:
    """What lines of an account say, taken in one after the other.

    Attributes:
        courses: of runs that were entered here.
        elsewhere: what starts took down of other accounts.
        names: how other accounts name the same rows: their fingerprints, by identity.
        markets: what the data are called, here and elsewhere.
    """

    courses: list[Course] = field(default_factory=list)
    elsewhere: dict[str, list[Entered]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    markets: set[str] = field(default_factory=set)

    def take(self, body: Mapping[str, Any]) -> None:
        """Take a line in."""
        enter_line(self.courses, body)
        self.hear(body)

    def hear(self, body: Mapping[str, Any]) -> None:
        """What a line took down of other accounts."""
        self.markets |= _markets(body)
        for identity, found in body.get("elsewhere", {}).items():
            if found["data"] is not None:
                self.names.setdefault(str(identity), set()).add(str(found["data"]))
            self.elsewhere.setdefault(str(identity), []).extend(map(Entered.from_data, found["runs"]))

    def known(self, identity: str) -> dict[str, list[Entered]]:
        """Runs by the account that they were entered in, this one's by ``identity``."""
        return {identity: [course.entered for course in self.courses], **self.elsewhere}

    def unheard(self, elsewhere: Elsewhere, identity: str) -> dict[str, Any]:
        """What a start takes down of other accounts than ``identity``: runs and names that are not here yet."""
        found = {}
        for other in sorted((elsewhere.known.keys() | elsewhere.names.keys()) - {identity}):
            runs = entered_beyond(self.elsewhere.get(other, ()), elsewhere.known.get(other, ()))
            name = elsewhere.names.get(other)
            if runs or (name is not None and name not in self.names.get(other, ())):
                found[other] = {"data": name, "runs": [one.to_data() for one in runs]}
        return found


@dataclass(frozen=True)
class Elsewhere:
    """What other accounts hold of some data.

    Attributes:
        known: the runs.
        names: how the accounts name the data: fingerprints by identity.
    """

    known: Known
    names: Mapping[str, str]


def of_same_data(
    bodies: Iterable[AccountLine], markets: Iterable[str], fingerprints: Iterable[str]
) -> list[AccountLine]:
    """Lines of all data that names of markets or some fingerprints lead to, in their order.

    A market that keeps its name is the same market, whatever became of its rows; the same rows are the same data,
    whatever the market is called now, here or in an account that a line took runs down of. So names lead to rows, and
    rows to names, until nothing is added. A line of an earlier version, which names no market, is found by its rows
    alone.
    """
    lines = list(bodies)
    names, prints = set(markets) - {""}, set(fingerprints)
    grew = True
    while grew:
        before = len(names), len(prints)
        for _, body in lines:
            if not names.isdisjoint(_markets(body)) or body.get("fingerprint") in prints:
                names |= _markets(body)
                prints.add(str(body.get("fingerprint")))
        grew = (len(names), len(prints)) != before
    return [(number, body) for number, body in lines if body.get("fingerprint") in prints]


def _markets(body: Mapping[str, Any]) -> set[str]:
    """Names of markets in a line: that of its own, and those of runs that it took down of other accounts."""
    told = (run.get("market") for found in body.get("elsewhere", {}).values() for run in found["runs"])
    return {str(name) for name in (body.get("market"), *told) if name}


def enter_line(found: list[Course], body: Mapping[str, Any]) -> None:
    """Take a line into the courses before it."""
    run, charges = body["run"], int(body["charges"])
    seals, sealed = int(body.get("seals", 0)), str(body.get("sealed", ""))
    if "events" in body:
        nonce, parted = str(body["nonce"]), bool(body.get("parted", False))
        market = body.get("market")
        found.append(Course(spending_from_data(body), nonce, nonce, market, charges, seals, sealed, parted))
        return
    at = body["at"] if "at" in body else body["follows"]
    course = next(one for one in found if (one.spending.run, one.nonce) == (run, at))
    course.nonce, course.charges = str(body.get("nonce", course.nonce)), max(course.charges, charges)
    if seals > course.seals:
        course.seals, course.sealed = seals, sealed
