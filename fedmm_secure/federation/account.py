"""A run's entries in the privacy account of its markets' data."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.config.choices import DeviceSetting
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.places import account_beside
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS, decrypted_claims
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.provenance import computing_kind
from privacy.accounting.account import PrivacyAccount, RunState
from privacy.accounting.account_file import AccountError
from privacy.accounting.events import gaussian_steps
from privacy.accounting.filters import noted_event, noted_failures
from privacy.accounting.fingerprints import PublicData, RunKey
from privacy.accounting.guarantees import (
    EARLIER_RUNS,
    EARLIER_RUNS_MECHANISM,
    LISTED_EARLIER_RUNS,
    cost_of,
    several_runs_epsilon,
)
from privacy.accounting.ledger import Charge, Ledger, Seal, read_ledger
from privacy.accounting.places import ACCOUNT_VARIABLE, refuse_relative, users_account
from privacy.accounting.spendings import Spending
from privacy.files import write_json


@dataclass(frozen=True)
class SoFar:
    """How far a run's ledger had come when the run goes on.

    Attributes:
        lines: that it has.
        charges: releases that it has charged.
        seals: results that it has sealed.
        in_hand: line of the last charge that draws randomness and has no seal, from 0; -1 where there is none.
    """

    lines: int = 0
    charges: int = 0
    seals: int = 0
    in_hand: int = -1

    @classmethod
    def of(cls, ledger: Ledger) -> SoFar:
        """Of a ledger as it stands."""
        return cls(ledger.length, len(ledger.charges), len(ledger.seals), in_hand(ledger.charges, ledger.seals))


def in_hand(charges: Iterable[Charge], seals: Mapping[int, Seal]) -> int:
    """Line of the last charge that draws randomness and has no seal; -1 where there is none."""
    return max((charge.sequence for charge in charges if charge.key and charge.sequence not in seals), default=-1)


@dataclass(frozen=True)
class Entrance:
    """What a market knows once its account has let a run in.

    Attributes:
        data: fingerprint of every row, with rating and time, and of what was read of its file; under a key of the run,
            unless the rows are nobody's.
        earlier: notes of what other runs spent on the same data.
        parted: 0, and one more for each time that an old copy of the run's state was resumed.
        inherited: how many lines the ledger had before this course of the run began: charges among them without a seal
            belong to the course before, and are given up here.
        standing: where each charge and seal is taken down; None for a rehearsal, and where nobody's rows are spent on.
    """

    data: str
    earlier: list[Release]
    parted: int = 0
    inherited: int = 0
    standing: Standing | None = None

    @property
    def courses(self) -> int:
        """Courses of the run that ended before this one began: 0 where it has gone on as it was begun."""
        return max(len(self.earlier) - 1, 0)

    def unlisted(self, ledger: Ledger) -> list[Release]:
        """Notes of earlier runs but for those that an earlier version entered in the ledger, in a form of its own."""
        return self.earlier[sum(entry.mechanism == LISTED_EARLIER_RUNS for entry in ledger.entries) :]


@dataclass(frozen=True)
class Outlook:
    """What a market's account will say of a run once it is over, by what it says before.

    Attributes:
        earlier: other runs on the same data.
        without_bound: those among them without a budget for a view that is claimed to have one, or with other users.
        epsilon: of all of them and the run, the claimed view that learns most; None where nothing bounds it.
    """

    earlier: int
    without_bound: int
    epsilon: float | None


@dataclass(frozen=True)
class Standing:
    """A run's place in its account, as long as it is started nowhere else."""

    account: PrivacyAccount
    run: str
    nonce: str = field(repr=False)

    def charging(self, charges: int) -> AbstractContextManager[None]:
        """Hold the account while the ``charges``-th release is charged; raises ``AccountError`` where it may not be."""
        return self.account.charging(self.run, self.nonce, charges)

    def sealing(self, seals: int, digest: str) -> AbstractContextManager[None]:
        """The same while the ``seals``-th result is sealed."""
        return self.account.sealing(self.run, self.nonce, seals, digest)


def account_of(config: Config, directory: Path, *, home: bool = False) -> PrivacyAccount | PublicData:
    """The account that a run enters: as configured, or that of the user on this machine.

    The user's lies outside of all runs, so that it is neither copied nor deleted with them, and every run on the same
    data enters the same one. A run in the ``home`` of a deployed market, which nobody else writes to, enters the one
    that is kept there. Each counts the other's runs, where both are there. Whoever names an account means that alone.

    Raises:
        AccountError: what lies beside the run is no account that this machine has written.
    """
    if config.data.synthetic is not None:
        return PublicData()
    if config.privacy.account or os.environ.get(ACCOUNT_VARIABLE):
        return PrivacyAccount(config.privacy.account or users_account())
    beside, users = PrivacyAccount(account_beside(directory)), PrivacyAccount(users_account())
    if not home and beside.is_there:
        beside.require_known()
    entered, other = (beside, users) if home else (users, beside)
    others = [other] if other.path.resolve() != entered.path.resolve() else []
    return PrivacyAccount(entered.path, others)


