"""Ctrl-C, wherever it comes, ends with status 130 and a command that goes on."""

import errno
import json
import os
import re
import resource
import shlex
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from joblib.externals.loky.process_executor import TerminatedWorkerError

import experiments
import experiments.first_run.quickstart  # binds what is replaced here: not for the first time while it is
from tests.command_line import fedmm
from tests.conftest import tiny

ROOM = Path(experiments.__file__).parent
SOURCES = sorted(ROOM.rglob("*.py"))


def stopping(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("experiments.commands.budget.resolve", ["budget", "my file.yaml"]),
        ("experiments.verification.run.examine_run", ["verify", "runs/a b"]),
        ("fedmm_secure.data.prepare.prepare_markets", ["data", "info"]),
        ("experiments.commands.list_runs.list_runs", ["runs", "my runs"]),
        ("experiments.benchmarks.noise.measure_noise", ["bench", "noise", "--repeat", "3"]),
    ],
)
def test_what_keeps_nothing_is_run_again(monkeypatch, tmp_path, capsys, function, words):
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(function, stopping)
    status, _, err = fedmm(capsys, *words)
    assert status == 130
    assert err.splitlines() == [f"fedmm: stopped; run it again with: {shlex.join(['fedmm', *words])}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_unwinds_as_ctrl_c_does(monkeypatch, capsys, number):
    """Pools of workers are ended then, and warn of nothing."""
    before, unwound = signal.signal(number, signal.SIG_DFL), []  # whatever the tests were started with, nohup say

    def work(*_, **__):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            unwound.append(True)

    monkeypatch.setattr("experiments.commands.list_runs.list_runs", work)
    try:
        status, _, err = fedmm(capsys, "runs", "mine")
        assert (status, unwound) == (130, [True])
        assert err == "fedmm: stopped; run it again with: fedmm runs mine\n"
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def hangs_up(*_, **__):
    os.kill(os.getpid(), signal.SIGHUP)
    return []


def test_what_was_ignored_before_stays_ignored(monkeypatch, capsys):
    """``nohup`` has SIGHUP ignored; the command goes on when its terminal is gone."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr("experiments.commands.list_runs.list_runs", hangs_up)
    try:
        _, _, err = fedmm(capsys, "runs", "mine")
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert "stopped" not in err


def test_a_run_goes_on_from_its_directory_once_it_has_one(monkeypatch, capsys, tmp_path):
    out = tmp_path / "it's mine"
    monkeypatch.setattr("experiments.runs.execution.execute", stopping)
    status, _, err = fedmm(capsys, "run", "synthetic", "--out", out)
    assert status == 130
    assert "run it again" in err

    def begun(directory, *_, **__):
        directory.mkdir()
        (directory / "config.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.runs.execution.execute", begun)
    status, _, err = fedmm(capsys, "run", "synthetic", "--out", out, "--quiet")
    assert status == 130
    _, _, command = err.strip().partition("go on with: ")
    assert shlex.split(command) == ["fedmm", "run", "--resume", "--out", str(out)]


def test_a_sweep_goes_on_from_its_directory(monkeypatch, capsys, tmp_path):
    grid, out = tmp_path / "grid.yaml", tmp_path / "a sweep"
    grid.write_text("base: quickstart\nblocks: [{axes: {federation.rounds: [1]}}]\nseeds: [0]\n")
    monkeypatch.setattr("experiments.sweep.scheduler.run_cells", stopping)
    monkeypatch.setattr("experiments.sweep.table.write_table", lambda _: None)
    status, _, err = fedmm(capsys, "sweep", grid, "--out", out, "--quiet")
    assert (status, err.strip().rpartition("; ")[2]) == (130, f"go on with: fedmm sweep --resume --out '{out}'")


def test_printed_commands_quote_their_paths():
    """No text puts a path behind a command as it is: ``command_text`` does."""
    bare = re.compile(r"""f["'][^"']*fedmm [a-z]+[^"']*\{""")
    assert bare.search('f"go on: fedmm run {path}"')
    found = [path for path in SOURCES if bare.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_shell_completes(monkeypatch, capsys):
    monkeypatch.setenv("_FEDMM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "fedmm ver")
    monkeypatch.setenv("COMP_CWORD", "1")
    status, out, _ = fedmm(capsys)
    assert (status, out.split()) == (0, ["verify"])


@contextmanager
def little_memory(more):
    """A real limit of this process's address space, ``more`` bytes above what it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this kernel does not tell how large a process is")
def test_a_run_that_runs_out_of_memory_says_so_and_goes_on_to_the_same_result(monkeypatch, tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(ctr={"baselines": ["popularity"]}).model_dump(mode="json")))
    assert fedmm(capsys, "run", config, "--out", tmp_path / "whole", "--quiet")[0] == 0
    command = ["run", config, "--out", tmp_path / "short", "--quiet"]
    for need in (lambda *_: np.ones(2**28), lambda *_: torch.ones(2**29)):  # 2 GB each
        with monkeypatch.context() as patch, little_memory(2**30):
            patch.setattr("fedmm_secure.ctr.build.MarketTrainer", need)
            status, _, err = fedmm(capsys, *command)
        (line,) = err.splitlines()
        assert status == 1
        assert line.startswith("fedmm: out of memory (")
        command = shlex.split(line.split("go on with: fedmm ")[1])
    assert fedmm(capsys, *command)[0] == 0
    whole, short = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "short"))
    assert short["macro"] == whole["macro"]


