"""``fedmm run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.interruption import resumable
from experiments.commands.options import JsonFlag, Quiet, SetOption
from experiments.commands.progress import RunProgress
from experiments.commands.signing import PassphraseOption, read_passphrase
from experiments.presentation.console import command_text, say_json
from experiments.runs.configuration import QUICKSTART, resolve, shipped
from experiments.runs.tracking import TRACKERS
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.layout import CONFIG_FILE, RunDirectory
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
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
    coins: Annotated[
        Path | None,
        typer.Option(help="With --resume, in a run with audit.replay: the auditor's coins (fedmm keys coins)."),
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help=f"Follow the run in a tracker too: {', '.join(TRACKERS)}; repeat.")
    ] = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm run``."""
    if config_argument and config:
        raise ConfigError("give the configuration once: as an argument or with --config")
    name = config_argument or config
    directory, settings = _run_directory(name, overrides or [], out, resume)
    if coins is not None:
        if not resume or settings.audit.replay is None:
            raise ConfigError("--coins goes with --resume, in a run whose configuration has audit.replay")
        from fedmm_secure.federation.coins import hand_in  # the accountants: not to refuse a configuration

        hand_in(coins, RunDirectory(directory).coins)
    signer = None if sign is None else KeyDirectory(sign).identity(read_passphrase(passphrase_file))
    again = ["run", "--resume", "--out", directory, *([] if sign is None else ["--sign", sign])]
    begun = directory / CONFIG_FILE
    with (
        resumable(lambda: command_text(*again) if begun.is_file() else None),
        RunProgress("starting", quiet=quiet or as_json) as progress,
    ):
        from experiments.first_run.quickstart import is_quickstart, run_quickstart
        from experiments.runs.execution import execute  # what trains: seconds, and not to refuse a configuration
        from experiments.runs.outlook import OutlookListener

        if is_quickstart(directory) if resume else name is None:
            finished = run_quickstart(
                directory,
                settings,
                progress,
                shadows=lambda done, total: progress.update("shadow pipelines", done, total),
                resume=resume,
                track=track or [],
                signer=signer,
            )
        else:
            outlook = OutlookListener(settings.privacy.ceiling or settings.privacy.epsilon)
            metrics = execute(directory, settings, outlook, progress, resume=resume, track=track or [], signer=signer)
            progress.update("verifying", 0, 1)
            from experiments.reports.screen import Finished
            from experiments.verification.run import examine_run

            finished = Finished(directory, settings, metrics, examine_run(directory))
        progress.update("writing the page", 0, 1)
        from experiments.reports.run import write_report  # what draws: nothing waits for it before

        write_report(directory, examined=finished.examined)
    if as_json:
        beside = {"without_dp": finished.without_dp, "attacks": finished.attacks} if finished.attacks else {}
        say_json({"directory": str(directory), **finished.metrics, **beside})
        return
    from experiments.reports.screen import next_commands, show

    show(finished, next_commands(finished, sign))


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