def begin_account(config: Config, runs: Path) -> None:
    """Begin the account of a deployed market before anybody asks it anything.

    A home that is put back to an older state then has an older account, which this machine knows for one. Else it would
    begin another account, and send what it has sent before with other noise under the same masks.

    Args:
        config: of the market.
        runs: folder of its run directories.

    Raises:
        AccountError: it cannot be read or written.
        AccountPlaceError: it would begin where another folder has another one.
    """
    account = account_of(config, runs / "run", home=True)
    if isinstance(account, PrivacyAccount):
        if config.privacy.account is not None and not account.is_there:
            refuse_relative(config.privacy.account, "privacy.account")
        account.begin()


def readers_account(named: Path | None = None) -> PrivacyAccount:
    """The account that a reader holds a run to: the one that he names, or his own; never one that lies with the run.

    What his own knows of the run's rows counts beside the one that he names: a claim is of all that he can know.
    """
    own = PrivacyAccount(users_account())
    if named is None or named.resolve() == own.path.resolve():
        return PrivacyAccount(named or own.path)
    return PrivacyAccount(named, [own])


def enter(
    account: PrivacyAccount | PublicData | None,
    directory: Path,
    run: str,
    plan: SpendingPlan,
    prepared: PreparedMarket,
    progress: SoFar,
) -> Entrance:
    """What a market knows once a run was let in; ``None`` lets in a rehearsal, whose results are thrown away."""
    if account is None:
        return Entrance("", [])
    if isinstance(account, PublicData):
        return Entrance(data_fingerprint(account, run, prepared), [])
    return enter_account(account, directory, run, plan, prepared, progress)


def enter_account(
    account: PrivacyAccount,
    directory: Path,
    run: str,
    plan: SpendingPlan,
    prepared: PreparedMarket,
    progress: SoFar,
) -> Entrance:
    """Enter a start of a run whose ledger has come so far, before it spends anything.

    The nonce of each start is kept before it is entered, as one that may have been, and again after: whenever the
    process is killed, the state knows the account's latest nonce, unless another copy of the state went on. Which
    courses the state has gone through is kept after: a kill in between leaves one that it does not know, and so one
    that begins.

    A charge in hand is computed once more under its key, which is the same computation only on the same kind of
    machine. On another one the rest of the run is entered as a course of its own, which charges and draws anew.
    """
    if not progress.lines and plan.config.privacy.account is not None:  # one that was begun goes on as it is
        refuse_relative(plan.config.privacy.account, "privacy.account")
    market = prepared.whole.market
    path, here = _state_file(directory, market.name), computing_kind(plan.config.device)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"nonces": [], "courses": []}
    if progress.lines and not kept["courses"]:
        raise AccountError(
            f"{path}: is gone, and the run's ledger of market {market.name} goes on: what it let in "
            "is not known, and would be drawn twice over from one key: restore the file, or start a new run"
        )
    state = RunState(
        nonce=secrets.token_hex(16),
        known=list(kept["nonces"]),
        begun=bool(kept["courses"]),
        charges=progress.charges,
        seals=progress.seals,
        moved=moved(directory, market.name, progress.in_hand, plan.config.device),
    )
    write_json(path, {**kept, "nonces": [*state.known, state.nonce]})
    started = account.enter(_pairs(market), _spending(run, plan, market), state, market=market.name)
    courses = kept["courses"]
    if started.course not in [one["id"] for one in courses]:
        parted = (courses[-1]["parted"] if courses else 0) + started.parted
        courses = [*courses, {"id": started.course, "lines": progress.lines, "parted": parted}]
    write_json(path, {"nonces": [state.nonce], "courses": courses, "machine": here})
    return Entrance(
        data_fingerprint(account, run, prepared),
        # the runs before each course of this one, as they were when it began: notes never change
        [_note(started.before[one["id"]], plan.delta) for one in courses if one["id"] in started.before],
        courses[-1]["parted"],
        courses[-1]["lines"],
        Standing(account, run, state.nonce),
    )


def enter_without_bound(config: Config, directory: Path, prepared: PreparedMarket) -> None:
    """Enter what trains on a market's rows, outside of a federation's run, without a budget; before it trains.

    No later report on these rows then claims a bound. What is nobody's is entered nowhere.

    Args:
        config: where the rows are, and which account the user names.
        directory: where the result goes.
        prepared: the market.

    Raises:
        AccountError: the account cannot be read or written.
        AccountPlaceError: it is not named by its whole path.
    """
    account, market = account_of(config, directory), prepared.whole.market
    if isinstance(account, PublicData):
        return
    if config.privacy.account is not None:
        refuse_relative(config.privacy.account, "privacy.account")
    raw: DpEvent = NonPrivateDpEvent()
    spending = Spending(secrets.token_hex(16), dict.fromkeys(DECRYPTED_VIEWS, raw), markets=1)
    account.enter(_pairs(market), spending, RunState(secrets.token_hex(16)), market=market.name)


