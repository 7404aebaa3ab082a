"""CTR features of (user, item) pairs, computed from one history and one set of codes.

Features of a pair must not be computed from the pair's own row: cross-fitting holds rows out of the history
first (see ``crossfit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import sparse

from fedmm_secure.config.choices import CODE_GROUPS, CODE_LAYERS, FEATURE_GROUPS, CodeLayer, FeatureGroup
from fedmm_secure.ctr.pairs import entries
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.quantization.codes import Codes, one_hot
from privacy.mechanisms.counts import merged

PAIRS = 2**16  # whose features are held at a time, where those of all are not needed at once
_COMPUTED = 2**14  # whose features are computed at a time: factors on the way are several times as large


@dataclass(frozen=True)
class Features:
    """Model inputs: categories ``(n, n_fields)`` and numbers ``(n, n_numbers)``."""

    categories: IntArray
    numbers: FloatArray

    def __len__(self) -> int:
        return len(self.categories)


@dataclass(frozen=True)
class FeatureSchema:
    """Names of the columns, and the number of values of each category."""

    category_names: tuple[str, ...]
    cardinalities: tuple[int, ...]
    number_names: tuple[str, ...]


class PairFeatures(Protocol):
    """Turns (user, item) pairs into model inputs."""

    def schema(self) -> FeatureSchema:
        """What its inputs are made of."""
        ...

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Inputs ``(n, …)`` of pairs of users ``(n,)`` and items ``(n,)``."""
        ...


class FeatureHistory(Protocol):
    """What features are computed from: raw rows, or one user's rows and private releases."""

    n_users: int
    n_items: int
    matrix: sparse.csr_array
    user_count: FloatArray

    def counts(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Of each pair ``(n,)``, logarithms of its item's and its user's rows."""
        ...

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Of each pair ``(n,)``, scores by collaborative filtering, by their names."""
        ...

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Of each pair ``(n,)``, how old its item's rows and its user's are, by name."""
        ...

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        """Of each pair ``(n,)``, what other markets of a shared catalogue know of the item, by name."""
        ...

    def code_lift(self, codes: Codes, seen: sparse.csr_array) -> FloatArray | None:
        """How much more than by chance users of a code meet items of a code ``(n_codes, n_codes)``; None if unknown."""
        ...


class FeatureBuilder:
    """Turns (user, item) pairs into model inputs.

    Args:
        groups: feature groups to include.
        history: what features are computed from.
        codes: codes of users and items, needed by the code groups.
        n_codes: sizes of the global and the local codebook.
        layers: those whose codes are features.
    """

    def __init__(
        self,
        groups: Sequence[FeatureGroup],
        history: FeatureHistory,
        codes: Codes | None = None,
        n_codes: tuple[int, int] = (0, 0),
        layers: Sequence[CodeLayer] = CODE_LAYERS,
    ) -> None:
        if codes is None and CODE_GROUPS & set(groups):
            raise ValueError("code features need codes")
        self.groups = tuple(group for group in FEATURE_GROUPS if group in groups)
        self._history, self._codes, self._n_codes = history, codes, n_codes
        self._layers = [index for index, layer in enumerate(CODE_LAYERS) if layer in layers]
        affine = "code_affinity" in groups and codes is not None
        self._affinity = _CodeAffinity(history, codes, n_codes, self._layers) if affine and codes is not None else None

    def schema(self) -> FeatureSchema:
        """Categories and numbers of the groups that were asked for."""
        sizes: dict[str, int] = {}
        if "user_id" in self.groups:
            sizes["user_id"] = self._history.n_users
        if "item_id" in self.groups:
            sizes["item_id"] = self._history.n_items
        for side in ("user", "item"):
            if f"{side}_codes" in self.groups:
                sizes |= {f"{side}_{CODE_LAYERS[layer]}_code": self._n_codes[layer] for layer in self._layers}
        none = np.zeros(0, dtype=np.int64)
        return FeatureSchema(tuple(sizes), tuple(sizes.values()), tuple(self._numbers(none, none)))

    @cached_property
    def _width(self) -> int:
        """Columns of numbers."""
        return len(self.schema().number_names)

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Features of pairs ``(n,)``, ``(n,)``."""
        categories: list[IntArray] = []
        if "user_id" in self.groups:
            categories.append(user)
        if "item_id" in self.groups:
            categories.append(item)
        if self._codes is not None:
            if "user_codes" in self.groups:
                categories += list(self._codes.user[user][:, self._layers].T)
            if "item_codes" in self.groups:
                categories += list(self._codes.item[item][:, self._layers].T)
        numbers = np.zeros((len(user), self._width))
        for start in range(0, len(user), _COMPUTED):
            some = slice(start, start + _COMPUTED)
            for column, values in enumerate(self._numbers(user[some], item[some]).values()):
                numbers[some, column] = values
        return Features(
            np.stack(categories, axis=1) if categories else np.zeros((len(user), 0), dtype=np.int64), numbers
        )

    def _numbers(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        if self._affinity is not None:
            found |= self._affinity(user, item)
        for group in ("scores", "counts", "recency", "shared"):
            if group in self.groups:
                found |= getattr(self._history, group)(user, item)
        return found


class _CodeAffinity:
    """How a user's history, and users of the same global code, relate to an item's codes."""

    def __init__(self, history: FeatureHistory, codes: Codes, n_codes: tuple[int, int], layers: Sequence[int]) -> None:
        self._history, self._codes = history, codes
        self._seen = {layer: merged(history.matrix @ one_hot(codes.item[:, layer], n_codes[layer])) for layer in layers}
        self._lift = history.code_lift(codes, self._seen[0]) if 0 in layers else None

    def __call__(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for layer, counts in self._seen.items():
            found[f"same_{CODE_LAYERS[layer]}_code"] = entries(counts, user, self._codes.item[item, layer])
        if 0 in self._seen:
            share = found["same_global_code"] / np.maximum(self._history.user_count[user], 1.0)
            found["same_global_code_share"] = share
        if self._lift is not None:
            found["code_lift"] = self._lift[self._codes.user[user, 0], self._codes.item[item, 0]]
        return found
