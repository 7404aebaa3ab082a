"""``fedmm deploy``: a federation as separate processes over TLS."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.options import FINDING, SetOption
from experiments.commands.progress import TaskProgress
from experiments.commands.signing import KeysOption, PassphraseOption, read_passphrase
from experiments.deploy.certificates import LOOPBACK_CA, make_certificates
from experiments.deploy.processes import DeploymentError, Processes
from experiments.deploy.proxies import FLEET_PORT, RELAY_PORT, SUPERLINK_PORT, write_market_proxy, write_server_proxy
from experiments.deploy.tools import ADDRESS, flower_tool
from experiments.presentation.console import command_text, one_line, say, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import figure_text
from experiments.runs.configuration import SYNTHETIC, resolve
from fedmm_secure.errors import ConfigError
from privacy.aggregation.bundle import SERVER
from privacy.aggregation.identities import CARD_FILE, read_card
from privacy.aggregation.keys import KeyDirectory
from privacy.files import KeyFileError

if TYPE_CHECKING:
    from experiments.deploy.homes import Homes
    from fedmm_secure.service.awaited_coins import WaitingRun

HOUR = 3600.0

deploy_app = typer.Typer(
    help="Run a federation as separate processes on Flower, over TLS.", no_args_is_help=True, rich_markup_mode=None
)

ConfigArgument = Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")]
LifetimeOption = Annotated[float, typer.Option("--for", min=1, help="Seconds after which everything stops by itself.")]


@deploy_app.callback()
def _private_files(context: typer.Context) -> None:
    """What these commands and their processes write is for their owner alone."""
    previous = os.umask(0o077)
    context.call_on_close(lambda: os.umask(previous))


@deploy_app.command(
    short_help="Start a federation on this machine.",
    help="Start a federation on this machine: SuperLink and its proxy, and for each market a process of its own, a "
    "SuperNode and a proxy. Makes homes, keys and certificates in DIR if there are none. Stops when all markets have "
    "concluded --runs runs.\n\n"
    "Example: fedmm deploy up federation synthetic; then, elsewhere: fedmm deploy submit federation",
)
def up(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")],
    config: ConfigArgument = SYNTHETIC,
    overrides: SetOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs that each market agrees to.")] = 1,
    lifetime: LifetimeOption = HOUR,
) -> None:
    """``fedmm deploy up``."""
    there = directory.exists() and any(directory.iterdir())
    settings = None if there else resolve(config, overrides or [])
    from experiments.deploy.homes import Homes, prepare_homes  # what plans the aggregation

    homes = Homes(directory.absolute()) if settings is None else prepare_homes(settings, directory)
    from experiments.deploy.federation import federation_up  # Flower is an extra

    with federation_up(homes, runs=runs, lifetime=lifetime) as processes:
        say(f"{len(homes.markets)} markets are up: {', '.join(homes.markets)}; logs in {homes.root / 'logs'}")
        again = command_text("deploy", "submit", directory)
        say(f"submit a run with: {again}", flush=True)
        try:
            _until_concluded(processes, homes, time.monotonic() + lifetime)
        except KeyboardInterrupt:
            say("stopping")
            raise


@deploy_app.command(
    "submit",
    short_help="Start a run, and follow it.",
    help="On the server's host: start a run of the app that the founder signed, and follow it. DIR is the server's "
    "home, or the folder of a federation that fedmm deploy up started.\n\nExample: fedmm deploy submit federation",
)
def submit_run(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The server's home, or the federation's folder.")],
    run: Annotated[str, typer.Option(help="Id of a run to go on with, after its server was stopped.")] = "",
    wait: Annotated[float, typer.Option(min=1, help="Seconds that the server waits for markets.")] = 120.0,
) -> None:
    """``fedmm deploy submit``."""
    flower_tool("flwr")
    from experiments.deploy import control  # Flower is an extra
    from experiments.deploy.homes import Homes

    homes = Homes(directory.absolute())
    server = homes.server if homes.server.is_dir() else homes.root
    with TaskProgress("run of the federation"):
        printed = control.submit(server, run=run, wait=wait)
    lines = control.run_lines(printed)
    say(*(map(one_line, lines) if lines else [printed]))
    if not any(line.startswith("finished") for line in lines):
        raise typer.Exit(FINDING)


@deploy_app.command(
    short_help="Make SuperNodes known to the SuperLink.",
    help="On the server's host: make SuperNodes known to the SuperLink, which must be up, and keep in the server's "
    "home where it listens.\n\nExample: fedmm deploy register /srv/fedmm/server /srv/fedmm/tls de/node.pub uk/node.pub",
)
def register(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The server's home.")],
    tls: Annotated[Path, typer.Argument(metavar="TLS", help="The server's folder of fedmm deploy certificates.")],
    nodes: Annotated[list[Path], typer.Argument(metavar="NODE.pub...", help="Public keys of SuperNodes.")],
    port: Annotated[int, typer.Option(help="Port of the SuperLink on the loopback.")] = SUPERLINK_PORT,
) -> None:
    """``fedmm deploy register``."""
    flower_tool("flwr")
    from experiments.deploy import control  # Flower is an extra

    control.write_tls_connection(home, f"{ADDRESS}:{port}", tls / LOOPBACK_CA)
    for node in nodes:
        control.register(home, node)
        say(f"{node}: known to the SuperLink")


@deploy_app.command(
    short_help="Build the app, and sign it.",
    help="The founder: build the app that SuperNodes run, and sign it. OUT goes into the server's home.\n\n"
    "Example: fedmm deploy sign app --keys keys/ca",
)
def sign(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write app.fab and app.json into.")],
    keys: KeysOption,
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm deploy sign``."""
    flower_tool("flwr")
    from experiments.deploy.signed_app import sign_app  # Flower is an extra

    directory = KeyDirectory(keys)
    identity, bundle = directory.identity(read_passphrase(passphrase_file)), directory.bundle()
    if identity.card.name != bundle.founder:
        raise KeyFileError(f"{keys}: {bundle.founder} founded this federation, and SuperNodes run what it signed")
    app = sign_app(identity)
    app.save(out)
    say(f"{out}: signed by {app.signer}; sha256 {app.digest}")


