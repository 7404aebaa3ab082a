"""Features of (user, item) pairs that mean the same in every market: percentiles among the market's own pairs.

A score of .3, or a count of 40, says nothing in another market. That a pair scores higher than 97 % of what the same
market could show to its users does. Every number that a market's history gives is therefore replaced by its percentile
among reference pairs, users with rows and items of the pool, both drawn evenly; scores also by their percentile among
the items of the pool for the same user. No user and no item is in them, and fixed public bins (equal parts of [0, 1])
are as good as any market's own. Beside them stands how much they rest on, rows and users on a logarithmic scale: a
percentile among the rows of ten users deserves less belief.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmm_secure.ctr.histories import AccountHistory
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.guarantee.head_columns import ABSOLUTE, BINS, NUMBERS, PER_USER
from fedmm_secure.heads.trees import Bins
from fedmm_secure.randomness import numpy_generator

REFERENCE_PAIRS = 20_000
DECIMALS = 9  # the last bits of a factorisation must not tell one score of zero from another
_PAIRS_AT_ONCE = 2**11  # whose users' scores of the whole pool are in memory


class IdFreeFeatures:
    """Bins ``(n, n_features)`` of pairs, from 0 to ``BINS - 1``; fitted to one history, without labels.

    Args:
        history: what features are computed from; pairs must not be computed from their own rows (see ``ctr.dataset``).
        users: whom the market knows, ``(n,)``: reference pairs are theirs.
        stream: names the draw of reference pairs.
    """

    def __init__(self, history: AccountHistory, users: IntArray, *stream: str | int) -> None:
        self._history, self._users = history, users
        rng, pool = numpy_generator("reference-pairs", *stream), history.pool.items
        who = users[rng.integers(0, len(users), REFERENCE_PAIRS)]
        items = pool[rng.integers(0, len(pool), REFERENCE_PAIRS)]
        # a small market's pairs are drawn many times, and have their numbers once
        pairs, drawn = np.unique(who * history.n_items + items, return_counts=True)
        numbers = self._numbers(*np.divmod(pairs, history.n_items))
        self._reference = {name: np.sort(np.repeat(values, drawn)) for name, values in numbers.items()}

    def __call__(self, user: IntArray, item: IntArray) -> Bins:
        """Bins of pairs ``(n,)``, ``(n,)`` of users and items of the pool."""
        numbers = self._numbers(user, item)
        found = {name: _percentile(self._reference[name], values) for name, values in numbers.items()}
        columns = [found[name] for name in NUMBERS] + self._of_user(user, item)
        columns += [_signed_root(numbers[name]) for name in ABSOLUTE] + self._evidence(user, item)
        return np.asarray(np.minimum(np.stack(columns, axis=1) * BINS, BINS - 1), dtype=np.uint8)

    def _evidence(self, user: IntArray, item: IntArray) -> list[FloatArray]:
        """How much all of it rests on: rows and users, each doubling two bins further."""
        rows = self._history.item_count
        of_item, known = float(rows[self._history.pool.items].mean()), float(len(self._users))
        found = (rows[item], self._history.user_count[user], np.full(len(user), of_item), np.full(len(user), known))
        return [2.0 * np.log2(1.0 + values) / BINS for values in found]

    def _numbers(self, user: IntArray, item: IntArray) -> Mapping[str, FloatArray]:
        history = self._history
        found = history.scores(user, item) | history.counts(user, item) | history.recency(user, item)
        return {name: np.round(values, DECIMALS) for name, values in found.items()}

    def _of_user(self, user: IntArray, item: IntArray) -> list[FloatArray]:
        """Percentile of each score among the pool's items for the same user, ``(n,)`` each."""
        column = np.searchsorted(self._history.pool.items, item)
        found = np.zeros((len(PER_USER), len(user)))
        for start in range(0, len(user), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            rows = self._history.pool_scores(user[part])
            for at, name in enumerate(PER_USER):
                row = np.round(rows[name], DECIMALS)
                own = np.take_along_axis(row, column[part, None], axis=1)
                found[at, part] = (row < own).mean(axis=1) + 0.5 * (row == own).mean(axis=1)
        return list(found)


def _signed_root(values: FloatArray) -> FloatArray:
    """From -1 … 1 to 0 … 1, finer around zero."""
    return np.asarray(0.5 + 0.4999 * np.sign(values) * np.sqrt(np.minimum(np.abs(values), 1.0)))


def _percentile(ordered: FloatArray, values: FloatArray) -> FloatArray:
    """Share of reference values below each of ``values``, those equal to it by half."""
    both = [np.searchsorted(ordered, values, side=side) for side in ("left", "right")]
    return np.asarray((both[0] + both[1]) / (2.0 * len(ordered)))
