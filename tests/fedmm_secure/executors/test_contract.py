"""What whoever runs tasks does, on processes here and on a local Ray cluster."""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from attacks.membership.shadow import train_shadows
from experiments.runs.cluster import ROWS, Cluster, OtherCodeError
from fedmm_secure.errors import ConfigError
from fedmm_secure.executors import base
from fedmm_secure.executors.base import Shipped, ShippedError, WorkerLostError, opened
from fedmm_secure.executors.processes import WorkerProcesses
from fedmm_secure.storage.files import Store
from tests.attacks.membership.test_shadow import plan_of
from tests.conftest import tiny
from tests.fedmm_secure.executors import tasks

CLUSTER = pytest.param("cluster", marks=pytest.mark.slow)  # a start of Ray takes half a minute


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes on this machine: rows may be seen on the second alone."""
    ray = pytest.importorskip("ray", reason="Ray, of the extra simulation, is not installed")
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    second = cluster.add_node(num_cpus=1, resources={ROWS: 1000})
    cluster.wait_for_nodes()
    yield cluster.address, second.node_id
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(params=["in this process", "processes", CLUSTER])
def executor(request):
    if request.param == "cluster":
        return Cluster(request.getfixturevalue("nodes")[0])
    return WorkerProcesses(1 if request.param == "in this process" else 2)


def test_every_task_has_its_result(executor):
    found = {done.index: done.result() for done in executor.run(tasks.add, 10, [(n,) for n in range(5)], rows=True)}
    assert found == {n: 10 + n for n in range(5)}
    assert list(executor.run(tasks.add, 10, [])) == []


def test_what_a_task_raises_is_its_own(executor):
    with pytest.raises(KeyError, match="no 3"):
        [done.result() for done in executor.run(tasks.refuse, None, [(3,)])]


@pytest.mark.parametrize("executor", ["processes", CLUSTER], indirect=True)
def test_a_task_whose_worker_is_lost_is_given_to_another(executor, tmp_path):
    found = {done.index: done.result() for done in executor.run(tasks.die_once, 1, [(tmp_path, n) for n in range(3)])}
    assert found == {0: 1, 1: 2, 2: 3}
    assert len(list(tmp_path.iterdir())) == 3  # each lost one


@pytest.mark.parametrize("executor", ["processes", CLUSTER], indirect=True)
def test_a_task_that_no_worker_outlives_says_so_in_a_line(executor):
    (done, other) = executor.run(tasks.die, None, [(), ()], tries=1)
    assert {done.index, other.index} == {0, 1}
    with pytest.raises(WorkerLostError, match=r"^its (process died with exit code 9|worker was lost)") as lost:
        done.result()
    assert "\n" not in str(lost.value)


@pytest.mark.slow
def test_rows_go_to_workers_that_may_see_them_alone(nodes):
    address, second = nodes
    found = [done.result() for done in Cluster(address).run(tasks.node, None, [()] * 6, rows=True)]
    assert set(found) == {second}


class StandIn(SimpleNamespace):
    """Ray, as far as a cluster's executor asks it, in this process."""

    def __init__(self, resources):
        self.exceptions = ModuleType("ray.exceptions")
        self.exceptions.RayError = type("RayError", (Exception,), {})
        self.exceptions.RayTaskError = type("RayTaskError", (self.exceptions.RayError,), {})
        self.asked, self.cancelled, self.resources = [], [], resources

    def init(self, **asked):
        assert asked["address"] == "head:1"

    def cluster_resources(self):
        return self.resources

    def put(self, data):
        return (data,)

    def remote(self, function):
        def options(**asked):
            def remote(*arguments):
                self.asked.append(asked)
                return partial(function, *arguments)

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(options=options)

    def get(self, reference):
        if isinstance(reference, tuple):
            return reference[0]
        try:
            return reference()
        except SystemExit as lost:
            raise self.exceptions.RayError("the worker\ndied") from lost
        except Exception as error:
            raised = self.exceptions.RayTaskError()
            raised.cause = error
            raise raised from error

    def wait(self, references):
        return references[:1], references[1:]

    def cancel(self, reference, *, force):
        self.cancelled.append(reference)


