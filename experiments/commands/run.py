"""``fedmm run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import run_directory
from experiments.commands.interruption import resumable
from experiments.commands.options import JsonFlag, Quiet, SetOption
from experiments.commands.progress import RunProgress
from experiments.commands.signing import PassphraseOption, read_passphrase
from experiments.configuration import QUICKSTART, resolve, shipped
from experiments.console import command_text, say, say_json, wide_console
from experiments.reports.text import figure_text
from experiments.tables import Table
from experiments.tracking import TRACKERS
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.guarantee.stages import ALL_VIEWS
from fedmm_secure.provenance import CONFIG_FILE
from privacy.accounting.text import epsilon_text
from privacy.aggregation.keys import KeyDirectory

RUN_HELP = (
    "Run the pipeline; without a configuration, the quickstart on synthetic markets.\n\n"
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
    from experiments.execution import execute  # what trains, and what draws: not to refuse a configuration
    from experiments.reports.run import write_report

    again = ["run", "--resume", "--out", directory, *([] if sign is None else ["--sign", sign])]
    begun = directory / CONFIG_FILE
    with (
        resumable(lambda: command_text(*again) if begun.is_file() else None),
        RunProgress("starting", quiet=quiet or as_json) as progress,
    ):
        metrics = execute(directory, settings, progress, resume=resume, track=track or [], signer=signer)
        progress.update("verifying, and writing the page", 0, 1)
        report_path = write_report(directory)
    if as_json:
        say_json({"directory": str(directory), **metrics})
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
