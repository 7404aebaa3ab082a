"""Signals to the commands that start processes: none of the federation is left, however its parent ends."""

import itertools
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from experiments.commands.interruption import INTERRUPTED
from experiments.deploy import adopting, orphans, tools
from experiments.deploy import processes as module
from experiments.deploy.federation import federation_up
from experiments.deploy.homes import Homes
from experiments.deploy.processes import Processes, interruptible
from experiments.deploy.proxies import nginx
from experiments.deploy.tools import bounded
from tests.commands import forked_commands
from tests.conftest import TINY
from tests.processes import start

TOKEN = "FEDMM_TEST_TOKEN"
needs_nginx = pytest.mark.skipif(nginx() is None, reason="nginx is not installed: apt-get install nginx")


class Command:
    """``fedmm deploy …`` in a process of its own, whose descendants are known by a token in their environment."""

    def __init__(self, program: Path, folder: Path, *arguments: str) -> None:
        self.folder, self.token = folder, secrets.token_hex(8)
        config = folder / "tiny.yaml"
        config.write_text(yaml.safe_dump(TINY | {"federation": {"rounds": 30}}))
        command = [str(program), "deploy", arguments[0], *self._paths(arguments[0], config), "--for", "400"]
        self.process = subprocess.Popen(
            [*command, *arguments[1:]],
            env={**os.environ, TOKEN: self.token},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _paths(self, name, config):
        return (str(self.folder / "f"), str(config)) if name == "up" else (str(config), "--out", str(self.folder / "f"))

    def log(self, name):
        path = self.folder / "f" / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, name, text):
        deadline = time.monotonic() + 150
        while text not in self.log(name):
            assert self.process.poll() is None, "ended early"
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_a_round(self):
        """What the server writes itself: which of its lines Flower keeps in a log differs between its versions."""
        deadline = time.monotonic() + 300
        while not any('"round"' in log.read_text() for log in (self.folder / "f").glob("server/runs/*/log.jsonl")):
            assert self.process.poll() is None, "ended early"
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def living(self):
        text, found = f"{TOKEN}={self.token}".encode(), {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if text in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:120]
        return found

    def ends_with_all(self, how, seconds):
        assert len(self.living()) > 3
        self.process.send_signal(how)
        self.process.wait(seconds)
        deadline = time.monotonic() + (0 if how != signal.SIGKILL else seconds)
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == {}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """``fedmm``, a fork of what has imported it; all that it starts is as it is installed."""
    with forked_commands(tmp_path_factory.mktemp("commands"), ["fedmm"]) as folder:
        yield folder / "fedmm"


@pytest.fixture
def command(tmp_path, program):
    started = []

    def start(*arguments):
        started.append(Command(program, tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        for pid in one.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@needs_nginx
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_federation_starts_leaves_nothing(how, command):
    up = command("up")
    up.wait_for("superlink", "Started server process")
    up.ends_with_all(how, 40)


def _start(folder, homes, moment, how, drop):
    """A federation of processes that do nothing, with a signal at the so-manieth call of a function."""
    os.environ[TOKEN] = folder.name
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = "echo Uvicorn running on https://; echo waiting for the federation; echo SuperNode ID; exec sleep 50"
    start, calls = Processes.start, itertools.count(1)

    def stands_in(processes, name, command, environment):
        start(processes, name, ["sh", "-c", words], environment)

    def count(frame, event, argument):
        if next(calls) == moment:
            sys.setprofile(None)
            Dropping() if drop else os.kill(os.getpid(), how)

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), how)
            time.sleep(0)  # here it is raised

    patched = {"experiments.deploy.processes.Processes.start": stands_in}
    patched |= {"experiments.deploy.federation._listens": lambda port: True}
    patched |= {"experiments.deploy.control.register": lambda *_: None}
    with ExitStack() as stack:
        for name, value in patched.items():
            stack.enter_context(patch(name, value))
        with suppress(KeyboardInterrupt), interruptible():
            sys.setprofile(count)
            with federation_up(homes, runs=1, lifetime=60):
                sys.setprofile(None)
                made = next(calls)
                (folder / "calls").write_text(str(made))
                (folder / "up").touch()
                if 0 < made <= moment:  # no two starts make equally many: this one was over before the moment came
                    os.kill(os.getpid(), how)
                time.sleep(30)
            sys.exit(1)
    sys.exit(INTERRUPTED)


@pytest.fixture(scope="module")
def homes(founded, tmp_path_factory):
    return Homes(shutil.copytree(founded.homes.root, tmp_path_factory.mktemp("homes") / "f"))


def ends(folder, homes, moment, how, drop=False):
    folder.mkdir()
    process = start(_start, folder, homes, moment, how, drop)
    process.join(20)
    found = Command.__new__(Command)
    found.token = folder.name
    alive = process.is_alive()
    process.kill()
    assert not alive, (moment, how)
    assert process.exitcode == INTERRUPTED, (moment, how)
    assert found.living() == {}, (moment, how)


@pytest.fixture(scope="module")
def calls(tmp_path_factory, homes):
    """How many functions a start calls and leaves."""
    folder = tmp_path_factory.mktemp("all") / secrets.token_hex(8)
    folder.mkdir()
    process = start(_start, folder, homes, 0, signal.SIGTERM, False)
    while not (folder / "up").exists():
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    return int((folder / "calls").read_text())


