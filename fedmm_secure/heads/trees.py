"""Boosted trees that are grown from sums alone: a head that many markets fit without showing each other an example.

Every feature has fixed public bins. A level of a tree needs, for each of its nodes, feature and bin, the sum of
gradients and of second derivatives over the examples there; the sum over markets is all that anybody needs to choose
the same splits (Chen, Guestrin, "XGBoost", KDD 2016, eq. 7; with sums over parties: Tian et al., "FederBoost", 2020).
Both are rounded to integers before they are added, so the trees are the same however examples are spread over markets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fedmm_secure.config import Config, HeadConfig
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.guarantee.head_columns import BINS, NAMES, SCALE
from fedmm_secure.storage.files import Arrays

Bins = NDArray[np.uint8]


@dataclass(frozen=True)
class Head:
    """Trees of one depth; a node's children are ``2 i + 1`` and ``2 i + 2``.

    Attributes:
        feature: feature that each inner node asks about, ``(n_trees, 2^depth - 1)``.
        last_left: largest bin that goes left, likewise.
        value: log-odds that each leaf adds, ``(n_trees, 2^depth)``.
        prior: log-odds before any tree.
    """

    feature: IntArray
    last_left: IntArray
    value: FloatArray
    prior: float

    @property
    def depth(self) -> int:
        """Decisions on the way to a leaf."""
        return int(self.value.shape[1]).bit_length() - 1

    def log_odds(self, bins: Bins) -> FloatArray:
        """Log-odds ``(n,)`` of a click for pairs with bins ``(n, n_features)``."""
        found = np.full(len(bins), self.prior)
        for tree in range(len(self.value)):
            found += self.value[tree, self.leaves(tree, bins)]
        return found

    def predict(self, bins: Bins) -> FloatArray:
        """Click probabilities ``(n,)``."""
        return np.asarray(expit(self.log_odds(bins)))

    def leaves(self, tree: int, bins: Bins, depth: int | None = None) -> IntArray:
        """The leaf of each pair, ``(n,)``, or where ``depth`` is given its node of that level, from 0."""
        node, row = np.zeros(len(bins), dtype=np.int64), np.arange(len(bins))
        depth = self.depth if depth is None else depth
        for _ in range(depth):
            right = bins[row, self.feature[tree, node]] > self.last_left[tree, node]
            node = 2 * node + 1 + right
        return np.asarray(node - (2**depth - 1))

    def to_arrays(self) -> Arrays:
        """As it is kept, and published."""
        return {
            "feature": self.feature,
            "last_left": self.last_left,
            "value": self.value,
            "prior": np.array(self.prior),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """And back."""
        return cls(arrays["feature"], arrays["last_left"], arrays["value"], float(arrays["prior"]))


class HeadGrower:
    """Grows a head level by level; every party that adds the same sums has the same head.

    Args:
        choices: number, depth and step of the trees.
        prior: log-odds of a positive before any tree, a public choice.
        n_features: columns of the bins.
        n_bins: bins of each.
    """

    def __init__(self, choices: HeadConfig, prior: float, n_features: int = len(NAMES), n_bins: int = BINS) -> None:
        self.choices, self._features, self._bins = choices, n_features, n_bins
        inner = 2**choices.depth - 1
        shape = choices.trees, inner
        self._head = Head(
            np.zeros(shape, np.int64), np.full(shape, n_bins - 1), np.zeros((choices.trees, inner + 1)), prior
        )
        self._level = 0  # over all trees

    @classmethod
    def of(cls, config: Config) -> Self:
        """An ungrown head of a configuration; before any tree, a pair is as likely a positive as candidates are."""
        negatives = config.data.negatives_per_positive if config.data.label == "click" else 1
        return cls(config.head, -math.log(negatives))

    @property
    def length(self) -> int:
        """Integers that a market adds to each sum: of the widest level, whatever the level."""
        return int(2**self.choices.depth) * self._features * self._bins

    @property
    def done(self) -> bool:
        """Whether every level of every tree is grown."""
        return self._level == self.choices.rounds

    @property
    def head(self) -> Head:
        """The trees that are finished."""
        grown, found = self._level // self.choices.depth, self._head
        return Head(found.feature[:grown], found.last_left[:grown], found.value[:grown], found.prior)

    def to_arrays(self) -> Arrays:
        """All trees, finished or not, and how many levels they have."""
        return {**self._head.to_arrays(), "level": np.array(self._level)}

    def restore(self, arrays: Arrays) -> None:
        """Go on from what ``to_arrays`` gave."""
        self._head, self._level = Head.from_arrays(arrays), int(arrays["level"])

    def histograms(self, bins: Bins, label: FloatArray, log_odds: FloatArray | None = None) -> IntArray:
        """A market's part of the next sum, ``(length,)``: gradients, then second derivatives, by node, feature and bin.

        Args:
            bins: of its examples, ``(n, n_features)``.
            label: 0 or 1, ``(n,)``.
            log_odds: what the finished trees say of them, ``(n,)``; computed where it is left out.
        """
        tree, level = divmod(self._level, self.choices.depth)
        chance = expit(self.head.log_odds(bins) if log_odds is None else log_odds)
        node = self._head.leaves(tree, bins, level)
        size = self._features * self._bins
        found = np.zeros((2, self.length // 2), dtype=np.int64)
        columns = np.arange(self._features) * self._bins
        place = (node * size)[:, None] + columns + bins
        for row, values in zip(found, (chance - label, chance * (1.0 - chance)), strict=True):
            whole = np.repeat(np.rint(values * SCALE), self._features)
            row += np.bincount(place.ravel(), whole, minlength=len(row)).astype(np.int64)  # exact below 2^53
        return found.ravel()

    def grow(self, total: IntArray) -> None:
        """Split the level's nodes by the sum ``(length,)`` over all markets; a tree's last level gives its leaves."""
        tree, level = divmod(self._level, self.choices.depth)
        nodes = 2**level
        shape = 2, 2 ** (self.choices.depth - 1), self._features, self._bins
        sums = np.cumsum(np.asarray(total, dtype=np.int64).reshape(shape)[:, :nodes], axis=3) / SCALE
        every = sums[..., -1:]
        left, right = self._gains(*sums), self._gains(*(every - sums))
        gain = left + right - self._gains(*every)
        least = self.choices.least_weight
        gain[(sums[1] < least) | (every[1] - sums[1] < least)] = -np.inf
        gain[..., -1] = 0.0  # everything left: no split, which is better than one that gains nothing
        best = gain.reshape(nodes, -1).argmax(axis=1)  # the first of equals, everywhere
        feature, cut = np.divmod(best, self._bins)
        none = gain.reshape(nodes, -1).max(axis=1) <= 0.0
        feature, cut = np.where(none, 0, feature), np.where(none, self._bins - 1, cut)
        at = slice(nodes - 1, 2 * nodes - 1)
        self._head.feature[tree, at], self._head.last_left[tree, at] = feature, cut
        if level == self.choices.depth - 1:
            chosen = sums[:, np.arange(nodes), feature, cut]
            whole = every[:, np.arange(nodes), feature, 0]
            pairs = np.stack([chosen, whole - chosen], axis=2).reshape(2, -1)
            self._head.value[tree] = -self.choices.learning_rate * pairs[0] / (pairs[1] + self.choices.l2)
        self._level += 1

    def _gains(self, gradient: FloatArray, weight: FloatArray) -> FloatArray:
        return np.asarray(gradient**2 / (weight + self.choices.l2))


def fit_head(grower: HeadGrower, parts: list[tuple[Bins, FloatArray]]) -> Head:
    """A head fitted to the examples of several markets in one place: the same as over sums, to the last bit."""
    log_odds = [np.full(len(label), grower.head.prior) for _, label in parts]
    while not grower.done:
        before = len(grower.head.value)
        grower.grow(
            sum(
                (grower.histograms(*part, known) for part, known in zip(parts, log_odds, strict=True)),
                np.zeros(grower.length, np.int64),
            )
        )
        for tree in range(before, len(grower.head.value)):
            for (bins, _), known in zip(parts, log_odds, strict=True):
                known += grower.head.value[tree, grower.head.leaves(tree, bins)]
    return grower.head
