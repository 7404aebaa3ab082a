"""Tasks on the workers of a Ray cluster, which somebody started; this machine is one of its nodes.

Rows go to nodes that may see them, and to no other: whoever starts a node says so (``ray start … --resources='{"rows":
1000}'``), and a task that needs rows asks for some of that. Ray sends an object to the nodes whose tasks ask for it.
What arrives is held to its hash, and computed by the same code, or refused. Ray's own protocol has no login: a cluster
is a network of its own, of machines that trust each other.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedmm_secure.errors import ConfigError
from fedmm_secure.executors.base import TRIES, Done, Shipped, Value, WorkerLostError, opened
from fedmm_secure.storage.provenance import code_version

ROWS = "rows"  # what a node has whose workers may see rows
_SHARE = 0.001  # of it, that a task takes: many fit on a node
_PATIENCE = 10.0  # seconds for the head to answer
COMPUTING = ("attacks", "experiments", "fedmm_secure", "privacy")  # packages that tasks are of
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


class OtherCodeError(ConfigError):
    """Workers of a cluster that would compute something else."""


class Cluster:
    """Workers of a Ray cluster, as many as it has processors.

    Args:
        address: of the cluster's head, ``host:port``.

    Raises:
        ConfigError: it is no such address, Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str) -> None:
        if not _ADDRESS.fullmatch(address):  # ray:// for one: its client keeps what it is given on the head's node
            raise ConfigError(
                f"--cluster {address!a:.200}: give HOST:PORT of the head of a cluster that this machine is a node of"
            )
        try:
            import ray  # an extra
        except ImportError:
            missing = "--cluster: Ray is not installed; the extra simulation has it: docs/how-to/install.md"
            raise ConfigError(missing) from None
        self.address = address
        try:
            _reach(address)
            ray.init(address=address, namespace="fedmm", log_to_driver=False, ignore_reinit_error=True)
        except (OSError, RuntimeError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            raise ConfigError(f"--cluster {address}: no Ray cluster that this machine is part of: {what}") from None

    def run(
        self,
        call: Callable[..., Value],
        shared: object,
        tasks: Sequence[tuple[Any, ...]],
        *,
        rows: bool = False,
        tries: int = TRIES,
    ) -> Iterator[Done[Value]]:
        """See ``Executor``.

        Raises:
            ConfigError: tasks need rows, and no node may see them.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        there = ray.cluster_resources()
        if rows and not there.get(ROWS):
            raise ConfigError(
                f"--cluster {self.address}: no worker may see rows; on machines that may, add "
                f"--resources='{{\"{ROWS}\": 1000}}' to ray start"
            )
        shipped = Shipped.of(shared)
        data = ray.put(shipped.data)
        remote = ray.remote(_called).options(
            num_cpus=1, max_retries=tries - 1, resources={ROWS: _SHARE} if rows else None
        )
        holder = [data]  # within a list it is no argument of its own, which Ray would open and hand over as bytes
        waiting = {
            remote.remote(call, shipped.digest, holder, code_version(COMPUTING), *task): index
            for index, task in enumerate(tasks)
        }
        try:
            while waiting:
                (ended, *_), _ = ray.wait(list(waiting))
                index = waiting.pop(ended)
                try:
                    yield Done(index, ray.get(ended))
                except RayTaskError as error:  # what the task itself raised
                    yield Done(index, error=error.cause if isinstance(error.cause, Exception) else error)
                except RayError as error:
                    what = " ".join(str(error).split())[:200]
                    times = "" if tries == 1 else f" {tries} times"
                    yield Done(index, error=WorkerLostError(f"its worker was lost{times}: {what}"))
        finally:
            for one in waiting:
                ray.cancel(one, force=True)


def _reach(address: str) -> None:
    """Whether anybody listens there: Ray itself asks for many minutes, with lines of its own.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _called(call: Callable[..., Value], digest: str, holder: list[Any], code: str, *task: object) -> Value:
    import ray

    if code_version(COMPUTING) != code:
        raise OtherCodeError("--cluster: its workers have another version of the code, or other libraries")
    return call(opened(digest, lambda: bytes(ray.get(holder[0]))), *task)
