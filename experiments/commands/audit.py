"""``fedmm audit``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import FINDING, ClusterOption, JsonFlag, Quiet, SetOption, WorkersOption
from experiments.commands.progress import RunProgress
from experiments.commands.signing import PassphraseOption, SignOption, read_signer
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import examining
from privacy.accounting.text import epsilon_text
from privacy.hexadecimal import bytes_of

if TYPE_CHECKING:
    from attacks.auditing.run_canaries import Measured
    from privacy.aggregation.identities import Identity

_LOST = "shows nothing: candidates who are in do not weigh what they add"
AUDIT_HELP = (
    "Try to refute that the code keeps a guarantee: canaries against every stage, and all of them together, at the "
    "noise that a configuration plans, or that a verified run did. An audit of code: what a run drew, its noise meter "
    "says (fedmm verify), and its canaries, where it has any.\n\n"
    "Results stand in a folder of yours; with --sign they are put beside the run too, and count in a compliance "
    "report.\n\n"
    "Exit status 1 if a claim is refuted or the run does not verify; with --faults, if fewer than nine in ten are "
    "caught.\n\n"
    "Example: fedmm audit runs/x; fedmm audit runs/x --users audit/jp; "
    "fedmm audit xmarket-release --set privacy.epsilon=2 --market mx"
)
ENOUGH_CAUGHT = 0.9  # of the faults
_NONCE = re.compile(r"[0-9a-f]{64}")


def audit(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="Shipped name, YAML file or run directory.")],
    overrides: SetOption = None,
    market: Annotated[str | None, typer.Option(help="Market whose plan is audited; default: the smallest.")] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    canaries: Annotated[
        int | None, typer.Option(min=16, help="Of each audit; default: enough to see ε at twice the claim.")
    ] = None,
    level: Annotated[float, typer.Option(min=1e-6, max=0.5, help="False-alarm rate of the whole audit.")] = 0.05,
    faults: Annotated[
        bool, typer.Option("--faults", help="Audit the audit: break each mechanism on purpose and see it caught.")
    ] = False,
    users: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of a run on canary users: as fedmm data canaries left it; reads them through what the run published.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Your folder for results; default: audits/ID of a run, none of a configuration.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of an earlier audit: draws the same games again.")
    ] = None,
    keys: SignOption = None,
    passphrase_file: PassphraseOption = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm audit``."""
    if keys is not None and (faults or not Path(source).is_dir()):
        raise ConfigError("--sign goes with the audit of a run's plan: what is signed is a statement about its ledgers")
    if nonce is not None and not _NONCE.fullmatch(nonce):
        raise ConfigError("--nonce: 64 hexadecimal digits, as in the settings of an earlier audit")
    if users is not None:
        if not Path(source).is_dir() or faults or overrides or market or canaries:
            raise ConfigError("--users goes with a run directory, and with --level, --sign and --json alone")
        identity = read_signer(keys, passphrase_file)
        raise typer.Exit(_audit_users(Path(source), users, level, identity, as_json=as_json))
    identity = read_signer(keys, passphrase_file)
    # what follows loads torch and jax, which takes seconds
    from experiments.assessment import audit as audits
    from experiments.reports.run import write_report
    from experiments.runs.executors import executor_of

    run = Path(source) if Path(source).is_dir() else None
    given = None if nonce is None else bytes_of(nonce)
    with RunProgress(quiet=quiet or as_json) as progress, nullcontext() if run is None else examining(run):
        audited = audits.read_audited(source, overrides or [], market)
        folder = out or audited.folder
        if faults:
            found = audits.audit_faults(audited, canaries=canaries, nonce=given, report=progress.update, out=folder)
        else:
            found = audits.audit(
                audited,
                canaries=canaries,
                level=level,
                nonce=given,
                executor=executor_of(workers or audited.plan.config.workers, cluster),
                report=progress.update,
                out=folder,
                identity=identity,
            )
            if run is not None and identity is not None:
                write_report(run)
    if as_json:
        say_json(found)
    elif faults:
        _print_faults(found)
    else:
        _print_audit(audited.market, found)
        if audited.measured:
            _print_measured(audited.market, audited.measured)
        if folder is not None:
            say(f"in {folder / audited.market}")
    if faults:
        caught = sum(result["caught"] for result in found)
        raise typer.Exit(0 if caught >= ENOUGH_CAUGHT * len(found) else FINDING)
    raise typer.Exit(FINDING if audits.violations(found) else 0)


