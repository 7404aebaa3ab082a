"""Who computes elsewhere: a cluster that is asked from a distance, other code on its nodes, somebody's interpreter."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from experiments.benchmarks.ctr.worker import FUXICTR, Worker
from experiments.runs.cluster import COMPUTING, Cluster
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage import provenance

SECRET = "FEDMM_PASSPHRASE"


@pytest.fixture
def ray(monkeypatch):
    """Ray, as far as it is begun; ``asked`` are the addresses that it was asked for."""
    found = SimpleNamespace(asked=[], exceptions=ModuleType("ray.exceptions"))
    found.init = lambda address, **_: found.asked.append(address)
    monkeypatch.setitem(sys.modules, "ray", found)
    return found


@pytest.mark.parametrize("address", ["ray://head:10001", "anyscale://x", "local", "auto", "", "head", "head:1 --x"])
def test_a_client_at_a_distance_would_hand_rows_to_the_head(ray, address):
    """Ray's client keeps what it puts on the head's node, whether that may see rows or not."""
    sys.modules["ray"].init(address=address)
    assert ray.asked == [address]  # what was asked of Ray before, unread
    with pytest.raises(ConfigError, match=r"^--cluster .*HOST:PORT") as refused:
        Cluster(address)
    assert ray.asked == [address]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.7:6379", "[::1]:6379"])
def test_a_node_of_the_cluster_asks_the_head(ray, monkeypatch, address):
    reached = []
    monkeypatch.setattr("experiments.runs.cluster._reach", reached.append)
    Cluster(address)
    assert reached == [address]
    assert ray.asked == [address]


def test_other_code_that_attacks_is_other_code(monkeypatch, tmp_path):
    """``attacks`` trains shadow pipelines, ``experiments`` runs cells: a worker may have those otherwise."""
    for name in COMPUTING:
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("one = 1\n")
    monkeypatch.setattr(provenance.resources, "files", lambda name: tmp_path / name)
    version = provenance.code_version.__wrapped__
    results, everything = version(), version(COMPUTING)
    for name in ("attacks", "experiments"):
        (tmp_path / name / "code.py").write_text("one = 2\n")
        assert version() == results  # what was compared before says nothing of it
        assert version(COMPUTING) != everything
        everything = version(COMPUTING)


def script(folder: Path, text: str) -> Path:
    path = folder / "python"
    path.write_text(text)
    path.chmod(0o700)
    return path


def test_a_passphrase_does_not_reach_somebody_s_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv(SECRET, "of a market's identity")
    python = script(tmp_path, f'#!/bin/sh\nread order\nprintf \'{{"version": "%s"}}\\n\' "[${SECRET}]"\n')
    order = '{"do": "version"}\n'
    said = subprocess.run([python], input=order, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert json.loads(said) == {"version": "[of a market's identity]"}  # with the command's own environment
    with Worker(python, tmp_path) as worker:
        assert worker.version(FUXICTR) == "[]"


@pytest.mark.parametrize(
    "answer",
    [
        "hello",
        "[]",
        "{}",
        '{"version": 3}',
        '{"seconds": NaN, "auc": 0.5, "passes": 1}',
        '{"seconds": 1.0}',
        "[" * 3000,
    ],
)
def test_an_interpreter_that_answers_something_else(tmp_path, answer):
    (tmp_path / "answer").write_text(f"{answer}\n")
    python = script(tmp_path, f"#!/bin/sh\nwhile read order; do cat {tmp_path / 'answer'}; done\n")
    with Worker(python, tmp_path) as worker:
        for ask in (lambda: worker.version(FUXICTR), lambda: worker.train(FUXICTR, tmp_path, {}, 0)):
            with pytest.raises(ConfigError, match=r"^--python .* answered ") as refused:
                ask()
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 1000


def test_what_an_interpreter_started_ends_with_it(tmp_path):
    """``python`` may be a script that starts another: that one goes on with the rows that it has read."""
    kept = tmp_path / "pid"
    python = script(
        tmp_path, f'#!/bin/sh\nsleep 60 &\necho $! >{kept}\nread order\necho \'{{"version": "1"}}\'\nwait\n'
    )
    with Worker(python, tmp_path) as worker:
        assert worker.version(FUXICTR) == "1"
        child = int(kept.read_text())
        assert alive(child)
    for _ in range(50):
        if not alive(child):
            return
        time.sleep(0.02)
    os.kill(child, 9)
    pytest.fail("what the interpreter started goes on")


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
