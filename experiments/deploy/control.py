"""What the server's operator asks of the SuperLink, on its own host: SuperNodes to know, runs to start."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

from experiments.deploy.processes import DeploymentError
from experiments.deploy.signed_app import APP_ID, SignedApp, store_app
from experiments.deploy.tools import LINE, ends_with_parent, flower_tool, search_path
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.requests import require_run_id
from privacy.aggregation.keys import KeyDirectory
from privacy.files import KeyFileError, write_atomic
from privacy.json_text import json_text

CONNECTION, DATABASE = "fedmm", "superlink.db"


def operator_home(server: Path) -> Path:
    """``FLWR_HOME`` of whoever submits runs from a server's home."""
    return server / "operator"


def write_connection(server: Path, address: str, settings: Sequence[str]) -> None:
    """Keep where the SuperLink listens and, as lines of TOML, how to talk to it; ``flwr`` reads it too."""
    lines = (f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]', f'address = "{address}"')
    write_atomic(operator_home(server) / "config.toml", ("\n".join((*lines, *settings)) + "\n").encode())


def write_tls_connection(server: Path, address: str, authority: Path) -> None:
    """The same for a SuperLink whose certificate ``authority`` signed."""
    write_connection(server, address, [f"root-certificates = {json_text(str(authority.absolute()))}"])


def register(server: Path, node_key: Path) -> None:
    """Make a SuperNode's public key known to the SuperLink; one that is known already is left as it is.

    Raises:
        KeyFileError: ``node_key`` is no public key.
        DeploymentError: the SuperLink does not answer, or refuses.
    """
    try:
        public = load_ssh_public_key(node_key.read_bytes())
    except OSError as error:
        raise KeyFileError(f"{node_key}: cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{node_key}: not the public key of a SuperNode; see fedmm deploy certificates") from None
    key = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with _control(server) as control:
        try:
            control.RegisterNode(RegisterNodeRequest(public_key=key))
        except DeploymentError as error:
            if "already" not in str(error):
                raise


def submit(server: Path, *, run: str = "", wait: float = 120.0, timeout: float | None = None) -> str:
    """Start a run of the app that the founder signed, and follow its log to the end; returns the log.

    Args:
        server: the server's home.
        run: id of a run to go on with; empty starts a new one.
        wait: seconds that the server waits for markets.
        timeout: seconds after which following ends.

    Raises:
        ConfigError: ``run`` is no id of a run.
        KeyFileError: the app is not the one that the founder of the server's bundle signed.
        DeploymentError: the SuperLink does not answer, or the run takes longer than ``timeout``.
    """
    if run:
        require_run_id(run)
    app = SignedApp.load(server, KeyDirectory(server / "keys").bundle())
    with _control(server) as control:
        store_app(server / DATABASE, app)
        request = StartRunRequest(
            fab=fab_to_proto(Fab(app.digest, b"", {})),
            app_spec=APP_ID,
            override_config=user_config_to_proto({"run": run, "wait": int(wait)}),
        )
        number = control.StartRun(request).run_id
    return flwr(server, timeout, "log", str(number), CONNECTION, "--stream")


def run_lines(printed: str) -> list[str]:
    """What the server said in a log: lines that begin as its own do, and no others that quote a market."""
    return [line.removeprefix(LINE) for line in printed.splitlines() if line.startswith(LINE)]


def flwr(server: Path, timeout: float | None, *arguments: str) -> str:
    """Run Flower's command as the operator; what it printed.

    Raises:
        DeploymentError: it takes longer than ``timeout`` seconds.
    """
    environment = {**os.environ, "FLWR_HOME": str(operator_home(server)), "PATH": search_path()}
    command = [*ends_with_parent(), flower_tool("flwr"), *arguments]
    try:
        found = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False, umask=0o077
        )
    except subprocess.TimeoutExpired as error:
        raise DeploymentError(f"the run did not end within {timeout:g} s") from error
    return found.stdout + found.stderr


class _Control:
    """A client of the SuperLink, whose failures are ``DeploymentError``."""

    def __init__(self, address: str, authority: bytes) -> None:
        self._address = address
        interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
        self._client = ControlHttpClient.from_server_address(address, False, authority, interceptors)

    def __enter__(self) -> _Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        def call(request: Any) -> Any:
            try:
                return getattr(self._client, name)(request)
            except httpx.HTTPStatusError as error:
                raise DeploymentError(f"the SuperLink refuses {name}: {error.response.text[:500]}") from None
            except httpx.HTTPError as error:
                raise DeploymentError(f"the SuperLink at {self._address} does not answer: {error}") from None

        return call


def _control(server: Path) -> _Control:
    path = operator_home(server) / "config.toml"
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8"))["superlink"][CONNECTION]
        return _Control(known["address"], Path(known["root-certificates"]).read_bytes())
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{error.filename}: missing; see fedmm deploy up, or fedmm deploy register") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{path}: says not where the SuperLink is: {error}") from None
