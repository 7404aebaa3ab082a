"""A run's entries in the privacy account of its markets' data."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from dp_accounting.dp_event import ComposedDpEvent, NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.places import account_beside
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import CLAIMS, DECRYPTED_VIEWS
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account import PrivacyAccount, heard_of
from privacy.accounting.account_file import AccountError
from privacy.accounting.events import gaussian_steps
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.guarantees import EARLIER_RUNS, EARLIER_RUNS_MECHANISM, coarsely, composed_epsilon
from privacy.accounting.ledger import read_ledger
from privacy.accounting.places import ACCOUNT_VARIABLE, users_account
from privacy.accounting.spendings import Spending
from privacy.files import write_json


@dataclass(frozen=True)
class Entrance:
    """What a market knows once its account has let a run in.

    Attributes:
        data: fingerprint of every row, with rating and time, and of what was read of its file; keyed, unless the rows
            are nobody's.
        earlier: notes of what other runs spent on the same data.
        course: 0, and one more for each time that an old copy of the run's state was resumed.
        standing: where each charge is taken down; None for a rehearsal, and where nobody's rows are spent on.
    """

    data: str
    earlier: list[Release]
    course: int = 0
    standing: Standing | None = None


@dataclass(frozen=True)
class Outlook:
    """What a market's account will say of a run once it is over, by what it says before.

    Attributes:
        earlier: other runs on the same data.
        without_bound: those among them without a budget for a view that is claimed to have one.
        epsilon: of all of them and the run, the claimed view that learns most; None where nothing bounds it.
    """

    earlier: int
    without_bound: int
    epsilon: float | None


@dataclass(frozen=True)
class Standing:
    """A run's place in its account, as long as it is started nowhere else."""

    account: PrivacyAccount
    fingerprint: str
    run: str
    nonce: str = field(repr=False)

    def charging(self, charges: int) -> AbstractContextManager[None]:
        """Hold the account while the ``charges``-th release is charged; raises ``AccountError`` where it may not be."""
        return self.account.charging(self.fingerprint, self.run, self.nonce, charges)


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
    if not home and os.path.lexists(beside.path):
        beside.require_known()
    entered, other = (beside, users) if home else (users, beside)
    others = [other] if os.path.lexists(other.path) and other.path.resolve() != entered.path.resolve() else []
    return PrivacyAccount(entered.path, others)


def readers_account(named: Path | None = None) -> PrivacyAccount:
    """The account that a reader holds a run to: the one that he names, or his own; never one that lies with the run.

    What his own knows of the run's rows counts beside the one that he names: a claim is of all that he can know.
    """
    own = PrivacyAccount(users_account())
    if named is None or named.resolve() == own.path.resolve() or not own.path.is_file():
        return PrivacyAccount(named or own.path)
    return PrivacyAccount(named, [own])


def enter(
    account: PrivacyAccount | PublicData | None,
    directory: Path,
    run: str,
    plan: SpendingPlan,
    prepared: PreparedMarket,
    charges: int,
) -> Entrance:
    """What a market knows once a run was let in; ``None`` lets in a rehearsal, whose results are thrown away."""
    if account is None:
        return Entrance("", [])
    if isinstance(account, PublicData):
        return Entrance(data_fingerprint(account, prepared), [])
    return enter_account(account, directory, run, plan, prepared, charges)


