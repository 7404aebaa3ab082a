"""Homes of all parties of a federation on one machine: what a real installation spreads over many.

``DIR/server/`` and ``DIR/markets/<market>/`` hold a party each: ``config.yaml``, ``keys/``, and in a market the one
file of its data; in the server the signed app. ``DIR/tls/<party>/`` is what faces the network on that party's host:
certificates, proxy, and a SuperNode's keys and whom it trusts.
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from experiments.deploy.certificates import make_certificates
from experiments.deploy.tools import ADDRESS, flower_tool
from experiments.runs.markets import as_files
from fedmm_secure.config import Config
from fedmm_secure.config.choices import is_shipped
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.members import local_ceremony
from fedmm_secure.field.compare import refuse_apart
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.storage.layout import CONFIG_FILE
from fedmm_secure.storage.run_directory import to_yaml
from privacy.aggregation.bundle import SERVER
from privacy.files import write_atomic


@dataclass(frozen=True)
class Homes:
    """Paths below the folder of a federation."""

    root: Path

    @property
    def server(self) -> Path:
        """Home of the server."""
        return self.root / "server"

    @property
    def tls(self) -> Path:
        """Folder of the certificates."""
        return self.root / "tls"

    def network(self, party: str) -> Path:
        """What faces the network on the host of a market or the server."""
        return self.tls / party

    def market(self, name: str) -> Path:
        """Home of a market."""
        return self.root / "markets" / name

    @property
    def markets(self) -> list[str]:
        """Names of the markets, in order; raises ``RunDirectoryError`` where there is no federation."""
        folder = self.root / "markets"
        if not folder.is_dir():
            raise RunDirectoryError(f"{self.root}: no federation here; start one with fedmm deploy up")
        return sorted(path.name for path in folder.iterdir())


def prepare_homes(config: Config, root: Path) -> Homes:
    """Make homes, keys and certificates for the markets of a configuration; synthetic markets become files.

    Raises:
        RunDirectoryError: ``root`` is not empty.
        ConfigError: Flower is not installed, or a baseline needs the rows of all markets.
    """
    refuse_apart(config)
    flower_tool("flower-superlink")
    from experiments.deploy.signed_app import TRUSTED_FILE, sign_app, write_trusted  # Flower is an extra

    if root.exists() and any(root.iterdir()):
        raise RunDirectoryError(f"{root}: not empty")
    homes, files = Homes(root.absolute()), root.absolute() / "files"
    config = as_files(config, files)
    sizes = {market.name: MarketSize(market.n_users, market.n_items) for market in load_markets(config.data)}
    names = sorted(sizes)
    plan = AggregationPlan.of(config, sizes)
    homes_of = {name: homes.market(name) for name in names} | {SERVER: homes.server}
    directories = {name: home / "keys" for name, home in homes_of.items()}
    members, _ = local_ceremony(plan, directories, config.aggregation.rotate_after, sizes)
    bundle = members[names[0]].bundle
    make_certificates(homes.tls, [ADDRESS, "localhost"], names)
    sign_app(members[bundle.founder].identity).save(homes.server)
    for name, home in homes_of.items():
        own = _with_root(config, home / "data")
        if name != SERVER:
            (home / "data").mkdir(mode=0o700)
            for file in _files(config, name):
                (home / "data" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile((config.data.root or Path()) / file, home / "data" / file)
            write_trusted(homes.network(name) / TRUSTED_FILE, bundle)
        write_atomic(home / CONFIG_FILE, to_yaml(own).encode())
    shutil.rmtree(files, ignore_errors=True)
    return homes


def _files(config: Config, market: str) -> list[Path]:
    """A market's files, relative to ``data.root``: its rows, and its catalogue and the shared one unless shipped."""
    file = config.data.markets[market]
    found = {"path": file.path}
    if file.catalogue is not None and not is_shipped(file.catalogue):
        found["catalogue"] = file.catalogue
    for key, path in found.items():
        if path.is_absolute():
            raise ConfigError(f"data.markets.{market}.{key}: {path} should be relative to data.root")
    shared = config.data.shared_catalogue
    public = [] if shared is None else [path for path in shared.files if not is_shipped(path)]
    for path in public:
        if path.is_absolute():
            raise ConfigError(f"data.shared_catalogue.files: {path} should be relative to data.root")
    return [*found.values(), *public]


def _with_root(config: Config, root: Path) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def copy_app(folder: Path) -> None:
    """The shipped app, as ``flwr`` takes it."""
    shutil.copytree(Path(str(resources.files("experiments.deploy"))) / "flower_app", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "fedmm_flower" / "__pycache__", ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on at the moment."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind((ADDRESS, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