@pytest.fixture
def ray(monkeypatch):
    found = StandIn({"CPU": 2.0, ROWS: 1000.0})
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setitem(sys.modules, "ray.exceptions", found.exceptions)
    monkeypatch.setattr(base, "_opened", {})
    monkeypatch.setattr(
        "experiments.runs.cluster.socket.create_connection", lambda *_, **__: SimpleNamespace(close=int)
    )
    return found


def test_a_cluster_is_asked_for_workers_that_may_see_rows(ray):
    found = {done.index: done.result() for done in Cluster("head:1").run(tasks.add, 10, [(1,), (2,)], rows=True)}
    assert found == {0: 11, 1: 12}
    assert ray.asked == [{"num_cpus": 1, "max_retries": 2, "resources": {ROWS: 0.001}}] * 2
    assert {done.result() for done in Cluster("head:1").run(tasks.add, 10, [(1,)], tries=1)} == {11}
    assert ray.asked[-1] == {"num_cpus": 1, "max_retries": 0, "resources": None}


def test_errors_of_tasks_and_lost_workers_of_a_cluster_are_told_apart(ray, monkeypatch):
    monkeypatch.setattr(tasks.os, "_exit", sys.exit)
    (refused,) = Cluster("head:1").run(tasks.refuse, None, [(3,)])
    assert isinstance(refused.error, KeyError)
    (lost,) = Cluster("head:1").run(tasks.die, None, [()])
    with pytest.raises(WorkerLostError, match=r"^its worker was lost 3 times: the worker died$"):
        lost.result()


def test_who_has_enough_of_a_cluster_ends_what_still_runs(ray):
    running = Cluster("head:1").run(tasks.add, 10, [(1,), (2,), (3,)])
    next(running)
    running.close()
    assert len(ray.cancelled) == 2


def test_a_cluster_whose_workers_may_not_see_rows_is_refused_in_a_line(ray):
    ray.resources = {"CPU": 2.0}
    with pytest.raises(ConfigError, match=r"no worker may see rows; .*--resources='\{\"rows\": 1000\}' to ray start$"):
        list(Cluster("head:1").run(tasks.add, 1, [(1,)], rows=True))


def test_workers_with_other_code_compute_nothing(ray, monkeypatch):
    versions = iter(["the command's", "a worker's"])
    monkeypatch.setattr("experiments.runs.cluster.code_version", lambda sources: next(versions))
    with pytest.raises(OtherCodeError, match="another version of the code"):
        [done.result() for done in Cluster("head:1").run(tasks.add, 1, [(1,)])]


@pytest.mark.slow
def test_shadow_pipelines_of_a_cluster_are_those_of_this_process(nodes, tiny_markets, tmp_path):
    plan = plan_of(tiny(ctr={"max_epochs": 2}), tiny_markets, "federated-codes")
    here, there = (
        train_shadows(plan, n_shadows=4, store=Store(tmp_path / name), executor=executor)
        for name, executor in (("here", WorkerProcesses(1)), ("there", Cluster(nodes[0])))
    )
    for view, values in here.observed["federated-codes"].items():
        np.testing.assert_array_equal(values, there.observed["federated-codes"][view])


def test_no_cluster_is_a_mistake_in_a_line(ray):
    def refuse(**_):
        raise ConnectionError("nobody\nanswers")

    ray.init = refuse
    said = r"^--cluster h:1: no Ray cluster that this machine is part of: nobody answers$"
    with pytest.raises(ConfigError, match=said):
        Cluster("h:1")


def test_where_nobody_listens_ray_is_not_asked(ray, monkeypatch):
    """Ray asks for many minutes, in lines of its own."""
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", ray)
    ray.init = pytest.fail
    with pytest.raises(ConfigError, match=r"^--cluster 127.0.0.1:1: no Ray cluster .* refused"):
        Cluster("127.0.0.1:1")


def test_without_ray_a_cluster_is_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^--cluster: Ray is not installed; the extra simulation has it"):
        Cluster("h:1")


def test_what_was_changed_on_its_way_is_not_opened(monkeypatch):
    monkeypatch.setattr(base, "_opened", {})
    sent = Shipped.of({"rows": [1, 2]})
    with pytest.raises(ShippedError, match="is not what has the hash"):
        opened(sent.digest, lambda: sent.data[:-1] + b"!")
    fetched = []
    for _ in range(2):
        assert opened(sent.digest, lambda: fetched.append(1) or sent.data) == {"rows": [1, 2]}
    assert fetched == [1]  # once, however many tasks
