"""A run's entries in the privacy account of its markets' data."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from dp_accounting.dp_event import ComposedDpEvent, NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.places import account_beside, default_account
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from fedmm_secure.storage import write_json
from privacy.accounting.account import AccountError, PrivacyAccount, Spending
from privacy.accounting.guarantees import EARLIER_RUNS, EARLIER_RUNS_MECHANISM
from privacy.accounting.ledger import read_ledger
from privacy.accounting.places import ACCOUNT_VARIABLE
from privacy.foreign import ForeignDirectory, ForeignFileError


@dataclass(frozen=True)
class Entrance:
    """What a market knows once its account has let a run in.

    Attributes:
        data: keyed fingerprint of every row, with rating and time, and of what was read of its file.
        earlier: notes of what other runs spent on the same data.
        course: 0, and one more for each time that an old copy of the run's state was resumed.
        standing: where each charge is taken down; None for a rehearsal.
    """

    data: str
    earlier: list[Release]
    course: int = 0
    standing: Standing | None = None


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


def account_of(config: Config, directory: Path, *, home: bool = False) -> PrivacyAccount:
    """The account that a run enters: as configured, or by default; in the ``home`` of a deployed market, kept there."""
    if home and not os.environ.get(ACCOUNT_VARIABLE):
        return PrivacyAccount(config.privacy.account or account_beside(directory))
    return PrivacyAccount(config.privacy.account or default_account(directory))


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
    fingerprint, nonce = account.fingerprint(_pairs(market)), secrets.token_hex(16)
    known = list(kept["nonces"])
    write_json(path, {"fingerprint": fingerprint, **kept, "nonces": [*known, nonce]})
    started = account.start(
        fingerprint, planned_spending(run, plan), known=known, nonce=nonce, charges=charges, begun=bool(kept["courses"])
    )
    courses = kept["courses"]
    if started.again or not courses:
        courses = {**courses, str(len(courses)): len(started.earlier)}
    write_json(path, {"fingerprint": fingerprint, "nonces": [nonce], "courses": courses})
    # the runs before each course of this one, as they were when it began: notes never change
    notes = [_note(started.earlier[:count]) for count in courses.values()]
    return Entrance(
        data_fingerprint(account, prepared), notes, len(courses) - 1, Standing(account, fingerprint, run, nonce)
    )


def data_fingerprint(account: PrivacyAccount, prepared: PreparedMarket) -> str:
    """Keyed hash of every row, with rating and time, and of their order: the latest of two rows of one time is the one
    that comes last."""
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
        plan.views(),
        sum(release.coordinates for release in releases),
        sum(release.extra_delta for release in releases),
    )


def spent_on_same_data(account: PrivacyAccount, directory: Path, market: str) -> list[Spending]:
    """What all runs on a market's data spend, this one and later ones included; changes nothing.

    Args:
        account: the reader's, whatever the run says.
        directory: of the run.
        market: in it.

    Raises:
        AccountError: it is no account, or the run is not in it.
    """
    name = _state_file(directory, market).relative_to(directory).as_posix()
    try:
        fingerprint = ForeignDirectory(directory).json(name)["fingerprint"]
    except (ForeignFileError, KeyError) as error:
        raise AccountError(f"{directory / name}: the run's data cannot be found in {account.path}") from error
    found = account.spendings(str(fingerprint))
    run = read_ledger(directory / "ledger" / f"{market}.jsonl").opening.get("run")
    if run not in {spending.run for spending in found}:
        raise AccountError(f"{account.path}: does not hold this run")
    return found


def _state_file(directory: Path, market: str) -> Path:
    return directory / "state" / "account" / f"{market}.json"
