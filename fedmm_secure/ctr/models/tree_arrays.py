"""Boosted trees as plain arrays: what scoring needs of a fitted classifier, and all that is kept of it.

scikit-learn walks a tree by the numbers in its nodes, in compiled code and without looking whether they lead anywhere.
So trees of a file become ``Trees`` once every node leads down, within the tree and within the columns, or not at all;
and no object of a file is ever asked anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from fedmm_secure.config.choices import MODELS
from fedmm_secure.data.market import FloatArray, IntArray

MOST_CATEGORIES = MODELS["boosted"].most_categories or 0
_FLAGS = ("is_leaf", "is_categorical", "missing_go_to_left")
# of a node, what decides where a row goes; the rest of it is for fitting
_PARTS = ("value", "feature_idx", "num_threshold", "left", "right", "bitset_idx", *_FLAGS)
_WORDS = 8  # of 32 bits: one for each category


@dataclass(frozen=True)
class Trees:
    """Trees of a binary classifier, whose log-odds add up.

    Attributes:
        prior: log-odds before any tree, ``()``.
        sizes: nodes of each tree, ``(n_trees,)``.
        nodes: of all trees, one after the other; children by their place in the tree, ``(n_nodes,)``.
        bitsets: for each split by categories, those that go left, ``(n_splits, 8)``.
        known: categories of each categorical column, ``(n_categorical,)``; these columns come first.
        categories: of all of those columns, one after the other, ascending in each, ``(n_categories,)``.

    Raises:
        ValueError: they cannot be walked.
    """

    prior: FloatArray
    sizes: IntArray
    nodes: NDArray[np.void]
    bitsets: NDArray[np.uint32]
    known: IntArray
    categories: FloatArray

    def __post_init__(self) -> None:
        problem = self._shape_problem() or self._node_problem()
        if problem:
            raise ValueError(problem)

    @classmethod
    def of(cls, fitted: HistGradientBoostingClassifier, most: int | None = None) -> Self:
        """What a fitted classifier of two classes scores with, its categorical columns first.

        Args:
            fitted: the classifier.
            most: of its trees, the first so many alone.
        """
        predictors = [trees[0] for trees in fitted._predictors[:most]]
        encoder = fitted._preprocessor
        found = [] if encoder is None else encoder.named_transformers_["encoder"].categories_
        sets = [predictor.raw_left_cat_bitsets for predictor in predictors]
        nodes = [predictor.nodes.copy() for predictor in predictors]
        for part, before in zip(nodes, accumulate(map(len, sets), initial=0), strict=False):
            part["bitset_idx"][part["is_categorical"] == 1] += before
        return cls(
            np.array(fitted._baseline_prediction.item()),
            np.array([len(part) for part in nodes], dtype=np.int64),
            np.concatenate([*nodes, np.empty(0, PREDICTOR_RECORD_DTYPE)]),
            np.concatenate([*sets, np.empty((0, _WORDS), np.uint32)]),
            np.array([len(values) for values in found], dtype=np.int64),
            np.concatenate([*found, np.empty(0)]).astype(np.float64),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As they are kept."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "nodes"}
        return found | {part: self.nodes[part] for part in _PARTS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """And back; raises ``ValueError`` where they are not arrays of trees that can be walked."""
        rest = {field.name for field in fields(cls)} - {"nodes"}
        if arrays.keys() != {*rest, *_PARTS}:
            raise ValueError("arrays of other names")
        for part in _PARTS:
            array = arrays[part]
            if array.dtype != PREDICTOR_RECORD_DTYPE[part] or array.shape != (len(arrays["value"]),):
                raise ValueError(f"{part}: another type or length than nodes have")
        nodes = np.zeros(len(arrays["value"]), PREDICTOR_RECORD_DTYPE)
        for part in _PARTS:
            nodes[part] = arrays[part]
        return cls(nodes=nodes, **{name: arrays[name] for name in rest})

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Probabilities ``(n,)`` of rows ``(n, n_columns)``, to the last bit those of the fitted classifier.

        Raises:
            ValueError: a tree asks for a column that is not there.
        """
        asked = self.nodes["feature_idx"][self.nodes["is_leaf"] == 0]
        if matrix.shape[1] < max(len(self.known), int(asked.max(initial=-1)) + 1):
            raise ValueError(f"trees over more than {matrix.shape[1]} columns")
        encoded = self._encoded(matrix)
        log_odds = np.full(len(matrix), float(self.prior))
        place, threads = np.arange(matrix.shape[1], dtype=np.uint32), _openmp_effective_n_threads()
        for tree in self._predictors:
            log_odds += tree.predict(encoded, self._known_bitsets, place, threads)
        return np.asarray(expit(log_odds))

    def _encoded(self, matrix: FloatArray) -> FloatArray:
        """Categories by their place among those that were known when the trees were fitted; others are missing."""
        found = np.array(matrix, dtype=np.float64, order="C")
        ends = accumulate(self.known.tolist(), initial=0)
        for column, (start, end) in enumerate(pairwise(ends)):
            values = self.categories[start:end]
            place = np.searchsorted(values, matrix[:, column])
            same = np.append(values, np.nan)[place] == matrix[:, column]
            found[:, column] = np.where(same, place, np.nan)
        return found

    @cached_property
    def _predictors(self) -> list[TreePredictor]:
        cuts = np.cumsum(self.sizes)[:-1]
        return [TreePredictor(part.copy(), self.bitsets, self.bitsets) for part in np.split(self.nodes, cuts)]

    @cached_property
    def _known_bitsets(self) -> NDArray[np.uint32]:
        bits = np.arange(32 * _WORDS) < self.known[:, None]
        return np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little")).view("<u4").astype(np.uint32)

    def _shape_problem(self) -> str | None:
        """What is wrong with the arrays beside the nodes."""
        float64, int64 = np.dtype(np.float64), np.dtype(np.int64)
        right = (
            (self.prior.dtype, self.prior.shape) == (float64, ())
            and np.isfinite(self.prior)
            and (self.bitsets.dtype, self.bitsets.shape[1:]) == (np.dtype(np.uint32), (_WORDS,))
            and all((array.dtype, array.ndim) == (int64, 1) for array in (self.sizes, self.known))
            and (self.categories.dtype, self.categories.ndim) == (float64, 1)
        )
        if not right:
            return "arrays of another type or shape"
        if not len(self.sizes):
            return "no tree"
        if (self.sizes < 1).any() or (self.sizes > len(self.nodes)).any() or self.sizes.sum() != len(self.nodes):
            return f"{len(self.nodes)} nodes, which are not those of its trees"
        if (self.known < 0).any() or (self.known > MOST_CATEGORIES).any() or self.known.sum() != len(self.categories):
            return f"{len(self.categories)} categories, which are not those of its columns"
        starts = np.cumsum(self.known)
        inner = ~np.isin(np.arange(1, max(len(self.categories), 1)), starts)
        if not np.isfinite(self.categories).all() or (np.diff(self.categories)[inner] <= 0).any():
            return "categories that do not ascend"
        return None

    def _node_problem(self) -> str | None:
        """Where a node leads that is no place; every walk from a root goes down and ends once there is none."""
        nodes = self.nodes
        if any((nodes[flag] > 1).any() for flag in _FLAGS):
            return "a flag of a node that is neither 0 nor 1"
        size = np.repeat(self.sizes, self.sizes)
        own = np.arange(len(nodes)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        inner = nodes["is_leaf"] == 0
        for child in (nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)):
            if ((child <= own) | (child >= size))[inner].any():
                return "a child that is not further down in its tree"
        if (nodes["feature_idx"][inner] < 0).any():
            return "a split by a column before the first"
        split = inner & (nodes["is_categorical"] == 1)
        if (nodes["bitset_idx"][split] >= len(self.bitsets)).any():
            return "a split by categories that are not there"
        if (nodes["feature_idx"][split] >= len(self.known)).any():
            return "a split by categories of a column of numbers"
        return None if np.isfinite(nodes["value"]).all() else "a leaf that is no number"