@contextmanager
def full_disk(after):
    """No file lasts once so many have."""
    sync, left = os.fsync, iter(range(after))

    def fsync(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def test_a_run_whose_disk_is_full_says_so_and_goes_on_to_the_same_result(tmp_path, capsys):
    """At three places, one after the other: while it is opened, between rounds, and after them."""
    config = tmp_path / "tiny.yaml"
    settings = tiny(ctr={"baselines": ["popularity"], "model": "logistic"})
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert fedmm(capsys, "run", config, "--out", tmp_path / "whole", "--quiet")[0] == 0
    command = ["run", config, "--out", tmp_path / "short", "--quiet"]
    for after in (20, 60, 90):
        with full_disk(after):
            status, _, err = fedmm(capsys, *command)
        (line,) = err.splitlines()
        assert status == 1
        assert "the disk is full: free some, files are as they were before; go on with: fedmm run --resume" in line
        command = shlex.split(line.split("go on with: fedmm ")[1])
    assert fedmm(capsys, *command)[0] == 0
    whole, short = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "short"))
    assert short["macro"] == whole["macro"]
    assert not list((tmp_path / "short").rglob(".*.tmp"))


def test_a_full_disk_where_nothing_is_kept_is_run_again(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x/page.html")

    monkeypatch.setattr("experiments.commands.list_runs.list_runs", full)
    status, _, err = fedmm(capsys, "runs", "mine")
    assert status == 1
    assert err.startswith("fedmm: /home/x/page.html: the disk is full")
    assert err.endswith("run it again with: fedmm runs mine\n")
    monkeypatch.setattr("experiments.commands.list_runs.list_runs", lambda *_: Path("/nowhere/at/all").read_bytes())
    with pytest.raises(FileNotFoundError):
        fedmm(capsys, "runs", "mine")


def test_a_worker_that_is_killed_and_other_errors(monkeypatch, capsys):
    def killed(*_, **__):
        raise TerminatedWorkerError("A worker process was unexpectedly terminated")

    monkeypatch.setattr("experiments.commands.list_runs.list_runs", killed)
    status, _, err = fedmm(capsys, "runs", "mine")
    assert status == 1
    assert err.endswith("free some (a run with workers: 1 needs less); run it again with: fedmm runs mine\n")
    monkeypatch.setattr("experiments.commands.list_runs.list_runs", lambda *_: int("bug"))
    with pytest.raises(ValueError, match="bug"):
        fedmm(capsys, "runs", "mine")
