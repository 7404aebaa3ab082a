"""The seam: tasks in, results out as they come, wherever they were computed.

A task is a function of its arguments alone: it may be computed again where a worker is lost, and by any worker. So no
task may spend: what enters a privacy account runs in processes of the machine that the account is on, whose files the
task writes itself (``experiments.sweep.scheduler`` says which cells those are). Shadow pipelines and games of audits
play on the auditor's side, with noise of their own, and enter no account.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from privacy.errors import StoppedError

TRIES = 3  # workers that a task may lose
Value = TypeVar("Value")


class WorkerLostError(StoppedError):
    """A worker died with a task in hand: killed, out of memory, or its machine is gone."""


@dataclass(frozen=True)
class Done(Generic[Value]):
    """A task that ended.

    Attributes:
        index: of the task, from 0.
        value: what it returned; None where it failed.
        error: why it failed.
    """

    index: int
    value: Value | None = None
    error: BaseException | None = None

    def result(self) -> Value:
        """What the task returned; raises its error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class Executor(Protocol):
    """Runs tasks."""

    def run(
        self,
        call: Callable[..., Value],
        shared: object,
        tasks: Sequence[tuple[Any, ...]],
        *,
        rows: bool = False,
        tries: int = TRIES,
    ) -> Iterator[Done[Value]]:
        """``call(shared, *task)`` for every task, in any order; leaving the iterator ends what still runs.

        Args:
            call: of a module.
            shared: what all tasks need; each worker gets it once, by its hash.
            tasks: arguments.
            rows: whether it holds rows of a market: then only workers that may see them get it.
            tries: workers that a task may lose; its last failure is a ``WorkerLostError``.
        """
        ...


class ShippedError(StoppedError):
    """What arrived at a worker is not what was sent."""


@dataclass(frozen=True)
class Shipped:
    """A value as bytes, known by their hash."""

    digest: str
    data: bytes

    @classmethod
    def of(cls, value: object) -> Shipped:
        """A value that can be pickled."""
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        return cls(hashlib.sha256(data).hexdigest(), data)


_opened: dict[str, Any] = {}  # the value that this worker was sent last


def opened(digest: str, fetch: Callable[[], bytes]) -> Any:
    """The value with this digest, at a worker: fetched once, and held to its hash before it is unpickled.

    Raises:
        ShippedError: it is another.
    """
    if digest not in _opened:
        data = fetch()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ShippedError(f"what a worker was sent is not what has the hash {digest[:16]}")
        _opened.clear()
        _opened[digest] = pickle.loads(data)  # of whoever started this worker
    return _opened[digest]