def _audit_users(run: Path, folder: Path, level: float, identity: Identity | None, *, as_json: bool) -> int:
    """What canary users showed; the exit status."""
    from experiments.assessment.canary_users import audit_canary_users, reading_results, sign_readings
    from experiments.reports.run import write_report

    with examining(run):
        market, readings = audit_canary_users(run, folder, level)
        if identity is not None:
            sign_readings(run, market, readings, level, identity)
            write_report(run)
    if as_json:
        say_json(reading_results(market, readings))
    else:
        table = Table("published", "claimed ε", "verdict", "bounds", "AUC", "p", "in / candidates")
        for one in readings:
            table.add_row(
                one.reading,
                epsilon_text(one.claimed),
                f"VIOLATED: {one.seen}" if one.refuted else _LOST if one.lost else "not refuted",
                f"{one.low_fdp:.2f} / {one.low_one_run:.2f}",
                f"{one.auc:.3f}",
                f"{one.p_value:.2g}",
                f"{one.present} / {one.candidates}",
            )
        wide_console().print(f"canary users of market {market}, read through what the run published", table)
        say("bounds: below which ε is not, at 95 %: f-DP, for Gaussian trade-off curves / Steinke et al.")
    return FINDING if any(one.refuted or one.lost for one in readings) else 0


def _print_audit(market: str, found: list[dict[str, Any]]) -> None:
    table = Table("stage", "game", "claimed ε", "verdict", "sees ε ≥", "bounds", "p", "canaries", "needed", "seconds")
    for result in found:
        table.add_row(
            result["stage"],
            result["game"],
            epsilon_text(result["claimed"]),
            _verdict(result),
            "-" if result["detects"] is None else epsilon_text(result["detects"]),
            _bounds_text(result),
            f"{result['p_value']:.2g}",
            str(result["canaries"]),
            "-" if result["needed"] is None else str(result["needed"]),
            f"{result['seconds']:.0f}",
        )
    title = f"audit of the code, at the plan of market {market}, δ {found[0]['delta']:.2g}"
    wide_console().print(title, table)
    say(
        "sees: had ε been this or more, the audit would have detected it with 95 % power; bounds: below which ε is not,"
    )
    say("at 95 %: f-DP, for Gaussian trade-off curves / Steinke et al.")
    say("needed: canaries that see ε at twice the claim, and noise at .9")


def _print_measured(market: str, measured: Sequence[Measured]) -> None:
    table = Table("stage", "noise / stated", "a canary's weight / stated", "claimed ε", "bounds", "canaries")
    for one in measured:
        ratios = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in (one.noise, one.weight)]
        result = one.result
        rest = ["-", "-", "0"]
        if result is not None:
            bounds = f"{result.low_fdp:.2f} / {result.low_one_run:.2f}"
            rest = [epsilon_text(result.claimed), bounds, str(result.canaries)]
        table.add_row(one.stage, *ratios, *rest)
    wide_console().print(f"canaries of the run itself, market {market}", table)


def _print_faults(found: list[dict[str, Any]]) -> None:
    table = Table("fault", "stage", "game", "claimed ε", "caught", "seen", "bounds", "canaries", "seconds")
    for result in found:
        table.add_row(
            result["fault"],
            result["stage"],
            result["game"],
            epsilon_text(result["claimed"]),
            "yes" if result["caught"] else "no",
            f"{result['direction']}: {result['seen']}",
            _bounds_text(result),
            str(result["canaries"]),
            f"{result['seconds']:.1f}",
        )
    wide_console().print(table)
    caught = sum(result["caught"] for result in found)
    say(f"caught {caught} of {len(found)}, at 95 % confidence each")


def _verdict(result: Mapping[str, Any]) -> str:
    verdict = str(result["verdict"])
    return f"{verdict}: {result['direction']} {result['seen']}" if verdict == "VIOLATED" else verdict


def _bounds_text(result: Mapping[str, Any]) -> str:
    return f"{result['low_fdp']:.2f} / {result['low_one_run']:.2f}"
