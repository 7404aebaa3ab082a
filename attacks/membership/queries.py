"""What is asked of shadow pipelines, and what each of them is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.membership.units import Unit
from fedmm_secure.collaborative.neighbours import cosine_weights
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket

NEAR, SHOWN = 8, 100


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
    """

    rows: IntArray
    user: IntArray
    item: IntArray
    history: sparse.csr_array
    full: sparse.csr_array
    near: IntArray
    shown: IntArray

    @classmethod
    def of(cls, prepared: PreparedMarket) -> Queries:
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
        return cls(rows, user, item, history, full, near, pool[:: -(-len(pool) // SHOWN)])


def balanced_membership(n_shadows: int, n_units: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the shadows, chosen at random for each unit, contain it: ``(n_shadows, n_units)``."""
    order = rng.random((n_shadows, n_units)).argsort(axis=0)
    return np.asarray(order < n_shadows // 2)


def halve(prepared: PreparedMarket, unit: Unit, member: NDArray[np.bool_]) -> PreparedMarket:
    """The market with the units of ``member`` alone; who is left out as a user has no rows in any part."""
    split, user = prepared.split, prepared.market.user
    if unit == "interaction":
        return replace(prepared, split=replace(split, train=split.train[member]))
    parts = {name: rows[member[user[rows]]] for name, rows in vars(split).items()}

    def candidates(found: Candidates) -> Candidates:
        kept = member[found.user]
        return Candidates(found.user[kept], found.item[kept], found.label[kept])

    return replace(
        prepared,
        split=replace(split, **parts),
        valid=candidates(prepared.valid),
        test=candidates(prepared.test),
    )