@needs_nginx
@pytest.mark.parametrize(("how", "drop"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_at_any_moment_of_a_start_leaves_nothing(tmp_path, homes, calls, how, drop):
    """One that is raised inside a finalizer, too, which Python drops there."""
    ends(tmp_path / secrets.token_hex(8), homes, random.randrange(calls), how, drop)


@needs_nginx
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_a_hundred_moments_of_a_start_leaves_nothing(tmp_path, homes, calls, how):
    for step in range(100):
        moment = random.randrange(step * calls // 100, (step + 1) * calls // 100)
        ends(tmp_path / secrets.token_hex(8), homes, moment, how, drop=step % 4 == 0)


@needs_nginx
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_a_run_leaves_nothing(how, command):
    """SIGKILL leaves no time to end anything: the kernel ends what was started, and that what it started."""
    demo = command("demo")
    demo.wait_for("supernode-m0", "Sent successfully")
    demo.ends_with_all(how, 40)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_a_simulation_leaves_nothing(how, command):
    pytest.importorskip("ray", reason="the extra simulation is not installed")
    simulation = command("simulate")
    simulation.wait_for_a_round()
    simulation.ends_with_all(how, 60)


def test_a_process_ends_soon_after_its_parent_is_killed(tmp_path, monkeypatch):
    """One that hears SIGTERM at once; one that does not after ``KILL_AFTER`` seconds."""
    monkeypatch.setattr(tools, "KILL_AFTER", 2)
    deaf = "trap '' TERM; echo up > deaf; while true; do sleep 1; done"
    script = (
        "import subprocess, time\n"
        f"subprocess.Popen({[*bounded(60), 'sleep', '50']!r})\n"
        f"subprocess.Popen({[*bounded(60), 'sh', '-c', deaf]!r})\n"
        "time.sleep(50)\n"
    )
    token = secrets.token_hex(8)
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, TOKEN: token}, cwd=tmp_path)
    watched = Command.__new__(Command)
    watched.token = token
    while not (tmp_path / "deaf").exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + tools.KILL_AFTER + 25  # of 50: a machine may be busy
    outlived = False
    while (left := watched.living()) and time.monotonic() < deadline:
        hears, deaf = (any(text.startswith(start) for text in left.values()) for start in (b"sleep 50", b"sh -c trap"))
        outlived |= deaf and not hears
        time.sleep(0.02)
    assert left == {}
    assert outlived


def test_processes_that_do_not_hear_are_waited_for_together(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GRACE", 1.0)
    processes = Processes(tmp_path / "logs")
    for number in range(4):
        processes.start(str(number), ["sh", "-c", "trap '' TERM; echo up; while true; do sleep 1; done"], {})
    for number in range(4):
        processes.wait_for(str(number), "up")
    began = time.monotonic()
    processes.stop_all()
    assert 1.0 < time.monotonic() - began < 4.0  # one after the other: 4 at least
    assert processes.survivors() == {}


STARTS = """
import subprocess, sys, time
from pathlib import Path
from experiments.deploy.processes import Processes
script = "import subprocess; subprocess.Popen(['sleep', '50'], start_new_session=True); open('up', 'w')"
command = [sys.executable, "-I", "-c", script]
Processes(Path("logs")).start("x", command, {}) if WATCHED else subprocess.Popen(command, start_new_session=True)
time.sleep(50)
"""


@pytest.mark.parametrize("watched", [True, False])
def test_what_nothing_bounds_is_found_by_its_mark_when_its_parent_is_killed(tmp_path, watched):
    """A process that left its group, and whose own parent is gone; without the watcher it lives on."""
    token = secrets.token_hex(8)
    script = STARTS.replace("WATCHED", str(watched))
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, TOKEN: token}, cwd=tmp_path)
    found = Command.__new__(Command)
    found.token = token
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    assert any(text.startswith(b"sleep 50") for text in found.living().values())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + (20 if watched else 1)
    while (left := found.living()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert (left == {}) == watched


@pytest.mark.parametrize("adopted", [True, False])
def test_what_drops_its_environment_and_lost_its_parent_is_adopted(tmp_path, monkeypatch, adopted):
    """``env -i setsid -f``: no mark, no group, no parent. Where nobody adopts it, nothing tells whose it is."""
    hides = f"echo $$ >{tmp_path}/part; mv {tmp_path}/part {tmp_path}/up; exec sleep 50"
    processes = Processes(tmp_path / "logs")
    if not adopted:  # as it was: the command alone
        same = tmp_path / "same.py"
        same.write_text("import os, sys; os.execvp(sys.argv[1], sys.argv[1:])")
        monkeypatch.setattr(adopting, "__file__", str(same))
    processes.start("x", ["sh", "-c", f"env -i setsid -f sh -c '{hides}'; exec sleep 50"], {})
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    hidden = int((tmp_path / "up").read_text())
    assert (hidden in processes.survivors()) == adopted  # which is what the watcher sees, too
    processes.stop_all()
    lives = Path(f"/proc/{hidden}/environ").exists() and Path(f"/proc/{hidden}/cmdline").read_bytes() != b""
    if lives:
        os.kill(hidden, signal.SIGKILL)
    assert lives != adopted


def test_what_writes_over_its_mark_belongs_to_who_started_it(tmp_path):
    """As processes do that change their title: nothing in their environment tells whose they are."""
    up = tmp_path / "up"
    script = (
        "import subprocess, time\n"
        "hidden = subprocess.Popen(['sleep', '50'], env={}, start_new_session=True)\n"
        f"open({str(tmp_path / 'part')!r}, 'w').write(str(hidden.pid))\n"
        f"import os; os.replace({str(tmp_path / 'part')!r}, {str(up)!r})\n"
        "time.sleep(50)\n"
    )
    processes = Processes(tmp_path / "logs")
    processes.start("x", [sys.executable, "-I", "-c", script], {})
    while not up.exists():
        time.sleep(0.05)
    hidden = int(up.read_text())
    assert processes.mark.encode() not in Path(f"/proc/{hidden}/environ").read_bytes()
    found = processes.survivors()
    assert hidden in found
    processes.stop_all()
    assert orphans.living(found) == {}
