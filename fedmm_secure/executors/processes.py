"""Tasks on processes of this machine."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from fedmm_secure.executors.base import TRIES, Done, Shipped, Value, WorkerLostError, opened
from fedmm_secure.executors.worker import start_worker
from privacy.files import write_secret


class WorkerProcesses:
    """A pool of processes, each with one task at a time; what one of them dies of does not touch the others.

    Args:
        workers: processes.
        apart: a single worker is a process of its own too; otherwise its tasks are done in this one.
    """

    def __init__(self, workers: int, *, apart: bool = False) -> None:
        self.workers, self._apart = workers, apart

    def run(
        self,
        call: Callable[..., Value],
        shared: object,
        tasks: Sequence[tuple[Any, ...]],
        *,
        rows: bool = False,
        tries: int = TRIES,
    ) -> Iterator[Done[Value]]:
        """See ``Executor``; all of this machine's processes may see its rows."""
        if not tasks:
            return
        if (self.workers == 1 or len(tasks) == 1) and not self._apart:
            for index, task in enumerate(tasks):
                yield Done(index, call(shared, *task))
            return
        with tempfile.TemporaryDirectory(prefix="fedmm-workers-") as folder:
            shipped = Shipped.of(shared)
            path = Path(folder) / shipped.digest
            write_secret(path, shipped.data)
            yield from self._pooled(partial(_called, call, shipped.digest, path), tasks, tries)

    def _pooled(
        self, call: Callable[..., Value], tasks: Sequence[tuple[Any, ...]], tries: int
    ) -> Iterator[Done[Value]]:
        context = multiprocessing.get_context("spawn")  # torch's and OpenMP's threads do not survive a fork
        workers, lost = min(self.workers, len(tasks)), dict.fromkeys(range(len(tasks)), 0)
        with ProcessPool(max_workers=workers, context=context, initializer=start_worker) as pool:
            try:
                waiting: dict[Any, int] = {
                    pool.schedule(call, args=list(task)): index for index, task in enumerate(tasks)
                }
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        index, error = waiting.pop(future), future.exception()
                        if isinstance(error, ProcessExpired):  # killed, out of memory: it could not say why itself
                            lost[index] += 1
                            if lost[index] < tries:
                                waiting[pool.schedule(call, args=list(tasks[index]))] = index
                                continue
                            error = WorkerLostError(f"its process died with exit code {error.exitcode}")
                        yield Done(index, error=error) if error is not None else Done(index, future.result())
            except BaseException:  # an interrupt too, and a caller who has enough
                pool.stop()  # type: ignore[no-untyped-call]
                raise


def _called(call: Callable[..., Value], digest: str, path: Path, *task: object) -> Value:
    return call(opened(digest, path.read_bytes), *task)
