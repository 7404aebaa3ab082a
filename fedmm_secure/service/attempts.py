"""What failed is not tried again at every request: a server may ask as often as it likes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fedmm_secure.federation.coins import CoinsAwaitedError

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 3600.0  # seconds
T = TypeVar("T")


@dataclass
class Attempts:
    """Failures by name, each of which answers for a while, twice as long as the one before it.

    A run that awaits a coin is tried again at once: it costs nothing, and its operator hands the coin in.
    """

    _failed: dict[str, tuple[Exception, float, float]] = field(default_factory=dict)

    def of(self, name: str, attempt: Callable[[], T]) -> T:
        """What the attempt returns; raises what it raised last, where that was a short while ago."""
        failure, until, pause = self._failed.get(name, (None, 0.0, FIRST_PAUSE / 2))
        if failure is not None and time.monotonic() < until:
            raise failure.with_traceback(None)  # or each raise keeps its frames, and the request that is in them
        try:
            found = attempt()
        except CoinsAwaitedError:
            raise
        except Exception as error:
            pause = min(2 * pause, LONGEST_PAUSE)
            self._failed[name] = error, time.monotonic() + pause, pause
            raise
        self._failed.pop(name, None)
        return found
