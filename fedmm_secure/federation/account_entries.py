"""What a run says of itself as it enters an account: on which rows it is, and what it will have spent."""

from __future__ import annotations

from dataclasses import replace

from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import decrypted_claims
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.fingerprints import PublicData, RunKey
from privacy.accounting.spendings import Ceiling, Spending


def data_fingerprint(account: PrivacyAccount | PublicData | RunKey, run: str, prepared: PreparedMarket) -> str:
    """Hash of every row, with rating and time, and of their order, under a key of the run that the account's gives.

    It stands in the run's ledger, which is handed out: of two runs it does not say whether any row changed between.

    The latest of two rows of one time is the one that comes last.
    """
    market = prepared.whole.market
    rest = zip(market.rating.tolist(), market.time.tolist(), strict=True)
    pairs = zip(row_pairs(market), rest, strict=True)
    rows = [pair + _encoded(repr(rating), repr(time)) for pair, (rating, time) in pairs]
    read = [] if market.reading is None else [_encoded("read") + market.reading.line]
    return account.fingerprint([*rows, *read], ordered=True, run=run)


def readers_fingerprint(account: PrivacyAccount | PublicData | RunKey, prepared: PreparedMarket, reader: str) -> str:
    """Hash of users and items of all rows, said to one reader: the same in every run, and to nobody else."""
    return account.fingerprint(row_pairs(prepared.whole.market), reader=reader)


def row_pairs(market: Market) -> list[bytes]:
    """User and item of each row."""
    users, items = ([_encoded(str(name)) for name in names] for names in (market.user_ids, market.item_ids))
    return [users[user] + items[item] for user, item in zip(market.user.tolist(), market.item.tolist(), strict=True)]


def _encoded(*parts: str) -> bytes:
    """Each part with its length before it: no two tuples have one encoding, whatever characters ids are made of."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def market_spending(run: str, plan: SpendingPlan, market: Market) -> Spending:
    """What a run enters, and who its users are; of rows that were made in memory nobody knows."""
    return replace(planned_spending(run, plan), users=market.users)


def planned_spending(run: str, plan: SpendingPlan) -> Spending:
    """What a run spends, by its plan, and the ceiling that it fixes on what all runs on the data do."""
    plan = plan.at_most()  # how many items are found is not known yet
    limit, claimed = plan.config.privacy.ceiling, tuple(decrypted_claims(plan.config))
    releases = list(plan.releases())
    return Spending(
        run,
        observed_by_view(plan),
        sum(release.coordinates for release in releases),
        sum(release.extra_delta for release in releases),
        plan.n_markets,
        ceiling=None if limit is None else Ceiling(limit, plan.delta, claimed),
    )
