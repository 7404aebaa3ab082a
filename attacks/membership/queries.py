"""What is asked of shadow pipelines, and what each of them is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.membership.units import Unit
from attacks.retraining.pipelines import without_rows, without_users
from fedmm_secure.collaborative.neighbours import cosine_weights
from fedmm_secure.data.market import IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket

NEAR, SHOWN, PARTNERS, APART = 8, 100, 8, 8


@dataclass(frozen=True)
class Pairs:
    """Planned queries of accounts with a single item: each asks for an item that a user has beside it.

    What such an account is shown is how often two items went together, of which one user's rows are a part; the rarer
    the items, the larger. Beside it stands what pairs are shown that no user has.

    Attributes:
        accounts: one item of the pool each, ``(n_accounts, n_items)``.
        account: of each pair, ``(n_pairs,)``.
        row: the queried row whose item is asked for; the account's item is another of the same user.
        items: of the accounts, ascending, ``(n_accounts,)``.
        apart: for each of them, others that no user has beside it, as far as there are any: ``(n_accounts, APART)``.
    """

    accounts: sparse.csr_array
    account: IntArray
    row: IntArray
    items: IntArray
    apart: IntArray

    @classmethod
    def of(cls, user: IntArray, item: IntArray, together: NDArray[np.float64], pool: IntArray, n_items: int) -> Pairs:
        """Each row with the user's ``PARTNERS`` rarest other items, or all of them.

        Args:
            user, item: of each row ``(n,)``, items of the pool.
            together: positive where two items of the pool have a user in common, ``(n_pool, n_pool)``.
            pool: its items, ascending.
            n_items: of the market.
        """
        count = np.bincount(item, minlength=n_items)
        order = np.lexsort((item, count[item], user))
        start = np.searchsorted(user[order], user[order])  # of each user's rows in that order
        size = np.bincount(user, minlength=1)[user[order]]
        partner, row = [], []
        for step in range(PARTNERS + 1):  # one more, for a row is among the rarest of its own user
            there = np.flatnonzero(step < size)
            other = order[start[there] + step]
            apart = item[other] != item[order[there]]
            partner.append(item[other[apart]])
            row.append(order[there[apart]])
        ones = np.ones(len(pool))
        accounts = sparse.csr_array((ones, (np.arange(len(pool)), pool)), shape=(len(pool), n_items))
        account = np.searchsorted(pool, np.concatenate(partner))
        return cls(accounts, account, np.concatenate(row), pool, _apart(together, count[pool]))


def _apart(together: NDArray[np.float64], count: NDArray[np.int64]) -> IntArray:
    """For each item some that never go with it, from rare to common: ``(n, APART)``."""
    by_count = np.argsort(count, kind="stable")
    free = together[:, by_count] == 0.0
    free[by_count, np.arange(len(count))] = False  # an item goes with itself
    rank = np.cumsum(free, axis=1)
    wanted = 1 + np.floor(np.arange(APART)[None] * np.maximum(rank[:, -1:], 1) / APART)
    place = np.stack([(rank < wanted[:, [step]]).sum(1) for step in range(APART)], axis=1)
    return np.asarray(by_count[np.minimum(place, len(count) - 1)])


@dataclass(frozen=True)
class Queries:
    """What the adversary asks about: training rows of the market whose items are in the pool.

    Attributes:
        rows: row numbers, ``(n,)``.
        user, item: of each row.
        history: each row's account as the adversary copies it: the user's training rows without the row asked about,
            ``(n, n_items)``. Prior knowledge: all of the user's rows, but not whether they were trained on.
        full: all training rows of each user, ``(n_users, n_items)``.
        near: items that most often go with each item, ``(n_items, NEAR)``; from ``full``.
        shown: some items of the pool, ``(n_shown,)``, that every account is asked about.
        pairs: what accounts with a single item are asked about.
    """

    rows: IntArray
    user: IntArray
    item: IntArray
    history: sparse.csr_array
    full: sparse.csr_array
    near: IntArray
    shown: IntArray
    pairs: Pairs

    @classmethod
    def of(cls, prepared: PreparedMarket) -> Queries:
        """Every training row of a pooled item is asked about; what else accounts hold and are shown follows from public
        draws.
        """
        market, train = prepared.market, prepared.split.train
        rows = train[prepared.pool.contains(market.item[train])]
        user, item = market.user[rows], market.item[rows]
        full = history_matrix(market, train)
        asked = sparse.csr_array((np.ones(len(rows)), (np.arange(len(rows)), item)), shape=(len(rows), market.n_items))
        history = sparse.csr_array(full[user] - asked)
        history.eliminate_zeros()
        pool = prepared.pool.items
        together = cosine_weights(sparse.csr_array(full[:, pool]), 0.0)
        near = np.zeros((market.n_items, min(NEAR, len(pool) - 1)), dtype=np.int64)
        near[pool] = pool[np.argsort(-together, axis=1, kind="stable")[:, : near.shape[1]]]
        shown = pool[:: -(-len(pool) // SHOWN)]
        pairs = Pairs.of(user, item, together, pool, market.n_items)
        return cls(rows, user, item, history, full, near, shown, pairs)

    def units(self, unit: Unit) -> IntArray:
        """Number of the unit that each row belongs to ``(n,)``: the row itself, or its user among those asked about."""
        if unit == "interaction":
            return np.arange(len(self.rows))
        return np.unique(self.user, return_inverse=True)[1]


def fair_coins(n_shadows: int, n_units: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each shadow contains each unit, ``(n_shadows, n_units)``: independent, so that others' say nothing."""
    return np.asarray(rng.random((n_shadows, n_units)) < 0.5)


def halve(prepared: PreparedMarket, unit: Unit, member: NDArray[np.bool_]) -> PreparedMarket:
    """The market with the units of ``member`` alone."""
    return without_rows(prepared, member) if unit == "interaction" else without_users(prepared, member)
