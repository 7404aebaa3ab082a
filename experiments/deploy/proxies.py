"""nginx in front of the SuperLink, and between each SuperNode and the network: configuration and command line.

Flower serves the calls of SuperNodes, of whoever submits runs, and of the processes that carry them out on one port,
and asks SuperNodes alone who they are. So that port stays on the loopback, and the server's proxy lets through the
calls of SuperNodes, of those who show a certificate of the federation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from experiments.deploy.certificates import SERVER_NAME
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.requests import MAX_REQUEST_BYTES
from privacy.files import write_atomic

PROXY_CONFIGURATION = "nginx.conf"
FLEET_PORT, SUPERLINK_PORT, RELAY_PORT = 9393, 9394, 9395
# what flwr 1.42's SuperNode calls below /v1/fleet/; registering oneself is not among them
FLEET_CALLS = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
FLEET_HEADERS = (
    "Accept",
    "Content-Type",
    "flwr-component-name",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
)
_LONGEST_MIB = MAX_REQUEST_BYTES // 2**20 + 8  # with Flower's envelope
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian keeps nginx where users' PATH does not look


def write_server_proxy(
    folder: Path, *, listen: str = f"0.0.0.0:{FLEET_PORT}", superlink: str = f"127.0.0.1:{SUPERLINK_PORT}"
) -> None:
    """The configuration of the proxy in front of the SuperLink, beside its certificates.

    Args:
        folder: the server's folder of ``make_certificates``.
        listen: address and port for the markets.
        superlink: where the SuperLink listens, on the loopback.
    """
    _write(folder, "server.conf.j2", {"listen": listen, "superlink": superlink})


def write_market_proxy(folder: Path, *, server: str, listen: str = f"127.0.0.1:{RELAY_PORT}") -> None:
    """The configuration of a market's own proxy, beside its certificates.

    Args:
        folder: the market's folder of ``make_certificates``.
        server: address and port of the server's proxy.
        listen: address and port for the SuperNode, on the loopback.
    """
    _write(folder, "market.conf.j2", {"name": SERVER_NAME, "server": server, "listen": listen})


def nginx_command(folder: Path, prefix: Path) -> list[str]:
    """Command that runs the proxy of ``folder`` in the foreground; ``prefix`` takes its temporary files.

    Raises:
        ConfigError: nginx is not installed.
    """
    program = nginx()
    if program is None:
        raise ConfigError("nginx is not installed; on Debian: apt-get install nginx")
    prefix.mkdir(parents=True, exist_ok=True, mode=0o700)
    # started by root, nginx would hand its work to another user, who may not look into the folders of this one
    user = " user root;" if os.geteuid() == 0 else ""
    configuration = str((folder / PROXY_CONFIGURATION).absolute())
    return [program, "-p", f"{prefix.absolute()}/", "-c", configuration, "-e", "stderr", "-g", f"daemon off;{user}"]


def nginx() -> str | None:
    """Path of nginx, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def _write(folder: Path, template: str, fields: Mapping[str, Any]) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.deploy", "nginx"),
        autoescape=False,  # not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    known = {"calls": FLEET_CALLS, "headers": FLEET_HEADERS, "longest_mib": _LONGEST_MIB}
    text = environment.get_template(template).render({**known, **fields})
    write_atomic(folder / PROXY_CONFIGURATION, text.encode())
