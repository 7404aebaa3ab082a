"""``fedmm``: run, verify, attack, audit, report, data.

Exit status: 0 on success, 1 on a finding (a failed verification, a refused release), 2 on bad usage or input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments import run_directory
from experiments.attack_commands import ATTACK_HELP, AUDIT_HELP, attack, audit
from experiments.bench import bench_app
from experiments.bench_noise import NOISE_HELP, noise
from experiments.bench_shadows import SHADOWS_HELP, shadows
from experiments.budget import market_budget
from experiments.commands.init import INIT_HELP, init
from experiments.comparison import COMPARE_HELP, RUNS_HELP, compare, runs
from experiments.configuration import QUICKSTART, resolve, shipped
from experiments.console import one_line, say, wide_console
from experiments.data import check_markets, market_summary, reading_lines, synthesize_files
from experiments.deploy.commands import deploy_app
from experiments.deploy.processes import DeploymentError
from experiments.execution import execute
from experiments.keys import PassphraseOption, keys_app, read_passphrase
from experiments.options import FINDING, USAGE, JsonFlag, Quiet, SetOption
from experiments.progress import RunProgress
from experiments.reports.commands import REPORT_HELP, report
from experiments.reports.run import write_report
from experiments.reports.text import figure_text
from experiments.sweep.commands import SWEEP_HELP, sweep
from experiments.tracking import TRACKERS
from experiments.verification.command import VERIFY_HELP, verify
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket, load_markets, prepare_markets
from fedmm_secure.data.synthetic import SyntheticSpec
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.door import BudgetExceededError
from fedmm_secure.federation.in_process import MarketLostError
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.orders import OrderError, RunEndedError
from fedmm_secure.federation.server import CohortTooSmallError
from fedmm_secure.guarantee.stages import ALL_VIEWS
from privacy.accounting.text import delta_text, epsilon_text
from privacy.aggregation import AggregationError
from privacy.aggregation.keys import KeyDirectory
from privacy.errors import InputError

STOPPED = (
    AggregationError,
    BudgetExceededError,
    CohortTooSmallError,
    DeploymentError,
    MarketLostError,
    MessageError,
    OrderError,
    RunEndedError,
)

app = typer.Typer(
    help="Privacy-hardened federated recommendation: train, verify, attack, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at market data before running.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(deploy_app, name="deploy")
app.add_typer(bench_app, name="bench")
bench_app.command("shadows", help=SHADOWS_HELP)(shadows)
bench_app.command("noise", help=NOISE_HELP)(noise)


@app.command(
    help="Run the pipeline; without a configuration, the quickstart on synthetic markets.\n\n"
    "Example: fedmm run --config xmarket --set privacy.epsilon=8 --out runs/x"
)
def run(
    config_argument: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help=f"The same, as an option. Shipped: {', '.join(shipped())}.")
    ] = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: runs/<time>-<name>.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign",
            metavar="KEYS",
            help="Sign the ledgers' last lines: key directory of fedmm keys join. Without it the run signs with "
            "keys of its own, which proves nothing to others.",
        ),
    ] = None,
    passphrase_file: PassphraseOption = None,
    track: Annotated[
        list[str] | None, typer.Option(help=f"Follow the run in a tracker too: {', '.join(TRACKERS)}; repeat.")
    ] = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    if config_argument and config:
        raise ConfigError("give the configuration once: as an argument or with --config")
    name = config_argument or config
    directory, settings = _run_directory(name, overrides or [], out, resume)
    signer = None if sign is None else KeyDirectory(sign).identity(read_passphrase(passphrase_file))
    with RunProgress(quiet=quiet or as_json) as progress:
        metrics = execute(directory, settings, progress, resume=resume, track=track or [], signer=signer)
    report_path = write_report(directory)
    if as_json:
        say(json.dumps({"directory": str(directory), **metrics}, sort_keys=True))
        return
    _print_metrics(metrics)
    say(f"\nrun directory  {directory}\nreport         {report_path}")


def _run_directory(name: str | None, overrides: list[str], out: Path | None, resume: bool) -> tuple[Path, Config]:
    if not resume:
        label = Path(name or QUICKSTART).stem
        return out or run_directory.default_directory(label), resolve(name or QUICKSTART, overrides)
    if out is None:
        raise RunDirectoryError("--resume needs --out: the run directory to go on with")
    kept = run_directory.read_config(out)
    if (name or overrides) and resolve(name or QUICKSTART, overrides) != kept:
        raise RunDirectoryError(f"{out}: was started with another configuration; resume without --config and --set")
    return out, kept


app.command(help=INIT_HELP)(init)
app.command(help=VERIFY_HELP)(verify)
app.command(help=SWEEP_HELP)(sweep)
app.command(help=COMPARE_HELP)(compare)
app.command("runs", help=RUNS_HELP)(runs)
app.command(help=ATTACK_HELP)(attack)
app.command(help=AUDIT_HELP)(audit)


@app.command(
    help="What a configuration spends by stage and view, and on how much signal, before anything is trained.\n\n"
    "Example: fedmm budget xmarket-release --set privacy.epsilon=2"
)
def budget(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    settings = resolve(config, overrides or [])
    if settings.privacy.epsilon is None:
        raise ConfigError(f"{config}: privacy.epsilon is not set, so there is no budget to plan")
    markets = load_markets(settings.data)
    found = {market.name: market_budget(settings, market, len(markets)) for market in markets}
    if as_json:
        say(json.dumps(found, sort_keys=True))
    else:
        _print_budget(found)


app.command(help=REPORT_HELP)(report)


@data_app.command(
    "info", help="Sizes, pool and candidates of a configuration's markets.\n\nExample: fedmm data info xmarket"
)
def data_info(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")] = QUICKSTART,
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    prepared = prepare_markets(resolve(config, overrides or []).data)
    summary = market_summary(prepared)
    if as_json:
        for name, found in prepared.items():
            reading = found.whole.market.reading
            summary[name]["reading"] = None if reading is None else asdict(reading)
        say(json.dumps(summary, sort_keys=True))
        return
    columns = list(next(iter(summary.values())))
    table = Table("market", *columns)
    for name, values in summary.items():
        table.add_row(name, *(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values.values()))
    wide_console().print(table)
    for name, found in prepared.items():
        _print_reading(name, found)


@data_app.command(
    "check", help="Load and check every market; report all problems.\n\nExample: fedmm data check my.yaml"
)
def data_check(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")],
    overrides: SetOption = None,
) -> None:
    fit, problems = check_markets(resolve(config, overrides or []).data)
    for name, found in fit.items():
        say(f"{name}: catalogue of {len(found.catalogue)} items ({found.catalogue.kind})")
        _print_reading(name, found)
    for problem in problems:
        say(one_line(problem), error=True)
    if problems:
        raise typer.Exit(USAGE)
    say(f"{config}: all markets are fit to use")


@data_app.command(
    "synthesize",
    help="Write synthetic markets as CSV files, each with a file of its catalogue.\n\n"
    "Example: fedmm data synthesize markets/ --markets 3",
)
def data_synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to write <market>.csv and <market>.items.txt into.")],
    markets: Annotated[int, typer.Option(min=1, max=100)] = 3,
    users: Annotated[int, typer.Option(min=20)] = 400,
    items: Annotated[int, typer.Option(min=20)] = 200,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    spec = SyntheticSpec(markets=markets, users=users, items=items, seed=seed)
    for file in synthesize_files(spec, out).values():
        say(*(out / path for path in (file.path, file.catalogue) if path is not None))


def _print_reading(name: str, prepared: PreparedMarket) -> None:
    for line in reading_lines(prepared):
        say(f"{name}: {line}")


def _print_metrics(metrics: dict[str, Any]) -> None:
    console = wide_console()
    names = list(metrics["macro"]["baselines"])
    table = Table("test AUC", "users", "fedmm", *names)
    for market, values in metrics["markets"].items():
        others = (figure_text(values["baselines"][name]["auc"]) for name in names)
        table.add_row(market, str(values["n_users"]), figure_text(values["auc"]), *others)
    macro = metrics["macro"]
    others = (figure_text(macro["baselines"][name]["auc"]) for name in names)
    table.add_row("macro", "", figure_text(macro["auc"]), *others)
    console.print(table)
    table = Table("epsilon by view", *ALL_VIEWS)
    conditional: dict[str, float] = {}
    over_runs: list[str] = []
    for market, views in metrics["privacy"]["markets"].items():
        cells = (epsilon_text(views[view]["epsilon"]) for view in ALL_VIEWS)
        table.add_row(market, *cells)
        together = views["with_earlier_runs"]
        if together["earlier_runs"]:
            spent = (epsilon_text(together[view]["epsilon"]) for view in ("market", "release"))
            over_runs.append(f"{market} {' / '.join(spent)} ({together['earlier_runs']} before)")
        alone = views["stages"]["quantizer"]
        if alone is not None and alone["epsilon"] is not None and views["market"]["epsilon"] is None:
            conditional[market] = alone["epsilon"]
    console.print(table)
    if over_runs:
        console.print(f"with earlier runs on the same data, market / release: {', '.join(over_runs)}")
    if conditional:
        found = ", ".join(f"{market} {epsilon_text(epsilon)}" for market, epsilon in conditional.items())
        console.print(f"DP-SGD alone, conditional on fixed embeddings, not a user-level guarantee: {found}")


def _print_budget(found: dict[str, dict[str, Any]]) -> None:
    console = wide_console()
    table = Table("market", "users", "δ", "stage", "ε of the stage alone", "noise multiplier", "SNR")
    for market, plan in found.items():
        head = [market, str(plan["users"]), delta_text(plan["delta"])]
        for name, stage in plan["stages"].items():
            best = stage["signal_to_noise"]
            ratio = "–" if best is None else f"{best:.2g}"
            table.add_row(*head, name, epsilon_text(stage["epsilon"]), f"{stage['noise_multiplier']:.4g}", ratio)
            head = ["", "", ""]
    console.print(table)
    views = list(next(iter(found.values()))["views"])
    table = Table("epsilon by view", *views, "signal below its noise")
    for market, plan in found.items():
        small = ", ".join(plan["too_small_for"]) or "-"
        table.add_row(market, *(epsilon_text(plan["views"][view]) for view in views), small)
    console.print(table)
    console.print("SNR: at best, from public sizes; below 1 the market is too small for the stage to tell anything")
    unknown = ", ".join(market for market, plan in found.items() if plan["items"] is None)
    if unknown:
        console.print(f"Items are yet to be discovered, and how many there are is private, in: {unknown}")


def main() -> None:
    """Entry point of the ``fedmm`` command."""
    os.umask(0o077)  # what a run leaves is private, whatever the shell says
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|opacus)\.")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        app()
    except InputError as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(USAGE)
    except STOPPED as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(FINDING)
