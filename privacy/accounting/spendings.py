"""What runs spend on data, as accounts know it of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent

from privacy.accounting.account_lines import enters
from privacy.accounting.events import event_from_data, event_to_data
from privacy.accounting.lines import canonical_json

AccountLine = tuple[int, Mapping[str, Any]]  # of an account: its number, and what it says


@dataclass(frozen=True)
class Ceiling:
    """What all runs on the same data may come to together, as one of them fixed it.

    Attributes:
        epsilon: the most, against each of the views.
        delta: at which.
        views: that it is fixed for.
    """

    epsilon: float
    delta: float
    views: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """For a line of an account."""
        return {"epsilon": self.epsilon, "delta": self.delta, "views": list(self.views)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Ceiling:
        """From a line of an account."""
        return cls(float(data["epsilon"]), float(data["delta"]), tuple(map(str, data["views"])))


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
        users: by which column of the rows its users are told apart; None where a line of an earlier version does not
            say.
        ceiling: that it fixes for itself and all later runs on the data; None where it fixes none.
    """

    run: str
    events: Mapping[str, DpEvent]
    coordinates: int = 0
    extra_delta: float = 0.0
    markets: int | None = None
    users: str | None = None
    ceiling: Ceiling | None = None

    def observed(self, view: str) -> DpEvent:
        """What a view will observe; of one that the run does not speak of, nothing is bounded."""
        return self.events.get(view, NonPrivateDpEvent())

    def to_user_of(self, users: str | None) -> Spending:
        """What the run spends on a user as a column tells them apart; nothing bounds it where its own is another one.

        One user by one column is any number of users by another, or a part of one.
        """
        return self if None in (users, self.users) or users == self.users else replace(self, events={})


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
    ceiling = {} if spending.ceiling is None else {"ceiling": spending.ceiling.to_data()}
    return {"events": events, **of_run, "users": spending.users, **ceiling}


def spending_from_data(data: Mapping[str, Any]) -> Spending:
    """From a line that names the run."""
    events = {view: event_from_data(event) for view, event in data["events"].items()}
    markets, users, ceiling = data.get("markets"), data.get("users"), data.get("ceiling")
    of_run = int(data["coordinates"]), float(data["extra_delta"]), None if markets is None else int(markets)
    fixed = None if ceiling is None else Ceiling.from_data(ceiling)
    return Spending(data["run"], events, *of_run, None if users is None else str(users), fixed)


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
        fingerprint: of the rows that it was entered on.
        first: nonce of the start that entered it, by which it is known.
        nonce: of its latest start.
        market: by the name that it has in the run.
        charges: how many releases it has charged.
        seals: how many results it has sealed.
        sealed: digest of the last of them.
        parted: whether, when it was entered, another state of the run may have sent what this one does not know of.
    """

    spending: Spending
    fingerprint: str
    first: str
    nonce: str
    market: str | None = None
    charges: int = 0
    seals: int = 0
    sealed: str = ""
    parted: bool = False

    def stays(self, fingerprint: str, spending: Spending, charges: int) -> bool:
        """Whether a run spends as it was entered, and on the same rows: before it charges anything nothing else holds
        it to either."""
        as_entered = fingerprint == self.fingerprint and spent_to_data(spending) == spent_to_data(self.spending)
        return charges > 0 or as_entered

    @property
    def entered(self) -> Entered:
        """What the run spends, and for which market."""
        return Entered(self.spending, self.market)


@dataclass(frozen=True)
class RunState:
    """What a run's own files say of it when it starts or goes on.

    Attributes:
        nonce: a fresh one, which the files hold already.
        known: nonces that were entered, or may have been.
        begun: whether an account has let the run in before.
        charges: releases that its ledger has charged.
        seals: results that its ledger has sealed.
        moved: whether it goes on on a machine that may not compute a charge in hand as the machine did that made it.
    """

    nonce: str
    known: Collection[str] = ()
    begun: bool = False
    charges: int = 0
    seals: int = 0
    moved: bool = False


def going_on_in(
    courses: Sequence[Course], fingerprint: str, spending: Spending, state: RunState
) -> tuple[Course | None, Course | None]:
    """That of a run's courses which a state is of, and the same if the run goes on in it as it is, on these rows."""
    found = next((one for one in courses if _goes_on(one, state)), None)
    stays = found is not None and not state.moved and found.stays(fingerprint, spending, state.charges)
    return found, found if stays else None


def _goes_on(course: Course, state: RunState) -> bool:
    """Whether a state is that of a course: none knows of more than the other, but for a seal in between."""
    return course.nonce in state.known and course.charges <= state.charges and course.seals <= state.seals + 1