@deploy_app.command(
    short_help="Say whose app a SuperNode trusts.",
    help="A market: whom its SuperNode trusts with an app: the founder of the market's bundle.\n\n"
    "Example: fedmm deploy trust /etc/fedmm/de/trusted.yaml --keys keys/de",
)
def trust(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File for flower-supernode --trusted-entities.")],
    keys: KeysOption,
) -> None:
    """``fedmm deploy trust``."""
    flower_tool("flwr")
    from experiments.deploy.signed_app import write_trusted  # Flower is an extra

    bundle = KeyDirectory(keys).bundle()
    write_trusted(out, bundle)
    say(f"{out}: apps that {bundle.founder} signed")


@deploy_app.command(
    short_help="One market's own process.",
    help="One market's own process: answers its SuperNode on a socket in HOME. For real installations.\n\n"
    "Example: fedmm deploy market /srv/fedmm/de --runs 1",
)
def market(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Folder with config.yaml, keys/ and data.")],
    runs: Annotated[int, typer.Option(min=1, help="Runs that the operator agrees to, earlier ones included.")] = 1,
    lifetime: Annotated[float | None, typer.Option("--for", min=1, help="Stop after so many seconds.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File whose first line opens the identity.")] = None,
    group_socket: Annotated[
        bool, typer.Option("--group-socket", help="Let the process's group use the socket.")
    ] = False,
) -> None:
    """``fedmm deploy market``."""
    passphrase = read_passphrase(passphrase_file)
    from experiments.deploy.market import run_market  # what trains

    run_market(home, passphrase=passphrase, max_runs=runs, lifetime=lifetime, group_socket=group_socket)


@deploy_app.command(
    "coins",
    short_help="Hand in an auditor's coins.",
    help="A market, where audit.replay names an auditor: which runs wait for his coin, and where the ledger is that "
    "goes to him; with --coins, hand in what fedmm keys coins made of it. Then the run goes on when the server asks "
    "again (fedmm deploy submit --run ID).\n\n"
    "Example: fedmm deploy coins /srv/fedmm/de; then: fedmm deploy coins /srv/fedmm/de --coins coins.json",
)
def coins(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Folder with config.yaml, keys/ and data.")],
    answers: Annotated[Path | None, typer.Option("--coins", help="The auditor's file for this run.")] = None,
) -> None:
    """``fedmm deploy coins``."""
    from fedmm_secure.service.awaited_coins import waiting_runs  # what trains
    from fedmm_secure.storage.run_directory import read_config

    name = read_card(home / "keys" / CARD_FILE).name
    waiting = list(waiting_runs(read_config(home), name, home / "runs"))
    if not waiting:
        raise ConfigError(f"{home}: no run of market {name} waits for a coin")
    for run in waiting:
        if answers is not None and not run.has_coin:
            run.take(answers)
        say(one_line(f"run {run.run}: {_next_step(run)}"))


