"""What stages of a run take: seconds and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmm_secure.storage.files import Store
from fedmm_secure.storage.memory import PeakMemory
from privacy.files import write_json

_Listener = Callable[[str, Mapping[str, Any]], None]


class Stopwatch:
    """Seconds spent in each stage, and the most memory that all its processes had; over resumed runs.

    The listener is told of each stage as it begins.
    """

    def __init__(self, state: Path, listener: _Listener = lambda event, fields: None) -> None:
        self._state, self._listener = state, listener
        self._spent: dict[str, float] = Store(state).json("seconds", dict)
        self._held = PeakMemory(Store(state).json("memory", dict))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell the listener that a stage begins, and add up what it takes."""
        self._listener("stage", {"stage": name})
        start = time.perf_counter()
        try:
            with self._held.during(name):
                yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - start
            write_json(self._state / "seconds.json", self._spent)
            write_json(self._state / "memory.json", self._held.largest)

    def memory(self) -> dict[str, int]:
        """Bytes of this process and those that it started, by stage."""
        return dict(self._held.largest)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in the order of their beginnings."""
        return {name: round(value, 3) for name, value in self._spent.items()}