def enter_account(
    account: PrivacyAccount, directory: Path, run: str, plan: SpendingPlan, prepared: PreparedMarket, charges: int
) -> Entrance:
    """Enter a start of a run whose ledger has charged so many releases, before it spends anything.

    The nonce of each start is kept before it is entered, as one that may have been, and again after: whenever the
    process is killed, the state knows the account's latest nonce, unless another copy of the state went on.
    """
    market = prepared.whole.market
    path = _state_file(directory, market.name)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"nonces": [], "courses": {}}
    rows = _pairs(market)
    fingerprint, nonce = account.fingerprint(rows), secrets.token_hex(16)
    elsewhere = heard_of(account.others, rows)
    known = list(kept["nonces"])
    write_json(path, {**kept, "nonces": [*known, nonce]})
    started = account.start(
        fingerprint,
        planned_spending(run, plan),
        known=known,
        nonce=nonce,
        market=market.name,
        charges=charges,
        begun=bool(kept["courses"]),
        elsewhere=elsewhere,
    )
    courses = kept["courses"]
    if started.again or not courses:
        courses = {**courses, str(len(courses)): {name: len(found) for name, found in started.known.items()}}
    write_json(path, {"nonces": [nonce], "courses": courses})
    # the runs before each course of this one, as they were when it began: notes never change
    notes = [_note(_counted(account, started.known, counts)) for counts in courses.values()]
    return Entrance(
        data_fingerprint(account, prepared), notes, len(courses) - 1, Standing(account, fingerprint, run, nonce)
    )


def foresee(account: PrivacyAccount, run: str, plan: SpendingPlan, prepared: PreparedMarket) -> Outlook:
    """What the account will say of a run that is about to begin or to go on; enters nothing."""
    own = planned_spending(run, plan)
    rows = _pairs(prepared.whole.market)
    here = [one for one in (account, *account.others) if one.path.is_file()]
    known = PrivacyAccount(here[0].path, here[1:]).spent_on(rows) if here else []
    earlier = [spending for spending in known if spending.run != own.run]
    claimed = [view for view in CLAIMS[plan.config.privacy.protect] if view in DECRYPTED_VIEWS]
    unbounded = [one for one in earlier if any(gaussian_steps(one.events[view]) is None for view in claimed)]
    if unbounded or plan.epsilon is None:
        return Outlook(len(earlier), len(unbounded), None)
    runs = [own, *earlier]
    totals = [composed_epsilon([run.events[view] for run in runs], runs, plan.delta, coarsely) for view in claimed]
    return Outlook(len(earlier), 0, None if math.isinf(max(totals)) else max(totals))


def _counted(account: PrivacyAccount, known: Mapping[str, list[Spending]], counts: Mapping[str, int]) -> list[Spending]:
    gone = [name for name, count in counts.items() if len(known.get(name, ())) < count]
    if gone:
        raise AccountError(
            f"{account.path}: an account whose runs were counted when this one began is gone (its key has the hash "
            f"{gone[0][:16]}): restore it, or start a new run"
        )
    return [found for name, count in sorted(counts.items()) for found in known[name][:count]]


def data_fingerprint(account: PrivacyAccount | PublicData, prepared: PreparedMarket) -> str:
    """Hash, under the account's key, of every row, with rating and time, and of their order.

    The latest of two rows of one time is the one that comes last.
    """
    market = prepared.whole.market
    rest = zip(market.rating.tolist(), market.time.tolist(), strict=True)
    pairs = zip(_pairs(market), rest, strict=True)
    rows = [pair + _encoded(repr(rating), repr(time)) for pair, (rating, time) in pairs]
    read = [] if market.reading is None else [_encoded("read") + market.reading.line]
    return account.fingerprint([*rows, *read], ordered=True)


def _pairs(market: Market) -> list[bytes]:
    """User and item of each row."""
    return [
        _encoded(str(market.user_ids[user]), str(market.item_ids[item]))
        for user, item in zip(market.user.tolist(), market.item.tolist(), strict=True)
    ]


def _encoded(*parts: str) -> bytes:
    """Each part with its length before it: no two tuples have one encoding, whatever characters ids are made of."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _note(earlier: Iterable[Spending]) -> Release:
    runs = list(earlier)
    events = {
        view: ComposedDpEvent([run.events[view] for run in runs if view in run.events]) for view in DECRYPTED_VIEWS
    }
    return Release(
        EARLIER_RUNS,
        EARLIER_RUNS_MECHANISM,
        NoOpDpEvent(),
        None,
        audience=(),
        depends_on=(),
        remark=str(len(runs)),
        view_events=events,
        coordinates=sum(run.coordinates for run in runs),
        extra_delta=sum(run.extra_delta for run in runs),
    )


def planned_spending(run: str, plan: SpendingPlan) -> Spending:
    """What a run enters."""
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