@dataclass
class OfData:
    """What lines of an account say, taken in one after the other.

    Attributes:
        courses: of runs that were entered here.
        elsewhere: what starts took down of other accounts.
    """

    courses: list[Course] = field(default_factory=list)
    elsewhere: dict[str, list[Entered]] = field(default_factory=dict)
    _going_on: dict[tuple[str, str], Course] = field(default_factory=dict)  # by run and nonce of its latest start

    def take(self, body: Mapping[str, Any]) -> None:
        """Take a line in."""
        self._enter(body)
        self.hear(body)

    def hear(self, body: Mapping[str, Any]) -> None:
        """What a line took down of other accounts."""
        for identity, found in body.get("elsewhere", {}).items():
            self.elsewhere.setdefault(str(identity), []).extend(map(Entered.from_data, found["runs"]))

    def known(self, identity: str) -> dict[str, list[Entered]]:
        """Runs by the account that they were entered in, this one's by ``identity``."""
        return {**self.elsewhere, identity: [course.entered for course in self.courses]}

    def spendings(self) -> list[Spending]:
        """Of runs that were entered here and of those that are heard of, account by account."""
        return [one.spending for _, found in sorted(self.known("").items()) for one in found]

    def unheard(self, known: Known, names: Iterable[Name], identity: str) -> dict[str, Any]:
        """What a start takes down: runs of other accounts than ``identity`` that are not here yet, and names of the
        data, by account."""
        prints: dict[str, list[str]] = {}
        for account, fingerprint in names:
            if account is not None:
                prints.setdefault(account, []).append(fingerprint)
        found = {}
        for other in sorted(known.keys() | prints.keys()):
            told = known.get(other, ()) if other != identity else ()
            runs = entered_beyond(self.elsewhere.get(other, ()), told)
            if runs or other in prints:
                found[other] = {"data": sorted(prints.get(other, ())), "runs": [one.to_data() for one in runs]}
        return found

    def _enter(self, body: Mapping[str, Any]) -> None:
        """Take a line into the courses before it."""
        run, charges = body["run"], int(body["charges"])
        seals, sealed = int(body.get("seals", 0)), str(body.get("sealed", ""))
        if "events" in body:
            nonce, parted = str(body["nonce"]), bool(body.get("parted", False))
            market = body.get("market")
            so_far = charges, seals, sealed, parted
            course = Course(spending_from_data(body), str(body["fingerprint"]), nonce, nonce, market, *so_far)
            self.courses.append(course)
            self._going_on.setdefault((run, nonce), course)
            return
        course = self._going_on.pop((run, body["at"] if "at" in body else body["follows"]))
        course.nonce, course.charges = str(body.get("nonce", course.nonce)), max(course.charges, charges)
        self._going_on.setdefault((run, course.nonce), course)
        if seals > course.seals:
            course.seals, course.sealed = seals, sealed


Name = tuple[str | None, str]  # of data: an account's identity and its fingerprint of them, or None and a market


@dataclass(frozen=True)
class Elsewhere:
    """What a run's account is told as it enters.

    Attributes:
        known: runs on the data that other accounts hold.
        names: of the data, as all accounts know them together, the run's own among them.
    """

    known: Known
    names: Collection[Name]


@dataclass(frozen=True)
class SameData:
    """What names of data lead to.

    Attributes:
        lines: of each account that was asked, in its order.
        names: all that the data are called, by accounts that were not asked too.
    """

    lines: Sequence[list[AccountLine]]
    names: set[Name]


def of_same_data(accounts: Iterable[tuple[str, Sequence[AccountLine]]], names: Iterable[Name]) -> SameData:
    """Lines of all data that names lead to, in several accounts at once; each line is followed once.

    A market that keeps its name is the same market, whatever became of its rows; the same rows are the same data,
    whatever the market is called now, here or in an account that a line took runs down of. So names lead to rows, and
    rows to names, until nothing is added. A line of an earlier version, which names no market, is found by its rows
    alone.

    Args:
        accounts: identity and lines of each.
        names: where to begin; an empty market is none.
    """
    accounts = list(accounts)
    naming: dict[Name, list[set[Name]]] = {}
    for identity, lines in accounts:
        for _, body in lines:
            found = _names(identity, body)
            for name in found:
                naming.setdefault(name, []).append(found)
    reached = set(names) - {(None, "")}
    left = list(reached)
    while left:
        for found in naming.get(left.pop(), ()):
            left += found - reached
            reached |= found
            found.clear()
    return SameData(
        [[line for line in lines if _own_name(identity, line[1]) in reached] for identity, lines in accounts], reached
    )


def entered_alone(identity: str, lines: Sequence[AccountLine]) -> list[int]:
    """Which courses an account entered while no line before had led to their data, by their order among all.

    Args:
        identity: of the account.
        lines: that names of the same data lead to by now.
    """
    known: set[Name] = set()
    found, courses = [], 0
    for _, body in lines:
        names = _names(identity, body)
        if enters(body):
            found += [courses] if known.isdisjoint(names) else []
            courses += 1
        known |= names
    return found


def _own_name(identity: str, body: Mapping[str, Any]) -> Name:
    return identity, str(body.get("fingerprint"))


def _names(identity: str, body: Mapping[str, Any]) -> set[Name]:
    """What a line of an account calls its data: markets, its own and those of runs that it took down of other accounts,
    and fingerprints, its own and those that it took down."""
    elsewhere = body.get("elsewhere", {})
    told = (run.get("market") for found in elsewhere.values() for run in found["runs"])
    markets: set[Name] = {(None, str(name)) for name in (body.get("market"), *told) if name}
    prints: set[Name] = {(str(other), name) for other, found in elsewhere.items() for name in _prints(found["data"])}
    return markets | prints | {_own_name(identity, body)}


def _prints(data: object) -> list[str]:
    """Fingerprints that a line took down of an account; one of an earlier version says one, or None."""
    return list(map(str, data)) if isinstance(data, list) else [] if data is None else [str(data)]
