"""A run's entries in the privacy account of its markets' data."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.config.choices import DeviceSetting
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.account_entries import data_fingerprint, market_spending, row_pairs
from fedmm_secure.federation.places import account_beside
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.provenance import computing_kind
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.ceilings import refuse_above
from privacy.accounting.filters import noted_event, noted_failures
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.guarantees import (
    EARLIER_RUNS,
    EARLIER_RUNS_MECHANISM,
    LISTED_EARLIER_RUNS,
    cost_of,
)
from privacy.accounting.ledger import Charge, Ledger, Seal, read_ledger
from privacy.accounting.places import ACCOUNT_VARIABLE, refuse_relative, users_account
from privacy.accounting.spendings import RunState, Spending
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
        return cls.at(ledger.length, ledger.charges, ledger.seals)

    @classmethod
    def at(cls, lines: int, charges: Collection[Charge], seals: Mapping[int, Seal]) -> SoFar:
        """Of a ledger of so many lines."""
        pending = (charge.sequence for charge in charges if charge.key and charge.sequence not in seals)
        return cls(lines, len(charges), len(seals), max(pending, default=-1))


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
    kept = _kept(directory, market.name)
    if progress.lines and not kept["courses"]:
        raise AccountError(
            f"{path}: is gone, and the run's ledger of market {market.name} goes on: what it let in "
            "is not known, and would be drawn twice over from one key: restore the file, or start a new run"
        )
    state = kept_state(directory, market.name, progress, plan.config.device)
    write_json(path, {**kept, "nonces": [*state.known, state.nonce]})
    started = account.enter(row_pairs(market), market_spending(run, plan, market), state, market=market.name)
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


def enter_without_bound(config: Config, directory: Path, *markets: PreparedMarket) -> None:
    """Enter what trains on markets' rows, outside of a federation's run, without a budget; before it trains.

    No later report on these rows then claims a bound. What is nobody's is entered nowhere. Where a run has fixed a
    ceiling on some of the rows, none are entered.

    Args:
        config: where the rows are, and which account the user names.
        directory: where the result goes.
        markets: what it trains on.

    Raises:
        AccountError: the account cannot be read or written.
        AccountPlaceError: it is not named by its whole path.
        CeilingError: a ceiling is on a market's rows.
    """
    account, found = account_of(config, directory), [prepared.whole.market for prepared in markets]
    if isinstance(account, PublicData):
        return
    if config.privacy.account is not None:
        refuse_relative(config.privacy.account, "privacy.account")
    raw: DpEvent = NonPrivateDpEvent()
    spending = Spending(secrets.token_hex(16), dict.fromkeys(DECRYPTED_VIEWS, raw), markets=1)
    for market in found:
        refuse_above(account.path, market.name, spending, known_runs(account, row_pairs(market), market.name))
    for market in found:
        account.enter(row_pairs(market), spending, RunState(secrets.token_hex(16)), market=market.name)


def kept_state(directory: Path, market: str, progress: SoFar, device: DeviceSetting) -> RunState:
    """What a run's files say of it as it starts or goes on, with a fresh nonce that no file holds yet.

    It has moved if a charge is in hand that was made on a machine of another kind than this.
    """
    kept = _kept(directory, market)
    of_this_course = bool(kept["courses"]) and progress.in_hand >= kept["courses"][-1]["lines"]
    return RunState(
        nonce=secrets.token_hex(16),
        known=list(kept["nonces"]),
        begun=bool(kept["courses"]),
        charges=progress.charges,
        seals=progress.seals,
        moved=of_this_course and kept.get("machine") != computing_kind(device),
    )


def _kept(directory: Path, market: str) -> dict[str, Any]:
    path = _state_file(directory, market)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"nonces": [], "courses": []}


def known_runs(account: PrivacyAccount, rows: Sequence[bytes], market: str) -> list[Spending]:
    """What all runs on rows spend, as far as an account or its others have begun and know of them."""
    here = [one for one in (account, *account.others) if one.is_there]
    return PrivacyAccount(here[0].path, here[1:]).spent_on(rows, market) if here else []


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
    return account.spendings_of(_opened(directory, market), market)


def firsts_on_same_data(account: PrivacyAccount, directory: Path, market: str) -> list[Spending]:
    """What runs spend of which one was the first on a market's data; see ``spent_on_same_data``."""
    return account.firsts_of(_opened(directory, market), market)


def _opened(directory: Path, market: str) -> str:
    """Id of the run whose ledger of a market is in its directory."""
    opening = read_ledger(RunDirectory(directory).ledger(market)).opening
    if opening.get("market") != market:
        raise AccountError(f"{RunDirectory(directory).ledger(market)}: is not the ledger of market {market}")
    return str(opening.get("run"))


def _state_file(directory: Path, market: str) -> Path:
    return RunDirectory(directory).account(market)
