"""CTR features of (user, item) pairs, computed from one history and one set of codes.

Features of a pair must not be computed from the pair's own row: cross-fitting holds rows out of the history
first (see ``crossfit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from fedmm_secure.config.choices import CODE_GROUPS, FEATURE_GROUPS, FeatureGroup
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

    def schema(self) -> FeatureSchema: ...

    def __call__(self, user: IntArray, item: IntArray) -> Features: ...


class FeatureHistory(Protocol):
    """What features are computed from: raw rows, or one user's rows and private releases."""

    n_users: int
    n_items: int
    matrix: sparse.csr_array
    user_count: FloatArray

    def counts(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]: ...

    def scores(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]: ...

    def recency(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]: ...

    def shared(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]: ...

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
    """

    def __init__(
        self,
        groups: Sequence[FeatureGroup],
        history: FeatureHistory,
        codes: Codes | None = None,
        n_codes: tuple[int, int] = (0, 0),
    ) -> None:
        if codes is None and CODE_GROUPS & set(groups):
            raise ValueError("code features need codes")
        self.groups = tuple(group for group in FEATURE_GROUPS if group in groups)
        self._history, self._codes, self._n_codes = history, codes, n_codes
        self._affinity = _CodeAffinity(history, codes, n_codes) if "code_affinity" in groups and codes else None

    def schema(self) -> FeatureSchema:
        sizes: dict[str, int] = {}
        if "user_id" in self.groups:
            sizes["user_id"] = self._history.n_users
        if "item_id" in self.groups:
            sizes["item_id"] = self._history.n_items
        for side in ("user", "item"):
            if f"{side}_codes" in self.groups:
                sizes |= {f"{side}_global_code": self._n_codes[0], f"{side}_local_code": self._n_codes[1]}
        none = np.zeros(0, dtype=np.int64)
        return FeatureSchema(tuple(sizes), tuple(sizes.values()), tuple(self._numbers(none, none)))

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Features of pairs ``(n,)``, ``(n,)``."""
        categories: list[IntArray] = []
        if "user_id" in self.groups:
            categories.append(user)
        if "item_id" in self.groups:
            categories.append(item)
        if self._codes is not None:
            if "user_codes" in self.groups:
                categories += list(self._codes.user[user].T)
            if "item_codes" in self.groups:
                categories += list(self._codes.item[item].T)
        names = self.schema().number_names
        numbers = np.zeros((len(user), len(names)))
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

    def __init__(self, history: FeatureHistory, codes: Codes, n_codes: tuple[int, int]) -> None:
        self._history, self._codes = history, codes
        self._seen = [merged(history.matrix @ one_hot(codes.item[:, layer], n_codes[layer])) for layer in (0, 1)]
        self._lift = history.code_lift(codes, self._seen[0])

    def __call__(self, user: IntArray, item: IntArray) -> dict[str, FloatArray]:
        first, second = self._codes.item[item, 0], self._codes.item[item, 1]
        seen = entries(self._seen[0], user, first)
        found = {
            "same_global_code": seen,
            "same_local_code": entries(self._seen[1], user, second),
            "same_global_code_share": seen / np.maximum(self._history.user_count[user], 1.0),
        }
        if self._lift is not None:
            found["code_lift"] = self._lift[self._codes.user[user, 0], first]
        return found
