"""User ids that occur in several markets: one person there, whose ε is not that of one market."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import DataError


def shared_users(markets: Mapping[str, PreparedMarket]) -> list[tuple[str, int]]:
    """Markets that have user ids of others too, by name, and how many such ids."""
    return shared_ids({name: prepared.whole.market.user_ids for name, prepared in markets.items()})


def shared_ids(users: Mapping[str, Iterable[object]]) -> list[tuple[str, int]]:
    """The same of distinct user ids by market."""
    ids = {name: set(map(str, found)) for name, found in users.items()}
    times = Counter(user for found in ids.values() for user in found)
    counts = {name: sum(times[user] > 1 for user in found) for name, found in ids.items()}
    return [(name, count) for name, count in sorted(counts.items()) if count]


def refuse_shared_users(config: Config, markets: Mapping[str, PreparedMarket]) -> None:
    """Each market's guarantee is that of a user of one market: what another market states of the same person adds up.

    Raises:
        DataError: ids coincide, and ``data.shared_users`` does not say what that means; without a budget, nothing is
            claimed of anybody.
    """
    if config.privacy.epsilon is None or config.data.shared_users != "refused":
        return
    found = shared_users(markets)
    if found:
        counts = ", ".join(f"{name} {count}" for name, count in found)
        raise DataError(
            f"user ids that other markets have too: {counts}. If they are the same people, what the markets spend on "
            "them adds up: data.shared_users: composed. If ids coincide by accident, as running numbers do: "
            "data.shared_users: distinct. Or leave each person's rows in one market alone"
        )
