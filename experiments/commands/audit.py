"""``fedmm audit``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.options import FINDING, JsonFlag, Quiet, SetOption, WorkersOption
from experiments.commands.progress import RunProgress
from experiments.commands.signing import PassphraseOption, SignOption, read_signer
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import examining
from privacy.accounting.text import epsilon_text

AUDIT_HELP = (
    "Try to refute a guarantee: canaries against every stage and all of them together, lower bounds on ε.\n\n"
    "With --sign the results count in a compliance report.\n\n"
    "Exit status 1 if a claim is refuted; with --faults, if fewer than nine in ten are caught.\n\n"
    "Example: fedmm audit runs/x; fedmm audit xmarket-release --set privacy.epsilon=2 --market mx"
)
ENOUGH_CAUGHT = 0.9  # of the faults; half the noise is beyond games that train a model for each canary


def audit(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="Shipped name, YAML file or run directory.")],
    overrides: SetOption = None,
    market: Annotated[str | None, typer.Option(help="Market to audit; default: the smallest.")] = None,
    workers: WorkersOption = None,
    canaries: Annotated[
        int | None, typer.Option(min=16, help="Of each audit; default: enough to see half the noise.")
    ] = None,
    level: Annotated[float, typer.Option(min=1e-6, max=0.5, help="False-alarm rate of the whole audit.")] = 0.05,
    faults: Annotated[
        bool, typer.Option("--faults", help="Audit the audit: break each mechanism on purpose and see it caught.")
    ] = False,
    keys: SignOption = None,
    passphrase_file: PassphraseOption = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    if keys is not None and (faults or not Path(source).is_dir()):
        raise ConfigError("--sign goes with the audit of a run: what is signed is a statement about its directory")
    identity = read_signer(keys, passphrase_file)
    # what follows loads torch and jax, which takes seconds
    from experiments.assessment import audit as audits
    from experiments.reports.run import write_report

    run = Path(source) if Path(source).is_dir() else None
    with RunProgress(quiet=quiet or as_json) as progress, nullcontext() if run is None else examining(run):
        audited = audits.read_audited(source, overrides or [], market, workers)
        if faults:
            found = audits.audit_faults(audited, canaries=canaries, report=progress.update)
        else:
            found = audits.audit(audited, canaries=canaries, level=level, report=progress.update, identity=identity)
            if run is not None:
                write_report(run)
    if as_json:
        say_json(found)
    elif faults:
        _print_faults(found)
    else:
        _print_audit(audited.market, found)
    if faults:
        caught = sum(result["caught"] for result in found)
        raise typer.Exit(0 if caught >= ENOUGH_CAUGHT * len(found) else FINDING)
    raise typer.Exit(FINDING if audits.violations(found) else 0)


def _print_audit(market: str, found: list[dict[str, Any]]) -> None:
    table = Table("stage", "game", "claimed ε", "lower bounds", "verdict", "canaries", "needed", "seconds")
    for result in found:
        table.add_row(
            result["stage"],
            result["game"],
            epsilon_text(result["claimed"]),
            _bounds_text(result),
            str(result["verdict"]),
            str(result["canaries"]),
            "-" if result["needed"] is None else str(result["needed"]),
            f"{result['seconds']:.0f}",
        )
    wide_console().print(f"audit of market {market}, δ {found[0]['delta']:.2g}", table)
    say("lower bounds: no assumption / Gaussian trade-off curve / one run; needed: canaries to see half the noise")


def _print_faults(found: list[dict[str, Any]]) -> None:
    table = Table("fault", "stage", "game", "claimed ε", "lower bounds", "caught", "canaries", "seconds")
    for result in found:
        table.add_row(
            result["fault"],
            result["stage"],
            result["game"],
            epsilon_text(result["claimed"]),
            _bounds_text(result),
            "yes" if result["caught"] else "no",
            str(result["canaries"]),
            f"{result['seconds']:.1f}",
        )
    wide_console().print(table)
    caught = sum(result["caught"] for result in found)
    say(f"caught {caught} of {len(found)}, at 95 % confidence each")


def _bounds_text(result: Mapping[str, Any]) -> str:
    bounds = [result["low"], result["low_gaussian"], result["low_one_run"]]
    return " / ".join("-" if bound is None else f"{bound:.2f}" for bound in bounds)
