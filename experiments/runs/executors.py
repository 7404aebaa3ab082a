"""Who runs independent tasks, as a command is told."""

from __future__ import annotations

from experiments.runs.cluster import Cluster
from fedmm_secure.executors.base import Executor
from fedmm_secure.executors.processes import WorkerProcesses


def executor_of(workers: int, cluster: str | None) -> Executor:
    """Processes here, or the workers of a cluster, by its address.

    Raises:
        ConfigError: there is no such cluster.
    """
    return WorkerProcesses(workers) if cluster is None else Cluster(cluster)
