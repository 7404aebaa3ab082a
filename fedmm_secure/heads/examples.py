"""What a market brings to a head, and what it is judged on: examples of its users, test candidates of everybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.config import Config
from fedmm_secure.config.choices import FeatureGroup
from fedmm_secure.ctr.dataset import latest_folds
from fedmm_secure.ctr.features import FeatureBuilder, Features, FeatureSchema
from fedmm_secure.ctr.histories import AccountHistory, History
from fedmm_secure.data.candidates import Candidates, Simulated, like_candidates, pair_keys, with_negatives
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix, with_rows
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.heads.features import IdFreeFeatures
from fedmm_secure.heads.trees import Bins
from fedmm_secure.randomness import numpy_generator

OWN_GROUPS: tuple[FeatureGroup, ...] = (
    "scores",
    "counts",
    "recency",
)  # what a market's own head is trained on, in its own units


@dataclass(frozen=True)
class Examples:
    """Labelled pairs with features of both kinds: bins that mean the same everywhere, and the market's own numbers."""

    candidates: Candidates
    bins: Bins
    own: Features

    @property
    def label(self) -> FloatArray:
        """Labels ``(n,)``: 1 for rows, 0 for drawn items."""
        return self.candidates.label

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True)
class MarketExamples:
    """A market as far as it knows users.

    Attributes:
        folds: the latest training rows of users it knows, features computed without them.
        refit: their validation rows, with negatives outside training and validation.
        valid: their validation candidates, to stop by.
        test: the test candidates of all users, each by its user's own rows.
        popularity: rows of each test candidate's item that the market knows, ``(n,)``.
        schema: of the market's own numbers.
    """

    folds: list[Examples]
    refit: Examples
    valid: Examples
    test: Examples
    popularity: FloatArray
    schema: FeatureSchema

    @property
    def for_head(self) -> tuple[Bins, FloatArray]:
        """Bins and labels that a head may be fitted to: ``(n, n_features)``, ``(n,)``."""
        parts = [*self.folds, self.refit]
        return np.concatenate([part.bins for part in parts]), np.concatenate([part.label for part in parts])


def market_examples(
    prepared: PreparedMarket,
    config: Config,
    known: NDArray[np.bool_] | None = None,
    learned: NDArray[np.bool_] | None = None,
) -> MarketExamples:
    """Examples of a market that knows all its users, or those of ``known (n_users,)`` alone.

    What is known of items comes from rows of known users; examples are theirs too, or those of ``learned (n_users,)``.
    A user's own history is the user's own, known before or not. The pool and the test candidates are those of the whole
    market, so that figures with more and with fewer users are comparable.
    """
    market, split, pool = prepared.market, prepared.split, prepared.pool
    known = np.ones(market.n_users, dtype=bool) if known is None else known
    learned = known if learned is None else learned

    def mine(rows: IntArray) -> IntArray:
        return rows[known[market.user[rows]]]

    def history(rows: IntArray) -> AccountHistory:
        fitted = History(market, mine(rows), pool)
        return AccountHistory(fitted, history_matrix(market, rows), None, fitted.activity(with_rows(market, rows)))

    def features(found: AccountHistory, *stream: str | int) -> Callable[[Candidates], Examples]:
        users = np.flatnonzero(known & (found.user_count > 0))
        bins, own = IdFreeFeatures(found, users, market.name, *stream), FeatureBuilder(OWN_GROUPS, found)
        return lambda pairs: Examples(pairs, bins(pairs.user, pairs.item), own(pairs.user, pairs.item))

    def positives(rows: IntArray, touched: IntArray, *stream: str | int) -> Candidates:
        if config.data.label == "like":
            return like_candidates(market, rows[learned[market.user[rows]]], pool, threshold=config.data.like_threshold)
        rows = rows[learned[market.user[rows]] & pool.contains(market.item[rows])]
        touched = touched[learned[market.user[touched]]]  # others' rows must not shift the draws
        keys = pair_keys(market.user[touched], market.item[touched], market.n_items)
        draws = Simulated(numpy_generator("head-negatives", market.name, *stream))
        per_positive = config.data.negatives_per_positive
        return with_negatives(market.user[rows], market.item[rows], pool, keys, market.n_items, per_positive, draws)

    folds = [
        features(history(fold.kept), "fold", depth)(positives(fold.held_out, split.train, "fold", depth))
        for depth, fold in enumerate(latest_folds(market, split.train, max(config.ctr.cross_fit.last, 1)))
    ]
    full = history(split.train)
    seen = np.concatenate([split.train, split.valid])
    examples = features(full, "all")
    inside = learned[prepared.valid.user]
    valid = Candidates(prepared.valid.user[inside], prepared.valid.item[inside], prepared.valid.label[inside])
    return MarketExamples(
        folds,
        examples(positives(split.valid, seen, "valid")),
        examples(valid),
        examples(prepared.test),
        np.bincount(market.item[mine(split.train)], minlength=market.n_items)[prepared.test.item].astype(np.float64),
        FeatureBuilder(OWN_GROUPS, full).schema(),
    )


def head_examples(prepared: PreparedMarket, config: Config) -> tuple[Bins, FloatArray]:
    """What a market adds to a head: examples as they are when it knows each of ``head.shares`` of its users.

    A head that has only met markets that know everybody believes too much in what a market knows that has just begun.
    Each user has examples where the market knows everybody, and where it knows one of the smaller shares.
    """
    n, name, shares = prepared.market.n_users, prepared.market.name, config.head.shares
    fewer = [share for share in shares if share < 1]
    dealt = numpy_generator("head-shares", name).integers(0, max(len(fewer), 1), n)
    parts = [
        market_examples(
            prepared, config, some_users(n, share, name, "head"), dealt == fewer.index(share) if share < 1 else None
        ).for_head
        for share in shares
    ]
    return np.concatenate([bins for bins, _ in parts]), np.concatenate([label for _, label in parts])


def some_users(n_users: int, share: float, *stream: str | int) -> NDArray[np.bool_]:
    """A share of a market's users, at least one, drawn at random ``(n_users,)``; smaller shares are parts of larger."""
    order = numpy_generator("known-users", *stream).permutation(n_users)
    found = np.zeros(n_users, dtype=bool)
    found[order[: max(1, round(share * n_users))]] = True
    return found
