"""``fedmm attack``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from attacks.membership.units import UNITS, Unit
from experiments.assessment.findings import Found, beyond_bounds
from experiments.assessment.record import verdict_of
from experiments.assessment.records import ATTACKS, DEFAULT_SHADOWS, RISKS
from experiments.commands.options import FINDING, ClusterOption, JsonFlag, Quiet, WorkersOption
from experiments.commands.progress import RunProgress
from experiments.commands.signing import PassphraseOption, SignOption, read_signer
from experiments.presentation.console import one_line, say, say_json, wide_console
from experiments.presentation.tables import Table
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import examining

ATTACK_HELP = (
    "Attack a run and see what an adversary gets, each against its view and with what it knows beforehand:\n\n\b\n"
    + "\n".join(f"  {name}: {attack.title}" for name, attack in ATTACKS.items())
    + "\n\n"
    "Exit status 1 if an attack does better than a guarantee of the run admits. With --sign the results count in a "
    "compliance report; nothing that lies in the directory is then taken for a result.\n\n"
    "Example: fedmm attack runs/x --attack membership --market mx --target local-ids --target federated-codes"
)


def attack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help=f"Attack to make, default all: {', '.join(ATTACKS)}."),
    ] = None,
    risks: Annotated[
        bool,
        typer.Option("--risks", help=f"What regulators ask of whatever is published about people: {', '.join(RISKS)}."),
    ] = False,
    market: Annotated[str | None, typer.Option(help="Market to attack; default: the smallest.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"Model to attack: {CONFIGURED} (default), local-ids, local-codes, federated-codes, …"),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help=f"What membership is asked about, default both: {', '.join(UNITS)}.")
    ] = None,
    shadows: Annotated[int, typer.Option(min=4, help="Shadow pipelines.")] = DEFAULT_SHADOWS,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            help="Attack somebody else's model instead, which fit and score in this file make; RUN, or a configuration "
            "in its place, names the rows. The code in it is run.",
        ),
    ] = None,
    model_seconds: Annotated[int, typer.Option(min=1, help="Of --model: seconds for one fit.")] = 300,
    model_gib: Annotated[float, typer.Option(min=0.1, help="Of --model: GiB of address space for one fit.")] = 8.0,
    out: Annotated[
        Path | None, typer.Option(help="Of --model: folder of what is found; default: attacks-<name of FILE>.")
    ] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the markets' files, where the run read any; default: that in FEDMM_DATA."),
    ] = None,
    keys: SignOption = None,
    passphrase_file: PassphraseOption = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm attack``."""
    identity = read_signer(keys, passphrase_file)
    units: list[Unit] = [known for known in UNITS if not unit or known in unit]
    unknown = sorted(set(unit or ()) - set(UNITS))
    if unknown:
        raise ConfigError(f"--unit {unknown[0]}: choose from {', '.join(UNITS)}")
    if model is not None:
        if attacks or risks or target or keys or cluster:
            raise ConfigError(
                "--model: is attacked in every way that there is, here; drop --attack, --risks, --target, --sign, "
                "--cluster"
            )
        asked = ForeignModel(model, model_seconds, model_gib, out or Path(f"attacks-{model.stem}"))
        found, place = _attack_foreign(
            asked, rows=(str(run), data, market), units=units, shadows=shadows, workers=workers, quiet=quiet or as_json
        )
        if as_json:
            say_json(found)
        else:
            print_attacks(found, str(place))
            say(f"\nresults  {place}")
        return
    # what follows loads torch, which takes seconds
    from experiments.assessment.attack import attack_run
    from experiments.reports.run import write_report

    with RunProgress(quiet=quiet or as_json) as progress, examining(run):
        found = attack_run(
            run,
            attacks=[*(attacks or ()), *RISKS] if risks else attacks,
            market=market,
            targets=target or [CONFIGURED],
            units=units,
            n_shadows=shadows,
            workers=workers,
            cluster=cluster,
            progress=lambda done, total: progress.update("shadow pipelines", done, total),
            identity=identity,
            data=data,
        )
        report = write_report(run)
    if as_json:
        say_json(found)
    else:
        print_attacks(found)
        say(f"\nresults, scores and figures  {RunDirectory(run).attacks}\nreport                       {report}")
    beyond = beyond_bounds(found)
    for line in beyond:
        say(one_line(line))
    raise typer.Exit(FINDING if beyond else 0)


@dataclass(frozen=True)
class ForeignModel:
    """What ``--model`` and its options say."""

    path: Path
    seconds: int
    gib: float
    out: Path


def _attack_foreign(
    model: ForeignModel,
    rows: tuple[str, Path | None, str | None],
    units: list[Unit],
    shadows: int,
    workers: int | None,
    quiet: bool,
) -> tuple[Found, Path]:
    """What attacks on somebody else's model found, and the file of it."""
    # what follows loads torch, which takes seconds
    from attacks.handlers.handler import Handler, Limits
    from experiments.assessment.foreign import attack_model, rows_of, write_found

    handler = Handler(model.path, Limits(model.seconds, int(model.gib * 2**30)))
    say(handler.warning, error=True)
    with RunProgress(quiet=quiet) as progress:
        prepared = rows_of(*rows)
        found = attack_model(
            handler, prepared, units, shadows, workers, lambda done, total: progress.update("models", done, total)
        )
    return found, write_found(model.out, handler, prepared, found)


def print_attacks(found: Found, kept: str = "attacks/attacks.json") -> None:
    """Print what readers see first of each attack; ``kept`` is where all of it is."""
    console = wide_console()
    for name, attack in ATTACKS.items():
        results = attack.leading(found.get(name, []))
        if not results:
            continue
        table = Table(*(column.heading for column in attack.columns))
        for result in results:
            table.add_row(*(column.cell(result) for column in attack.columns))
        others = len(found[name]) - len(results)
        some = f", the strongest of each kind; {others} weaker ones" if others else ""
        if others and any(verdict_of(result) is not None for result in found[name]):
            some += ", none of them beyond a guarantee,"
        where = f" are in {kept}" if others else ""
        console.print(f"{attack.title}{some}{where}; mean and 95 % interval over {attack.over}", table)
