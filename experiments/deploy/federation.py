"""A federation that is up on one machine, each party with the processes that it has on a host of its own.

The server: SuperLink, and the proxy in front of it. A market: its own process, its SuperNode, and the proxy between
SuperNode and network.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from experiments.deploy import control
from experiments.deploy.certificates import (
    LOOPBACK_CA,
    LOOPBACK_CERTIFICATE,
    LOOPBACK_KEY,
    NODE_KEY,
    NODE_PUBLIC_KEY,
)
from experiments.deploy.homes import Homes, free_ports
from experiments.deploy.processes import (
    HOME_VARIABLE,
    STARTUP_SECONDS,
    DeploymentError,
    Processes,
    interruptible,
)
from experiments.deploy.proxies import nginx_command, write_market_proxy, write_server_proxy
from experiments.deploy.signed_app import TRUSTED_FILE
from experiments.deploy.tools import ADDRESS, bounded, flower_tool, search_path
from privacy.aggregation.bundle import SERVER

_PROMPT = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}  # seconds; Flower's own second is a good part of a short round


@contextmanager
def federation_up(homes: Homes, *, runs: int, lifetime: float) -> Iterator[Processes]:
    """All processes of a federation, on 127.0.0.1 and with TLS; ended on leaving, and by themselves after ``lifetime``.

    SIGTERM and SIGHUP raise ``KeyboardInterrupt`` inside.

    Raises:
        DeploymentError: one did not start.
    """
    processes = Processes(homes.root / "logs")
    link, fleet, *ports = free_ports(2 + 2 * len(homes.markets))
    relays, nodes = ports[::2], ports[1::2]
    with interruptible():
        try:
            start_server(processes, homes, link, fleet, lifetime)
            for market, relay in zip(homes.markets, relays, strict=True):
                start_market(processes, homes, market, runs=runs, lifetime=lifetime)
                control.register(homes.server, homes.network(market) / NODE_PUBLIC_KEY)
                start_market_proxy(processes, homes, market, relay, fleet, lifetime)
            for market, relay, own in zip(homes.markets, relays, nodes, strict=True):
                start_supernode(processes, homes, market, relay, own, lifetime)
            for market in homes.markets:
                processes.wait_for(f"market-{market}", "waiting for the federation")
                processes.wait_for(f"supernode-{market}", "SuperNode ID")
            yield processes
        finally:
            processes.stop_all()


def start_server(processes: Processes, homes: Homes, link: int, fleet: int, lifetime: float) -> None:
    """The SuperLink at port ``link``, and the proxy that markets see at port ``fleet``."""
    control.write_tls_connection(homes.server, f"{ADDRESS}:{link}", homes.network(SERVER) / LOOPBACK_CA)
    write_server_proxy(homes.network(SERVER), listen=f"{ADDRESS}:{fleet}", superlink=f"{ADDRESS}:{link}")
    _start_proxy(processes, homes, SERVER, fleet, lifetime)
    start_superlink(processes, homes, link, lifetime)


def start_superlink(processes: Processes, homes: Homes, port: int, lifetime: float) -> None:
    """The SuperLink, which runs the server of each run. Whoever reaches its port may run code on this host."""
    tls = homes.network(SERVER)
    command = [
        *bounded(lifetime),
        flower_tool("flower-superlink"),
        *("--ssl-certfile", str(tls / LOOPBACK_CERTIFICATE)),
        *("--ssl-keyfile", str(tls / LOOPBACK_KEY)),
        *("--ssl-ca-certfile", str(tls / LOOPBACK_CA)),
        *("--host", ADDRESS, "--port", str(port)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(homes.server / control.DATABASE)),
    ]
    environment = {HOME_VARIABLE: str(homes.server), "FLWR_HOME": str(homes.server / "flower"), "PATH": search_path()}
    environment |= _PROMPT
    processes.start("superlink", command, environment)
    processes.wait_for("superlink", "Uvicorn running on https://")


def start_market(processes: Processes, homes: Homes, market: str, *, runs: int, lifetime: float) -> None:
    """A market's own process."""
    command = [*bounded(lifetime), flower_tool("fedmm"), "deploy", "market", str(homes.market(market))]
    processes.start(
        f"market-{market}", [*command, "--runs", str(runs), "--for", str(lifetime)], {"PATH": search_path()}
    )


def start_market_proxy(
    processes: Processes, homes: Homes, market: str, relay: int, fleet: int, lifetime: float
) -> None:
    """A market's proxy at port ``relay``, which shows the market's certificate to the server's at port ``fleet``."""
    write_market_proxy(homes.network(market), server=f"{ADDRESS}:{fleet}", listen=f"{ADDRESS}:{relay}")
    _start_proxy(processes, homes, market, relay, lifetime)


def start_supernode(processes: Processes, homes: Homes, market: str, relay: int, port: int, lifetime: float) -> None:
    """A market's SuperNode, which relays between the market's process and, through the port ``relay``, the server."""
    tls, home = homes.network(market), homes.market(market)
    command = [
        *bounded(lifetime),
        flower_tool("flower-supernode"),
        *("--root-certificates", str(tls / LOOPBACK_CA)),
        *("--superlink", f"{ADDRESS}:{relay}"),
        *("--host", ADDRESS, "--port", str(port)),
        *("--auth-supernode-private-key", str(tls / NODE_KEY)),
        *("--trusted-entities", str(tls / TRUSTED_FILE)),
        *("--node-config", f'home="{home}"'),
    ]
    processes.start(
        f"supernode-{market}", command, {"FLWR_HOME": str(tls / "flower"), "PATH": search_path(), **_PROMPT}
    )


def _start_proxy(processes: Processes, homes: Homes, party: str, port: int, lifetime: float) -> None:
    """The proxy of a party, once it listens."""
    name = f"proxy-{party}"
    command = nginx_command(homes.network(party), homes.network(party) / "nginx")
    processes.start(name, [*bounded(lifetime), *command], {})
    deadline = time.monotonic() + STARTUP_SECONDS
    while not _listens(port):
        if processes.ended(name) or time.monotonic() > deadline:
            raise DeploymentError(f"{name} did not start; see {processes.logs / name}.log")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((ADDRESS, port), timeout=1.0):
        return True
    return False
