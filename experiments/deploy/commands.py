"""``fedmm deploy``: a federation as separate processes over TLS."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from experiments.configuration import QUICKSTART, resolve
from experiments.deploy.certificates import make_certificates, make_node_key
from experiments.deploy.homes import Homes, prepare_homes
from experiments.deploy.market import run_market
from experiments.deploy.processes import DeploymentError, Processes, federation_up, run_lines, submit
from experiments.deploy.simulation import simulate
from experiments.keys import read_passphrase
from experiments.options import FINDING, SetOption
from experiments.reports.text import figure_text
from experiments.run_directory import read_config
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.market_service import run_directories
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.provenance import begin

HOUR = 3600.0

deploy_app = typer.Typer(
    help="Run a federation as separate processes on Flower, over TLS.", no_args_is_help=True, rich_markup_mode=None
)

ConfigArgument = Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")]
LifetimeOption = Annotated[float, typer.Option("--for", min=1, help="Seconds after which everything stops by itself.")]


@deploy_app.command(
    help="Start a federation on this machine: SuperLink, and a SuperNode and a process for each market. Makes homes, "
    "keys and certificates in DIR if there are none. Stops when all markets have concluded --runs runs.\n\n"
    "Example: fedmm deploy up federation quickstart; then, elsewhere: fedmm deploy submit federation"
)
def up(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")],
    config: ConfigArgument = QUICKSTART,
    overrides: SetOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs that each market agrees to.")] = 1,
    lifetime: LifetimeOption = HOUR,
) -> None:
    if directory.exists() and any(directory.iterdir()):
        homes = Homes(directory.absolute())
    else:
        homes = prepare_homes(resolve(config, overrides or []), directory)
    with federation_up(homes, runs=runs, lifetime=lifetime) as processes:
        print(f"{len(homes.markets)} markets are up: {', '.join(homes.markets)}; logs in {homes.root / 'logs'}")
        print(f"submit a run with: fedmm deploy submit {directory}", flush=True)
        try:
            _until_concluded(processes, homes, time.monotonic() + lifetime)
        except KeyboardInterrupt:
            print("stopping")


@deploy_app.command(
    "submit",
    help="Submit a run to a federation that is up, and follow it.\n\nExample: fedmm deploy submit federation",
)
def submit_run(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")],
    run: Annotated[str, typer.Option(help="Id of a run to go on with, after its server was stopped.")] = "",
    wait: Annotated[float, typer.Option(min=1, help="Seconds that the server waits for markets.")] = 120.0,
) -> None:
    homes = Homes(directory.absolute())
    if not (homes.operator / "config.toml").is_file():
        raise RunDirectoryError(f"{directory}: not started; see fedmm deploy up")
    status, printed = submit(homes, run=run, wait=wait)
    lines = run_lines(printed)
    print("\n".join(lines) or printed)
    if status != 0 or not any(line.startswith("finished") for line in lines):
        raise typer.Exit(FINDING)


@deploy_app.command(
    help="One market's own process: answers its SuperNode on a socket in HOME. For real installations.\n\n"
    "Example: fedmm deploy market /srv/fedmm/de --runs 1"
)
def market(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Folder with config.yaml, keys/ and data.")],
    runs: Annotated[int, typer.Option(min=1, help="Runs that the operator agrees to, earlier ones included.")] = 1,
    lifetime: Annotated[float | None, typer.Option("--for", min=1, help="Stop after so many seconds.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File whose first line opens the identity.")] = None,
    group_socket: Annotated[bool, typer.Option(help="Let the process's group use the socket.")] = False,
) -> None:
    passphrase = read_passphrase(passphrase_file)
    run_market(home, passphrase=passphrase, max_runs=runs, lifetime=lifetime, group_socket=group_socket)


@deploy_app.command(
    help="TLS certificates of a SuperLink, and node keys of markets.\n\n"
    "Example: fedmm deploy certificates tls --host superlink.example.org --node de --node uk"
)
def certificates(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")],
    hosts: Annotated[list[str], typer.Option("--host", help="Name or address of the SuperLink; repeat.")],
    nodes: Annotated[list[str] | None, typer.Option("--node", help="Market to make a node key for; repeat.")] = None,
    days: Annotated[int, typer.Option(min=1, help="Days until they expire.")] = 365,
) -> None:
    make_certificates(out, hosts, days)
    for node in nodes or []:
        make_node_key(out / node)
    print(f"{out}: ca.crt for every SuperNode; server.crt and server.key for the SuperLink alone")


@deploy_app.command(
    help="Three markets in separate processes over TLS, then the same run in process: are the codebooks the same?\n\n"
    "Example: fedmm deploy demo --out demo"
)
def demo(
    config: ConfigArgument = QUICKSTART,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the federation.")] = Path("deploy-demo"),
    lifetime: LifetimeOption = HOUR,
) -> None:
    homes = prepare_homes(resolve(config, overrides or []), out)
    with federation_up(homes, runs=1, lifetime=lifetime) as processes:
        print(f"{len(homes.markets)} markets are up, each in processes of its own", flush=True)
        _, printed = submit(homes, timeout=lifetime)
        print("\n".join(run_lines(printed)), flush=True)
        _until_concluded(processes, homes, time.monotonic() + lifetime)
    same = compare_with_in_process(homes, out / "in-process")
    table = Table("market", "stage", "deployed and in process")
    for (name, part), equal in same.items():
        table.add_row(name, part, "bit-identical" if equal else "DIFFERENT")
    Console().print(table)
    if not same or not all(same.values()):
        raise typer.Exit(FINDING)


@deploy_app.command(
    "simulate",
    help="Many markets on one machine by Flower's simulation engine (pip install 'fedmm-secure[simulation]'), through "
    "the code of a deployment.\n\nExample: fedmm deploy simulate --set data.synthetic.markets=100 --out many",
)
def simulate_markets(
    config: ConfigArgument = QUICKSTART,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the federation.")] = Path("deploy-simulation"),
    workers: Annotated[int, typer.Option(min=1, help="Markets that work at the same time.")] = 2,
    lifetime: LifetimeOption = HOUR,
) -> None:
    homes = prepare_homes(resolve(config, overrides or []), out)
    found = simulate(homes, workers=workers, lifetime=lifetime, say=lambda line: print(line, flush=True))
    known = [auc for auc in found.values() if auc is not None]  # noisy figures may drown
    macro = sum(known) / len(known) if len(known) == len(found) else None
    print(f"{len(found)} markets, macro AUC {figure_text(macro)}")


def _until_concluded(processes: Processes, homes: Homes, deadline: float) -> None:
    """Until every market's process has ended by itself.

    Raises:
        DeploymentError: a process ended otherwise, or it takes too long.
    """
    markets = [f"market-{name}" for name in homes.markets]
    while not all(processes.ended(name) for name in markets):
        if processes.ended("superlink"):
            raise DeploymentError(f"the SuperLink ended; see {processes.logs / 'superlink.log'}")
        if time.monotonic() > deadline:
            raise DeploymentError("the time that was allowed is over")
        time.sleep(0.5)
    failed = [name for name in markets if processes.running[name].returncode != 0]
    if failed:
        raise DeploymentError(f"{failed[0]} failed; see {processes.logs / failed[0]}.log")


def compare_with_in_process(homes: Homes, directory: Path) -> dict[tuple[str, str], bool]:
    """Run the same configuration in process on the markets' files; whether each part of each RQ-VAE is the same."""
    config = _merged(homes)
    begin(directory, config)
    run_pipeline(config, prepare_markets(config.data), directory)
    same = {}
    for name in homes.markets:
        (deployed,) = run_directories(homes.market(name) / "runs")
        for seed in config.seed:
            file = Path("models") / name / f"quantizer-{seed}.pt"
            ours, theirs = (torch.load(folder / file, weights_only=True) for folder in (directory, deployed))
            for part in sorted({key.split(".")[0] for key in ours}):
                keys = [key for key in ours if key.split(".")[0] == part]
                same[name, f"{part}, seed {seed}"] = all(torch.equal(ours[key], theirs[key]) for key in keys)
    return same


def _merged(homes: Homes) -> Config:
    """The markets' configuration with all their files."""
    names = homes.markets
    config = read_config(homes.market(names[0]))
    files = {name: file.located(homes.market(name) / "data") for name, file in config.data.markets.items()}
    return config.model_copy(update={"data": config.data.model_copy(update={"markets": files, "root": None})})
