"""Tasks on processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from fedmm_secure.executors.base import TRIES, Done, Shipped, Value, WorkerLostError, opened
from fedmm_secure.executors.worker import start_worker
from privacy.files import write_secret

_POOLS = 10  # that tasks may break, one after the other


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
        shipped = Shipped.of(shared)
        with _at_hand(shipped) as path:
            yield from self._pooled(partial(_called, call, shipped.digest, path), tasks, tries)

    def _pooled(
        self, call: Callable[..., Value], tasks: Sequence[tuple[Any, ...]], tries: int
    ) -> Iterator[Done[Value]]:
        left, lost = list(range(len(tasks))), dict.fromkeys(range(len(tasks)), 0)
        for _ in range(_POOLS):
            broken = list[int]()
            for done in self._in_a_pool(call, {index: tasks[index] for index in left}, lost, tries):
                if isinstance(done.error, BrokenProcessPool):
                    broken.append(done.index)
                else:
                    yield done
            left = sorted(broken)
            if not left:
                return
        for index in left:
            yield Done(index, error=WorkerLostError(f"processes died {_POOLS} times as soon as they had begun"))

    def _in_a_pool(
        self, call: Callable[..., Value], tasks: Mapping[int, tuple[Any, ...]], lost: dict[int, int], tries: int
    ) -> Iterator[Done[Value]]:
        """Tasks by index; those that a broken pool has not done have a ``BrokenProcessPool``, and are done by another.

        A pool breaks where a process dies before it has said which task it has.
        """
        context = multiprocessing.get_context("spawn")  # torch's and OpenMP's threads do not survive a fork
        workers = min(self.workers, len(tasks))
        with ProcessPool(max_workers=workers, context=context, initializer=start_worker) as pool:
            try:
                waiting: dict[Any, int] = {pool.schedule(call, args=list(task)): index for index, task in tasks.items()}
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        index, error = waiting.pop(future), future.exception()
                        if isinstance(error, ProcessExpired):  # killed, out of memory: it could not say why itself
                            lost[index] += 1
                            if lost[index] < tries and pool.active:
                                waiting[pool.schedule(call, args=list(tasks[index]))] = index
                                continue
                            told = f"its process died with exit code {error.exitcode}"
                            error = WorkerLostError(told) if lost[index] >= tries else BrokenProcessPool(told)
                        yield Done(index, error=error) if error is not None else Done(index, future.result())
                if not pool.active:
                    pool.stop()  # type: ignore[no-untyped-call]
            except BaseException:  # an interrupt too, and a caller who has enough
                pool.stop()  # type: ignore[no-untyped-call]
                raise


@contextmanager
def _at_hand(shipped: Shipped) -> Iterator[Path]:
    """A file for worker processes: rows are in it, so it lies in memory, and is gone with this process however it ends.

    Where the system has no such files, it lies in a folder that this user alone can read, and SIGKILL leaves it there.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory(prefix="fedmm-workers-") as folder:
            path = Path(folder) / shipped.digest
            write_secret(path, shipped.data)
            yield path
        return
    with open(os.memfd_create("fedmm-shared"), "wb") as file:
        file.write(shipped.data)
        file.flush()
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def _called(call: Callable[..., Value], digest: str, path: Path, *task: object) -> Value:
    return call(opened(digest, path.read_bytes), *task)
