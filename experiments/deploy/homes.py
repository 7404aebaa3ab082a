"""Homes of all parties of a federation on one machine: what a real installation spreads over many.

``DIR/server/`` and ``DIR/markets/<market>/`` hold a party each: ``config.yaml``, ``keys/``, and in a market the one
file of its data. ``DIR/tls/`` holds certificates, ``DIR/operator/`` what submits runs.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from experiments.data import synthesize_files
from experiments.deploy.certificates import make_certificates, make_node_key
from fedmm_secure.config import Config, DataConfig
from fedmm_secure.data.catalogue import is_shipped
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.members import local_ceremony
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.shared_noise import shared_noise
from fedmm_secure.provenance import to_yaml
from fedmm_secure.storage import write_atomic
from privacy.aggregation.keys import SERVER

ADDRESS, CONNECTION = "127.0.0.1", "fedmm"


@dataclass(frozen=True)
class Homes:
    """Paths below the folder of a federation."""

    root: Path

    @property
    def server(self) -> Path:
        return self.root / "server"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def operator(self) -> Path:
        """``FLWR_HOME`` of whoever submits runs."""
        return self.root / "operator"

    @property
    def app(self) -> Path:
        return self.root / "app"

    def market(self, name: str) -> Path:
        return self.root / "markets" / name

    @property
    def markets(self) -> list[str]:
        folder = self.root / "markets"
        if not folder.is_dir():
            raise RunDirectoryError(f"{self.root}: no federation here; start one with fedmm deploy up")
        return sorted(path.name for path in folder.iterdir())


def prepare_homes(config: Config, root: Path) -> Homes:
    """Make homes, keys and certificates for the markets of a configuration; synthetic markets become files.

    Raises:
        RunDirectoryError: ``root`` is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise RunDirectoryError(f"{root}: not empty")
    homes, files = Homes(root.absolute()), root.absolute() / "files"
    config = _as_files(config, files)
    sizes = {market.name: MarketSize(market.n_users, market.n_items) for market in load_markets(config.data)}
    names = sorted(sizes)
    plan = AggregationPlan.of(config, len(names), shared_noise(config, sizes))
    homes_of = {name: homes.market(name) for name in names} | {SERVER: homes.server}
    directories = {name: home / "keys" for name, home in homes_of.items()}
    local_ceremony(plan, directories, config.aggregation.rotate_after, sizes)
    for name, home in homes_of.items():
        own = _with_root(config, home / "data")
        if name != SERVER:
            (home / "data").mkdir(mode=0o700)
            for file in _files(config, name):
                (home / "data" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile((config.data.root or Path()) / file, home / "data" / file)
            make_node_key(home)
        write_atomic(home / "config.yaml", to_yaml(own).encode())
    shutil.rmtree(files, ignore_errors=True)
    make_certificates(homes.tls, [ADDRESS, "localhost"])
    shutil.copytree(Path(str(resources.files("experiments.deploy"))) / "flower_app", homes.app, dirs_exist_ok=True)
    shutil.rmtree(homes.app / "fedmm_flower" / "__pycache__", ignore_errors=True)
    return homes


def _files(config: Config, market: str) -> list[Path]:
    """A market's own files, relative to ``data.root``: its rows, and its catalogue unless that is shipped."""
    file = config.data.markets[market]
    found = {"path": file.path}
    if file.catalogue is not None and not is_shipped(file.catalogue):
        found["catalogue"] = file.catalogue
    for key, path in found.items():
        if path.is_absolute():
            raise ConfigError(f"data.markets.{market}.{key}: {path} should be relative to data.root")
    return list(found.values())


def _as_files(config: Config, folder: Path) -> Config:
    """The same markets; generated ones become files of one market each."""
    if config.data.synthetic is None:
        return config
    files, privacy = synthesize_files(config.data.synthetic, folder), config.privacy
    if privacy.catalogue == "discovered":
        files = {name: file.model_copy(update={"catalogue": None}) for name, file in files.items()}
    else:
        privacy = privacy.model_copy(update={"catalogue": "file"})
    fields = config.data.model_dump(exclude={"synthetic", "markets", "root"})
    data = DataConfig(markets=files, root=folder, **fields)
    return config.model_copy(update={"data": data, "privacy": privacy})


def _with_root(config: Config, root: Path) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def write_connection(homes: Homes, port: int, settings: Sequence[str]) -> None:
    """Tell ``flwr`` where the SuperLink is and, as lines of TOML, how to talk to it."""
    lines = (f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]', f'address = "{ADDRESS}:{port}"')
    write_atomic(homes.operator / "config.toml", ("\n".join((*lines, *settings)) + "\n").encode())


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
