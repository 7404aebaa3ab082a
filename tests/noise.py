"""Private randomness switched off or replaced, for tests that look at what it covers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from privacy.mechanisms.randomness import LEVELS, NoiseSource


@contextmanager
def silent() -> Iterator[None]:
    """Mechanisms release their exact sums."""

    def none(source: NoiseSource, count: int, *, levels: int = LEVELS) -> np.ndarray:
        return np.zeros(count, dtype=np.int64)

    with mock.patch.object(NoiseSource, "discrete_gaussian", none):
        yield
