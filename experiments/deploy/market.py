"""A market's own process: answers requests on a socket that only this machine can reach."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.reports.run import write_report
from experiments.reports.text import figure_text
from experiments.run_directory import Log, read_config
from fedmm_secure import provenance
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.members import Membership
from fedmm_secure.federation.requests import MAX_REQUEST_BYTES
from fedmm_secure.market_service import MarketService
from fedmm_secure.pipeline import Listener
from privacy.aggregation.keys import KeyDirectory

SOCKET = "market.sock"
_PATIENCE = 60.0  # seconds that a caller may take to hand over a request


def run_market(
    home: Path,
    *,
    passphrase: bytes | None = None,
    max_runs: int = 1,
    lifetime: float | None = None,
    group_socket: bool = False,
) -> int:
    """Answer requests until ``max_runs`` runs are concluded or ``lifetime`` seconds have passed; returns the former.

    With ``group_socket``, members of the process's group may use the socket: the SuperNode as another user.

    Raises:
        InputError: configuration, keys or data cannot be used, or another process answers for this home.
    """
    service = open_service(home, passphrase=passphrase, max_runs=max_runs, log=Log(home))
    market = service.market
    _check_private(home)
    deadline = None if lifetime is None else time.monotonic() + lifetime
    concluded = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _listening(home, 0o007 if group_socket else 0o077) as listener:
        print(f"market {market}: waiting for the federation", flush=True)
        try:
            while concluded < max_runs:
                left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if left <= 0:
                    break
                if select.select([listener], [], [], left)[0]:
                    caller, _ = listener.accept()
                    _serve(caller, service)
                for run, metrics in service.conclude_finished():
                    directory = home / "runs" / run
                    write_report(directory)
                    concluded += 1
                    auc = figure_text(metrics["markets"][market]["auc"])
                    print(f"market {market}: run {run}: AUC {auc}", flush=True)
        except KeyboardInterrupt:
            print(f"market {market}: stopped", flush=True)
    return concluded


def _check_private(home: Path) -> None:
    """Raises ``RunDirectoryError`` if anyone but the owner may look into keys, data or runs."""
    (home / "runs").mkdir(mode=0o700, exist_ok=True)
    for name in ("keys", "data", "runs"):
        path = home / name
        if path.exists() and path.stat().st_mode & 0o077:
            raise RunDirectoryError(f"{path}: others may look into it; chmod 700 it")


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

    def begin(directory: Path) -> None:
        provenance.begin(directory, config)

    name = member.identity.card.name
    return MarketService(config, name, member, home / "runs", max_runs=max_runs, log=log, begin=begin)


def _serve(caller: socket.socket, service: MarketService) -> None:
    """One request of one caller; whoever is slow or breaks off is let go."""
    with Connection(caller.detach()) as connection:
        try:
            if connection.poll(_PATIENCE):
                connection.send_bytes(service.answer(connection.recv_bytes(MAX_REQUEST_BYTES)))
        except (OSError, EOFError):
            return
    service.settle()  # once the caller has its answer


@contextmanager
def _listening(home: Path, umask: int) -> Iterator[socket.socket]:
    """The market's socket; a home has one process."""
    path = home / SOCKET
    folder = os.open(home, os.O_RDONLY)
    short = f"/proc/self/fd/{folder}/{SOCKET}"  # paths of sockets are limited to 107 bytes
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if _answers(short):
                raise RunDirectoryError(f"{path}: another process answers for this market")
            path.unlink()  # left behind by a killed process
        previous = os.umask(umask)
        try:
            listener.bind(short)
        finally:
            os.umask(previous)
        listener.listen(8)
        yield listener
        path.unlink(missing_ok=True)
    finally:
        listener.close()
        os.close(folder)


def _answers(path: str) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
        return True
    except OSError:
        return False
    finally:
        probe.close()
