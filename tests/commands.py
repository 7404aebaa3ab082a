"""Commands as processes of their own, forked from one that has imported what they run: a start of each costs seconds.

A folder holds a script for each command. It asks for a fork, which gets its arguments, environment, folder and open
files, and stands for it: who starts, signals, kills or waits for the script does so with the command.
"""

import atexit
import json
import logging
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import tests
from tests.processes import start

COMMANDS = {
    "fedmm": "experiments.cli:main",
    "flower-superlink": "flwr.superlink.cli:flower_superlink",
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flower-supernode": "flwr.supernode.cli:flower_supernode",
    "flwr": "flwr.cli.app:app",
    "flwr-clientapp": "flwr.supernode.cli:flwr_clientapp",
    "flwr-serverapp": "flwr.superlink.cli:flwr_serverapp",
}  # as entry points name them
ASKING = Path(tests.__file__).with_name("forked_command.py")


@contextmanager
def forked_commands(folder: Path, names: Iterable[str] = COMMANDS) -> Iterator[Path]:
    """The folder, with the commands of these names; nobody is forked any more on leaving."""
    address = folder / "asked"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        for name in names:
            script = folder / name
            text = ASKING.read_text(encoding="utf-8").replace('"SERVER"', repr(str(address)))
            script.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
            script.chmod(0o700)
        server = start(serve, listener)
    try:
        yield folder
    finally:
        server.kill()
        server.join()


def serve(listener: socket.socket) -> None:
    """Fork for whoever asks."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that look after the commands
    while True:
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _look_after(caller)
        caller.close()


def _look_after(caller: socket.socket) -> NoReturn:
    """A command that a script asked for: it gets the script's signals, and does not outlive it."""
    head, files, _, _ = socket.recv_fds(caller, 4, 3)
    length = int.from_bytes(head, "big")
    request = json.loads(caller.recv(length, socket.MSG_WAITALL))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        caller.close()
        _become(request, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(command)
    while ended not in select.select([ended, caller], [], [])[0]:
        for number in caller.recv(16) or [signal.SIGKILL]:
            os.kill(command, number)
    _, status = os.waitpid(command, 0)
    try:
        caller.send(os.waitstatus_to_exitcode(status).to_bytes(2, "big", signed=True))
    finally:
        os._exit(0)


def _become(request: Mapping[str, Any], files: list[int]) -> NoReturn:
    """What a fresh process would be."""
    os.setsid()
    for own, given in enumerate(files):
        os.dup2(given, own)
        os.close(given)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = [request["command"], *request["arguments"]]
    random.seed()
    atexit._clear()
    _as_imported_afresh()
    module, _, function = COMMANDS[request["command"]].partition(":")
    os._exit(_status(getattr(import_module(module), function)))


def _status(entry: Any) -> int:
    try:
        status = entry()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else int(status is not None)


def _as_imported_afresh() -> None:
    """What Flower reads when it is imported: where its log goes, and whether it reports its use.

    And a SuperNode, which looks for messages every three seconds, looks more often.
    """
    from flwr.supercore import telemetry
    from flwr.supernode import start_client_internal

    start_client_internal.time = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 10))

    telemetry.FLWR_TELEMETRY_ENABLED = os.environ.get("FLWR_TELEMETRY_ENABLED", "1")
    for handler in logging.getLogger("flwr").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
