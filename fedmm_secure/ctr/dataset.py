"""Training examples of a CTR model: in-sample, or cross-fitted on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedmm_secure.ctr.features import Features, PairFeatures
from fedmm_secure.data.candidates import Candidates, Pool, Simulated, pair_keys, with_negatives
from fedmm_secure.data.market import FloatArray, IntArray, Market, rank_from_latest


@dataclass(frozen=True)
class Labelled:
    """Features and labels ``(n,)``."""

    features: Features
    label: FloatArray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Fold:
    """Rows to be predicted, and the rows that their features may be computed from."""

    held_out: IntArray
    kept: IntArray


def latest_folds(market: Market, train: IntArray, last: int) -> list[Fold]:
    """Folds that hold out the latest rows; a user always keeps at least one training row.

    Fold ``j`` predicts each user's ``j``-th row from the end and keeps the rows before it, like validation and test do.
    """
    user = market.user[train]
    count = np.bincount(user, minlength=market.n_users)
    from_end = rank_from_latest(user, market.n_users)
    folds = []
    for depth in range(last):
        deep_enough = count[user] >= depth + 2
        held = deep_enough & (from_end == depth)
        dropped = deep_enough & (from_end <= depth)
        folds.append(Fold(train[held], train[~dropped]))
    return folds


def random_folds(market: Market, train: IntArray, folds: int, rng: np.random.Generator) -> list[Fold]:
    """Folds that hold out one random row per user and keep the others."""
    user = market.user[train]
    count = np.bincount(user, minlength=market.n_users)
    found = []
    for _ in range(folds):
        order = np.lexsort((rng.random(len(train)), user))
        leads = np.r_[True, user[order][1:] != user[order][:-1]]
        chosen = order[leads]
        chosen = np.sort(chosen[count[user[chosen]] >= 2])
        kept = np.ones(len(train), dtype=bool)
        kept[chosen] = False
        found.append(Fold(train[chosen], train[kept]))
    return found


class ExampleSource:
    """Draws training examples; a new epoch may have new negatives.

    Negatives exclude the user's *training* rows only. Excluding validation and test rows too would tell a model
    which unseen items are positives later.
    """

    def __init__(self, parts: Sequence[Callable[[int], Labelled]]) -> None:
        self._parts = tuple(parts)

    def latest_kept(self) -> ExampleSource:
        """The same; who asks for an epoch that was drawn last is given it again, to be read and not changed."""
        return ExampleSource([_latest_kept(self.draw)])

    def draw(self, epoch: int) -> Labelled:
        """Examples of one epoch."""
        drawn = [part(epoch) for part in self._parts]
        if len(drawn) == 1:
            return drawn[0]
        label = np.concatenate([part.label for part in drawn])
        categories = np.concatenate([part.features.categories for part in drawn])
        numbers = np.empty((len(label), drawn[0].features.numbers.shape[1]))
        end = len(label)
        while drawn:  # the last first: a part is held no longer than until it has been copied
            part = drawn.pop()
            numbers[end - len(part) : end] = part.features.numbers
            end -= len(part)
        return Labelled(Features(categories, numbers), label)


def _latest_kept(draw: Callable[[int], Labelled]) -> Callable[[int], Labelled]:
    kept: dict[int, Labelled] = {}

    def drawn(epoch: int) -> Labelled:
        if epoch not in kept:
            kept.clear()  # before the next is drawn: never two at a time
            kept[epoch] = draw(epoch)
        return kept[epoch]

    return drawn


def labelled(builder: PairFeatures, candidates: Candidates) -> Labelled:
    """Candidates with their features."""
    return Labelled(builder(candidates.user, candidates.item), candidates.label)


def training_part(
    market: Market,
    rows: IntArray,
    touched: IntArray,
    pool: Pool,
    builder: PairFeatures,
    *,
    per_positive: int,
    make_rng: Callable[[int], np.random.Generator],
    fresh: bool,
) -> Callable[[int], Labelled]:
    """Positives at ``rows``, with negatives outside the rows ``touched``: others in each epoch if ``fresh``."""
    keys = pair_keys(market.user[touched], market.item[touched], market.n_items)
    positives = rows[pool.contains(market.item[rows])]

    def draw(epoch: int) -> Labelled:
        user, item = market.user[positives], market.item[positives]
        draws = Simulated(make_rng(epoch if fresh else 0))
        return labelled(builder, with_negatives(user, item, pool, keys, market.n_items, per_positive, draws))

    return draw