def moved(directory: Path, market: str, last: int, device: DeviceSetting) -> bool:
    """Whether a charge is in hand, the ``last`` in its ledger, that was made on a machine of another kind than this."""
    path = _state_file(directory, market)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    of_this_course = bool(kept.get("courses")) and last >= kept["courses"][-1]["lines"]
    return of_this_course and kept.get("machine") != computing_kind(device)


def foresee(
    account: PrivacyAccount, run: str, plan: SpendingPlan, prepared: PreparedMarket, *, again: bool = False
) -> Outlook:
    """What the account will say of a run that is about to begin or to go on; enters nothing.

    ``again``: with a charge in hand that is not redone here, so that the rest is another course.
    """
    market = prepared.whole.market
    own, rows = _spending(run, plan, market), _pairs(market)
    here = [one for one in (account, *account.others) if one.is_there]
    spent = PrivacyAccount(here[0].path, here[1:]).spent_on(rows, market.name) if here else []
    known = [one.to_user_of(own.users) for one in spent]
    courses = [spending for spending in known if spending.run == own.run]
    earlier = [spending for spending in known if spending.run != own.run] + (courses if again else courses[1:])
    claimed = decrypted_claims(plan.config)
    unbounded = [one for one in earlier if any(gaussian_steps(one.observed(view)) is None for view in claimed)]
    if unbounded or plan.epsilon is None:
        return Outlook(len(earlier), len(unbounded), None)
    totals = [several_runs_epsilon([own, *earlier], view, plan.delta) for view in claimed]
    return Outlook(len(earlier), 0, None if math.isinf(max(totals)) else max(totals))


def data_fingerprint(account: PrivacyAccount | PublicData | RunKey, run: str, prepared: PreparedMarket) -> str:
    """Hash of every row, with rating and time, and of their order, under a key of the run that the account's gives.

    It stands in the run's ledger, which is handed out: of two runs it does not say whether any row changed between.

    The latest of two rows of one time is the one that comes last.
    """
    market = prepared.whole.market
    rest = zip(market.rating.tolist(), market.time.tolist(), strict=True)
    pairs = zip(_pairs(market), rest, strict=True)
    rows = [pair + _encoded(repr(rating), repr(time)) for pair, (rating, time) in pairs]
    read = [] if market.reading is None else [_encoded("read") + market.reading.line]
    return account.fingerprint([*rows, *read], ordered=True, run=run)


def readers_fingerprint(account: PrivacyAccount | PublicData | RunKey, prepared: PreparedMarket, reader: str) -> str:
    """Hash of users and items of all rows, said to one reader: the same in every run, and to nobody else."""
    return account.fingerprint(_pairs(prepared.whole.market), reader=reader)


def _pairs(market: Market) -> list[bytes]:
    """User and item of each row."""
    users, items = ([_encoded(str(name)) for name in names] for names in (market.user_ids, market.item_ids))
    return [users[user] + items[item] for user, item in zip(market.user.tolist(), market.item.tolist(), strict=True)]


def _encoded(*parts: str) -> bytes:
    """Each part with its length before it: no two tuples have one encoding, whatever characters ids are made of."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _note(earlier: Iterable[Spending], delta: float) -> Release:
    runs = list(earlier)
    return Release(
        EARLIER_RUNS,
        EARLIER_RUNS_MECHANISM,
        NoOpDpEvent(),
        None,
        audience=(),
        depends_on=(),
        remark=str(len(runs)),
        view_events={view: noted_event(cost_of(run, view, delta) for run in runs) for view in DECRYPTED_VIEWS},
        extra_delta=noted_failures(run.extra_delta for run in runs),
    )


def _spending(run: str, plan: SpendingPlan, market: Market) -> Spending:
    """What a run enters, and who its users are; of rows that were handed on in memory nobody knows."""
    file = plan.config.data.markets.get(market.name)
    users = None if file is None or market.reading is None else str(file.user)
    return replace(planned_spending(run, plan), users=users)


def planned_spending(run: str, plan: SpendingPlan) -> Spending:
    """What a run spends, by its plan."""
    plan = plan.at_most()  # how many items are found is not known yet
    releases = list(plan.releases())
    return Spending(
        run,
        observed_by_view(plan),
        sum(release.coordinates for release in releases),
        sum(release.extra_delta for release in releases),
        plan.n_markets,
    )


def spent_on_same_data(account: PrivacyAccount, directory: Path, market: str) -> list[Spending]:
    """What all runs on a market's data spend, this one and later ones included; changes nothing.

    The account knows which data they are, by the run's id, which the ledger's last line is signed over, and the market.

    Args:
        account: the reader's, whatever the run says.
        directory: of the run.
        market: in it.

    Raises:
        AccountError: it is no account, or the run is not in it.
        LedgerError: the market has no ledger that can be read.
    """
    opening = read_ledger(RunDirectory(directory).ledger(market)).opening
    if opening.get("market") != market:
        raise AccountError(f"{RunDirectory(directory).ledger(market)}: is not the ledger of market {market}")
    return account.spendings_of(str(opening.get("run")), market)


def _state_file(directory: Path, market: str) -> Path:
    return RunDirectory(directory).account(market)