def _next_step(run: WaitingRun) -> str:
    if run.has_coin:
        return f"has its coin; the server's operator: {command_text('deploy', 'submit', 'SERVER', '--run', run.run)}"
    return f"hand {run.ledger} to {run.auditor.name}, {run.auditor.fingerprint}"


@deploy_app.command(
    short_help="Certificates, keys and proxies.",
    help="Certificates, keys and proxies of a federation: a folder for the server's host and one for each market's.\n\n"
    "Example: fedmm deploy certificates tls --host superlink.example.org --node de --node uk",
)
def certificates(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")],
    hosts: Annotated[list[str], typer.Option("--host", help="Name or address of the server's host; repeat.")],
    nodes: Annotated[list[str] | None, typer.Option("--node", help="Market to make a folder for; repeat.")] = None,
    days: Annotated[int, typer.Option(min=1, help="Days until they expire.")] = 365,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that markets reach.")] = FLEET_PORT,
) -> None:
    """``fedmm deploy certificates``."""
    names = nodes or []
    make_certificates(out, hosts, names, days)
    write_server_proxy(out / SERVER, listen=f"0.0.0.0:{port}")
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    for node in names:
        write_market_proxy(out / node, server=f"{host}:{port}")
    say(f"{out / SERVER}: for the server's host alone; its proxy listens on port {port}")
    for node in names:
        say(f"{out / node}: for the host of {node} alone; its proxy listens on {ADDRESS}:{RELAY_PORT}")


@deploy_app.command(
    short_help="Deployed and in process: the same?",
    help="Three markets in separate processes over TLS, then the same run in process: are the codebooks the same?\n\n"
    "Example: fedmm deploy demo --out demo",
)
def demo(
    config: ConfigArgument = SYNTHETIC,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the federation.")] = Path("deploy-demo"),
    lifetime: LifetimeOption = HOUR,
) -> None:
    """``fedmm deploy demo``."""
    settings = resolve(config, overrides or [])
    from experiments.deploy import control  # Flower is an extra
    from experiments.deploy.federation import federation_up
    from experiments.deploy.homes import prepare_homes
    from experiments.deploy.in_process import compare_with_in_process

    homes = prepare_homes(settings, out)
    with federation_up(homes, runs=1, lifetime=lifetime) as processes:
        say(f"{len(homes.markets)} markets are up, each in processes of its own", flush=True)
        with TaskProgress("run of the federation"):
            printed = control.submit(homes.server, timeout=lifetime)
        say(*map(one_line, control.run_lines(printed)), flush=True)
        _until_concluded(processes, homes, time.monotonic() + lifetime)
    with TaskProgress("the same run in process"):
        same = compare_with_in_process(homes, out / "in-process")
    table = Table("market", "stage", "deployed and in process")
    for (name, part), equal in same.items():
        table.add_row(name, part, "bit-identical" if equal else "DIFFERENT")
    wide_console().print(table)
    if not same or not all(same.values()):
        raise typer.Exit(FINDING)


@deploy_app.command(
    "simulate",
    short_help="Many markets on one machine.",
    help="Many markets on one machine by Flower's simulation engine (the extra simulation), through "
    "the code of a deployment.\n\nExample: fedmm deploy simulate --set data.synthetic.markets=100 --out many",
)
def simulate_markets(
    config: ConfigArgument = SYNTHETIC,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the federation.")] = Path("deploy-simulation"),
    workers: Annotated[int, typer.Option(min=1, help="Markets that work at the same time.")] = 2,
    lifetime: LifetimeOption = HOUR,
) -> None:
    """``fedmm deploy simulate``."""
    settings = resolve(config, overrides or [])
    from experiments.deploy.homes import prepare_homes  # what trains, and with it Flower
    from experiments.deploy.simulation import simulate

    homes = prepare_homes(settings, out)
    with TaskProgress("simulation"):
        found = simulate(homes, workers=workers, lifetime=lifetime, say=partial(say, flush=True))
    known = [auc for auc in found.values() if auc is not None]  # noisy figures may drown
    macro = sum(known) / len(known) if len(known) == len(found) else None
    say(f"{len(found)} markets, macro AUC {figure_text(macro)}")


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
