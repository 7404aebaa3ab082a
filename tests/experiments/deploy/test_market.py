"""A market's own process: its socket, and who is let near it."""

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.deploy import market
from experiments.deploy.federation import start_market
from experiments.deploy.flower_app.fedmm_flower.client_app import ask
from experiments.deploy.homes import prepare_homes
from experiments.deploy.market import SOCKET
from experiments.deploy.processes import Processes
from experiments.deploy.tools import bounded
from fedmm_secure.federation.requests import Request
from tests.command_line import fedmm
from tests.conftest import STATE
from tests.dishonest import DishonestServer
from tests.experiments.deploy.test_flower_engine import HOSTILE
from tests.faults import configuration


@pytest.fixture(scope="module")
def home(tmp_path_factory, forked):
    """A running market process, in a folder whose path is too long for a socket."""
    folder = tmp_path_factory.mktemp("market") / ("x" * 100)
    homes = prepare_homes(configuration(markets=3), folder)
    processes = Processes(folder / "logs")
    start_market(processes, homes, "m0", runs=1, lifetime=240.0)
    processes.wait_for("market-m0", "waiting for the federation")
    yield homes.market("m0")
    assert not processes.ended("market-m0")  # nothing that the tests did brought it down
    processes.stop_all()
    assert not (homes.market("m0") / SOCKET).exists()


def hello(home):
    """An honest server's first question."""
    server = DishonestServer(home.parents[1], "ab" * 16)
    return Request("hello", server.run, start=server.start()).to_bytes()


def test_it_answers_on_a_socket_for_its_owner_alone(home):
    assert (home / SOCKET).stat().st_mode & 0o077 == 0
    assert "message" in json.loads(ask(home, hello(home)))


@pytest.mark.parametrize("request_", HOSTILE)
def test_hostile_requests_leave_it_running(home, request_):
    assert "absent" in json.loads(ask(home, request_))


def test_callers_that_break_off_leave_it_running(home):
    folder = os.open(home, os.O_RDONLY)
    for sent in (b"", b"\x00\x00\x00\x10half", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff" + b"\x7f" * 8):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            caller.sendall(sent)
    os.close(folder)
    assert "message" in json.loads(ask(home, hello(home)))


def test_callers_that_are_slow_are_let_go_and_others_served_after_them(tmp_path, monkeypatch):
    monkeypatch.setattr(market, "_PATIENCE", 0.5)
    clock = SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr(market, "time", clock)
    home = prepare_homes(configuration(markets=3), tmp_path / "f").market("m1")
    process = threading.Thread(target=market.run_market, args=(home,), kwargs={"lifetime": 120.0})
    process.start()
    deadline = time.monotonic() + 60
    while not (home / SOCKET).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    folder = os.open(home, os.O_RDONLY)
    stalled = []
    for sent in (b"", b"\x00\x00\x00\x10half", b"\x00\x00\x00\x10"):  # nothing, a length and half a body, a length
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        caller.sendall(sent)
        stalled.append(caller)
    os.close(folder)
    start = time.monotonic()
    answer = json.loads(ask(home, b"{}"))
    assert "absent" in answer
    assert 1.4 < time.monotonic() - start < 8  # the three in front were given half a second each
    for caller in stalled:
        caller.settimeout(5)
        assert caller.recv(1) == b""  # hung up
        caller.close()
    clock.monotonic = lambda: time.monotonic() + 120.0  # its life is over
    process.join()


def test_a_second_process_for_the_same_market_is_refused(home, capsys):
    status, _, err = fedmm(capsys, "deploy", "market", home, "--for", 20)
    assert status == 2
    assert "another process answers for this market" in err
    assert "absent" in json.loads(ask(home, b"{}"))  # the first still has the socket


def test_what_it_writes_is_for_its_owner_alone(home):
    ask(home, hello(home))
    ask(home, b"{}")  # refused, and noted
    written = [home / market.LOCK, home / "log.jsonl", *(home / "runs").rglob("*")]
    assert len(written) >= 2
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_data_that_others_may_read_is_refused(tmp_path, capsys):
    homes = prepare_homes(configuration(markets=3), tmp_path / "f")
    (homes.market("m1") / "data").chmod(0o755)
    status, _, err = fedmm(capsys, "deploy", "market", homes.market("m1"), "--for", 20)
    assert status == 2
    assert "others may look into it; chmod 700 it" in err


def test_it_stops_by_itself(tmp_path, capsys):
    home = prepare_homes(configuration(markets=3), tmp_path / "f").market("m1")
    (home / SOCKET).touch()  # left behind by one that was killed, as the lock is not
    start = time.monotonic()
    assert fedmm(capsys, "deploy", "market", home, "--for", 2)[0] == 0
    assert time.monotonic() - start < 60
    assert not (home / SOCKET).exists()


def test_processes_are_bounded_and_ended_with_all_that_they_started(tmp_path):
    script = "sleep 99 & echo up; sleep 99"
    processes = Processes(tmp_path)
    processes.start("one", [*bounded(60), "sh", "-c", script], {})
    processes.wait_for("one", "up")
    group = processes.running["one"].pid
    processes.stop("one")
    listed = ["ps", "-o", "stat=", "--no-headers", "-g", str(group)]
    left = subprocess.run(listed, capture_output=True, text=True, check=False)
    assert not [state for state in left.stdout.split() if not state.startswith("Z")]
    assert Path(tmp_path / "one.log").exists()


def test_a_machine_that_remembers_nothing_is_said_before_anybody_is_answered(founded, tmp_path, capsys, monkeypatch):
    """As under the first units, which left it no folder: each run was refused once all had agreed on it."""
    server = DishonestServer.copy(founded, tmp_path / "f")
    monkeypatch.delenv(STATE)
    monkeypatch.setenv("HOME", "/proc/nobody")
    status, _, err = fedmm(capsys, "deploy", "market", server.homes.market("m0"), "--for", 20)
    assert (status, err.count("\n")) == (2, 1)
    assert "XDG_STATE_HOME: nothing can be kept in ~/.local/state" in err
    hellos, order = server.hellos(), server.order(0)
    statements = server.state(order, hellos=hellos)
    assert server.ask("m0", "update", order=order, statements=statements).absent.startswith("failed")  # as it was
    assert {fields["kind"] for event, fields in server.logged["m0"] if event == "refused"} == {"AccountError"}
