"""The processes of a federation on one machine: SuperLink, and a SuperNode and a market process for each market."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.deploy.certificates import CA_CERTIFICATE, NODE_KEY, NODE_PUBLIC_KEY, SERVER_CERTIFICATE, SERVER_KEY
from experiments.deploy.homes import ADDRESS, CONNECTION, Homes, free_ports, write_connection
from experiments.deploy.market import SOCKET
from fedmm_secure.errors import ConfigError, RunDirectoryError

HOME_VARIABLE = "FEDMM_SERVER_HOME"
# no usage reports and no look-ups of new versions: nothing but the federation's messages leaves
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
STARTUP_SECONDS = 90.0
_PAUSE = 0.2
_GRACE = 10.0


class DeploymentError(Exception):
    """A process of the federation did not start, or ended early."""


@dataclass
class Processes:
    """Running processes by name, each the leader of a group of its own."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **QUIET, **environment},
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        path = self.logs / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait_for(self, name: str, text: str) -> None:
        """Until a process has written ``text``; raises ``DeploymentError`` if it ends or takes too long."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while text not in self.log(name):
            if self.running[name].poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.log(name).splitlines()[-5:])
                raise DeploymentError(f"{name} did not start; the end of {self.logs / name}.log:\n{last}")
            time.sleep(_PAUSE)

    def ended(self, name: str) -> bool:
        return self.running[name].poll() is not None

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process and what it started."""
        process = self.running.pop(name)
        for signalled in (how, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signalled)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue
            if not _group_lives(process.pid):
                return

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def federation_up(homes: Homes, *, runs: int, lifetime: float) -> Iterator[Processes]:
    """All processes of a federation, on 127.0.0.1 and with TLS; ended on leaving, and by themselves after ``lifetime``.

    Raises:
        DeploymentError: one did not start.
    """
    markets = homes.markets
    processes = Processes(homes.root / "logs")
    link, *ports = free_ports(1 + len(markets))
    write_connection(homes, link, [f'root-certificates = "{homes.tls / CA_CERTIFICATE}"'])
    try:
        start_superlink(processes, homes, link, lifetime)
        for market, port in zip(markets, ports, strict=True):
            start_market(processes, homes, market, runs=runs, lifetime=lifetime)
            _register(homes, market)
            start_supernode(processes, homes, market, link, port, lifetime)
        for market in markets:
            processes.wait_for(f"market-{market}", "waiting for the federation")
            processes.wait_for(f"supernode-{market}", "SuperNode ID")
        yield processes
    finally:
        processes.stop_all()


def start_superlink(processes: Processes, homes: Homes, port: int, lifetime: float) -> None:
    """The SuperLink, which runs the server of each run."""
    tls = homes.tls
    command = [
        *bounded(lifetime),
        flower_tool("flower-superlink"),
        *("--ssl-certfile", str(tls / SERVER_CERTIFICATE)),
        *("--ssl-keyfile", str(tls / SERVER_KEY)),
        *("--ssl-ca-certfile", str(tls / CA_CERTIFICATE)),
        *("--host", ADDRESS, "--port", str(port)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(homes.server / "superlink.db")),
    ]
    environment = {HOME_VARIABLE: str(homes.server), "FLWR_HOME": str(homes.server / "flower"), "PATH": search_path()}
    processes.start("superlink", command, environment)
    processes.wait_for("superlink", "Uvicorn running on https://")


def start_market(processes: Processes, homes: Homes, market: str, *, runs: int, lifetime: float) -> None:
    """A market's own process."""
    (homes.market(market) / SOCKET).unlink(missing_ok=True)
    command = [flower_tool("fedmm"), "deploy", "market", str(homes.market(market))]
    processes.start(
        f"market-{market}", [*command, "--runs", str(runs), "--for", str(lifetime)], {"PATH": search_path()}
    )


def start_supernode(processes: Processes, homes: Homes, market: str, link: int, port: int, lifetime: float) -> None:
    """A market's SuperNode, which relays between SuperLink and the market's process."""
    home = homes.market(market)
    command = [
        *bounded(lifetime),
        flower_tool("flower-supernode"),
        *("--root-certificates", str(homes.tls / CA_CERTIFICATE)),
        *("--superlink", f"{ADDRESS}:{link}"),
        *("--host", ADDRESS, "--port", str(port)),
        *("--auth-supernode-private-key", str(home / NODE_KEY)),
        *("--node-config", f'home="{home}"'),
    ]
    processes.start(f"supernode-{market}", command, {"FLWR_HOME": str(home / "flower"), "PATH": search_path()})


def submit(homes: Homes, *, run: str = "", wait: float = 120.0, timeout: float | None = None) -> tuple[int, str]:
    """Submit a run and stream its log; the exit status of ``flwr`` and what it printed.

    Args:
        homes: the federation.
        run: id of a run to go on with; empty starts a new one.
        wait: seconds that the server waits for markets.
        timeout: seconds after which streaming ends.
    """
    settings = f'run="{run}" wait={int(wait)}'
    try:
        return _flwr(homes, timeout, "run", str(homes.app), CONNECTION, "--stream", "--run-config", settings)
    except subprocess.TimeoutExpired as error:
        raise DeploymentError(f"the run did not end within {timeout:g} s") from error


def run_lines(printed: str) -> list[str]:
    """What the server said in a streamed log."""
    return [line.split("fedmm: ", 1)[1] for line in printed.splitlines() if "fedmm: " in line]


def _register(homes: Homes, market: str) -> None:
    """Make a SuperNode's public key known to the SuperLink; one that is known already is left as it is."""
    key = homes.market(market) / NODE_PUBLIC_KEY
    _, printed = _flwr(homes, 60.0, "supernode", "register", str(key), CONNECTION)
    if "registered successfully" not in printed and "already" not in printed:
        raise DeploymentError(f"SuperNode of {market}: {printed.strip()}")


def _flwr(homes: Homes, timeout: float | None, *arguments: str) -> tuple[int, str]:
    """Run Flower's command as the operator; exit status, and what it printed."""
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(homes.operator), "PATH": search_path()}
    command = [flower_tool("flwr"), *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    return found.returncode, found.stdout + found.stderr


def flower_tool(name: str) -> str:
    """Path of a command of this environment; raises ``ConfigError`` if it is not installed."""
    path = shutil.which(name, path=search_path())
    if path is None:
        raise ConfigError(f"{name} is not installed; pip install 'fedmm-secure[deploy]'")
    return path


def search_path() -> str:
    """Commands of this Python's environment come first."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def bounded(seconds: float) -> list[str]:
    """A bound on how long a process may live, should whoever started it be killed."""
    limit = shutil.which("timeout")
    if limit is None:
        raise RunDirectoryError("the command 'timeout' (coreutils) is missing")
    return [limit, "--signal=TERM", "--kill-after=10", f"{seconds:g}"]
