"""A market's own process: answers requests on a socket that only this machine can reach."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.deploy.alone import alone
from experiments.deploy.framing import receive, send
from experiments.deploy.processes import interruptible
from experiments.presentation.console import command_text, say
from experiments.presentation.text import figure_text
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.members import Membership
from fedmm_secure.pipeline import Listener
from fedmm_secure.service.market_service import MarketService
from fedmm_secure.storage.run_directory import Log, begin, read_config
from privacy.accounting.places import state_folder
from privacy.aggregation.keys import KeyDirectory
from privacy.files import private_folder

SOCKET, LOCK = "market.sock", "market.lock"
_PATIENCE = 10.0  # seconds that a caller may take to hand over a request, and to take the reply


def run_market(
    home: Path,
    *,
    passphrase: bytes | None = None,
    max_runs: int = 1,
    lifetime: float | None = None,
    group_socket: bool = False,
) -> int:
    """Answer until ``max_runs`` runs are concluded, earlier ones included, or ``lifetime`` seconds have passed.

    Returns how many this process has concluded.

    With ``group_socket``, members of the process's group may use the socket: the SuperNode as another user.

    Raises:
        InputError: configuration, keys or data cannot be used, or another process answers for this home.
    """
    with _private_files(), alone(home / LOCK, "market"), interruptible():
        _check_private(home)
        _check_memory()
        service = open_service(home, passphrase=passphrase, max_runs=max_runs, log=Log(home))
        with _listening(home, 0o007 if group_socket else 0o077) as listener:
            say(f"market {service.market}: waiting for the federation", flush=True)
            return _answer(listener, service, home, max_runs, lifetime)


def _answer(listener: socket.socket, service: MarketService, home: Path, max_runs: int, lifetime: float | None) -> int:
    """Until ``max_runs`` runs are concluded, the time is over, or the process is told to stop."""
    deadline = None if lifetime is None else time.monotonic() + lifetime
    market, before, done = service.market, service.concluded, 0
    try:
        while before + done < max_runs:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left <= 0:
                break
            if select.select([listener], [], [], left)[0]:
                _serve_next(listener, service)
            for run, metrics in service.conclude_finished():
                from experiments.reports.run import write_report  # what draws, which who waits for a run need not load

                directory = home / "runs" / run
                done += 1
                try:
                    write_report(directory)
                except OSError as error:
                    again = command_text("report", directory)
                    say(f"market {market}: run {run}: no page: {error}; make it with: {again}", flush=True)
                auc = figure_text(metrics["markets"][market]["auc"])
                say(f"market {market}: run {run}: AUC {auc}", flush=True)
    except KeyboardInterrupt:
        say(f"market {market}: stopped", flush=True)
    return done


@contextmanager
def _private_files() -> Iterator[None]:
    """What is written inside is for its owner alone."""
    previous = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(previous)


def _check_private(home: Path) -> None:
    """Raises ``RunDirectoryError`` if anyone but the owner may look into keys, data or runs."""
    (home / "runs").mkdir(mode=0o700, exist_ok=True)
    for name in ("keys", "data", "runs"):
        path = home / name
        if path.exists() and path.stat().st_mode & 0o077:
            raise RunDirectoryError(f"{path}: others may look into it; chmod 700 it")


def _check_memory() -> None:
    """Raises ``RunDirectoryError`` where this machine cannot remember how far a privacy account had come.

    Its operator hears it now: every run would be refused once all had agreed on it.
    """
    try:
        folder = state_folder()
        private_folder(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, RuntimeError) as error:  # the latter of a user without a home
        raise RunDirectoryError(
            f"XDG_STATE_HOME: nothing can be kept in {os.environ.get('XDG_STATE_HOME') or '~/.local/state'}: {error}; "
            "name a folder outside of HOME for what this machine remembers of privacy accounts"
        ) from error


def open_service(
    home: Path,
    *,
    passphrase: bytes | None = None,
    max_runs: int = 1,
    log: Listener = lambda event, fields: None,
) -> MarketService:
    """The service of a home's market, from what is on disk."""
    keys, config = KeyDirectory(home / "keys"), read_config(home)
    member = Membership(keys, keys.identity(passphrase))

    def started(directory: Path) -> None:
        begin(directory, config)

    name = member.identity.card.name
    return MarketService(config, name, member, home / "runs", max_runs=max_runs, log=log, begin=started)


def _serve_next(listener: socket.socket, service: MarketService) -> None:
    try:
        caller, _ = listener.accept()
    except OSError:  # the caller is gone already, or there are too many open files
        time.sleep(0.1)
        return
    _serve(caller, service)


def _serve(caller: socket.socket, service: MarketService) -> None:
    """One request of one caller; whoever is slow or breaks off is let go."""
    with caller, suppress(OSError):
        send(caller, service.answer(receive(caller, service.longest_request, _PATIENCE)), _PATIENCE)
    service.settle()  # once the caller has its answer, or is gone


@contextmanager
def _listening(home: Path, umask: int) -> Iterator[socket.socket]:
    """The market's socket; the home is locked, so what lies there was left behind by a killed process."""
    path = home / SOCKET
    folder = os.open(home, os.O_RDONLY)
    short = f"/proc/self/fd/{folder}/{SOCKET}"  # paths of sockets are limited to 107 bytes
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        previous = os.umask(umask)
        try:
            listener.bind(short)
        finally:
            os.umask(previous)
        listener.listen(8)
        yield listener
    finally:
        path.unlink(missing_ok=True)
        listener.close()
        os.close(folder)
