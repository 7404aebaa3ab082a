"""``fedmm attack`` and ``fedmm audit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from attacks.membership.queries import Unit
from experiments.attack import ATTACKS, DEFAULT_SHADOWS, UNITS, attack_run, beyond_bounds
from experiments.commands.keys import PassphraseOption, SignOption, read_signer
from experiments.commands.options import FINDING, JsonFlag, Quiet, SetOption
from experiments.commands.progress import RunProgress
from experiments.console import one_line, say, say_json, wide_console
from experiments.reports.attacks import strongest
from experiments.reports.run import write_report
from experiments.reports.text import estimate_text
from experiments.run_directory import examining
from experiments.tables import Table
from fedmm_secure.ctr.recipes import CONFIGURED
from fedmm_secure.errors import ConfigError
from privacy.accounting.text import epsilon_text

ATTACK_HELP = (
    "Attack a run: codebook inversion, reconstruction of embeddings and histories, membership inference, poisoning.\n\n"
    "Exit status 1 if an attack does better than a guarantee of the run admits. With --sign the results count in a "
    "compliance report; nothing that lies in the directory is then taken for a result.\n\n"
    "Example: fedmm attack runs/x --attack membership --market mx --target local-ids --target federated-codes"
)
AUDIT_HELP = (
    "Try to refute a guarantee: canaries against every stage and all of them together, lower bounds on ε.\n\n"
    "With --sign the results count in a compliance report.\n\n"
    "Exit status 1 if a claim is refuted; with --faults, if fewer than nine in ten are caught.\n\n"
    "Example: fedmm audit runs/x; fedmm audit xmarket-release --set privacy.epsilon=2 --market mx"
)
ENOUGH_CAUGHT = 0.9  # of the faults; half the noise is beyond games that train a model for each canary
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: as configured.")]


def attack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help=f"Attack to make, default all that the run admits: {', '.join(ATTACKS)}."),
    ] = None,
    market: Annotated[str | None, typer.Option(help="Market to attack; default: the smallest.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Model to attack: fedmm (default), local-ids, local-codes, federated-codes, …"),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help=f"What membership is asked about, default both: {', '.join(UNITS)}.")
    ] = None,
    shadows: Annotated[int, typer.Option(min=4, help="Shadow pipelines.")] = DEFAULT_SHADOWS,
    workers: Workers = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the markets' files, where the run read any; default: that in FEDMM_DATA."),
    ] = None,
    keys: SignOption = None,
    passphrase_file: PassphraseOption = None,
    quiet: Quiet = False,
    as_json: JsonFlag = False,
) -> None:
    identity = read_signer(keys, passphrase_file)
    units: list[Unit] = [known for known in UNITS if not unit or known in unit]
    unknown = sorted(set(unit or ()) - set(UNITS))
    if unknown:
        raise ConfigError(f"--unit {unknown[0]}: choose from {', '.join(UNITS)}")
    with RunProgress(quiet=quiet or as_json) as progress, examining(run):
        found = attack_run(
            run,
            attacks=attacks,
            market=market,
            targets=target or [CONFIGURED],
            units=units,
            n_shadows=shadows,
            workers=workers,
            progress=lambda done, total: progress.update("shadow pipelines", done, total),
            identity=identity,
            data=data,
        )
        report = write_report(run)
    if as_json:
        say_json(found)
    else:
        _print_attacks(found)
        say(f"\nresults, scores and figures  {run / 'attacks'}\nreport                       {report}")
    beyond = beyond_bounds(found)
    for line in beyond:
        say(one_line(line))
    raise typer.Exit(FINDING if beyond else 0)


def audit(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="Shipped name, YAML file or run directory.")],
    overrides: SetOption = None,
    market: Annotated[str | None, typer.Option(help="Market to audit; default: the smallest.")] = None,
    workers: Workers = None,
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
    from experiments import audit as audits  # jax, for the statistics, takes a second to load

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


def _print_attacks(found: Mapping[str, list[dict[str, Any]]]) -> None:
    console = wide_console()
    for kind, results in found.items():
        if results:
            console.print(_TITLES[kind], _TABLES[kind](results))


def _inversion(results: list[dict[str, Any]]) -> Table:
    table = Table(
        "view", "aggregation", "markets", "updates recovered exactly", "cosine", "sender identified", "chance"
    )
    for result in results:
        estimates = (estimate_text(result[key]) for key in ("exact_share", "cosine", "identified"))
        head = result["view"], result["aggregation"], str(result["cohort"])
        table.add_row(*head, *estimates, f"{result['chance']:.3f}")
    return table


def _reconstruction(results: list[dict[str, Any]]) -> Table:
    table = Table(
        "market", "view", "attack", "cosine", "prior alone", "advantage", "cosine ≥ .9", "prior", "identified"
    )
    for result in results:
        estimates = (estimate_text(result[key]) for key in ("cosine", "prior", "advantage"))
        identified = "-" if result["identified"] is None else f"{result['identified']['value']:.3f}"
        rates = (f"{result[key]['value']:.3f}" for key in ("matched", "prior_matched"))
        head = result["market"], _view(result), result["attack"]
        table.add_row(*head, *estimates, *rates, identified)
    return table


def _usage(results: list[dict[str, Any]]) -> Table:
    table = Table("market", "view", "aggregation", "AUC of used codes", "rank correlation", "shared (ARI)", "prior")
    for result in results:
        auc = "-" if result["used_auc"] is None else f"{result['used_auc']:.3f}"
        head = result["market"], result["view"], result["aggregation"]
        shared = (f"{result[key]:.3f}" for key in ("sharing", "sharing_prior"))
        table.add_row(*head, auc, estimate_text(result["rank_correlation"]), *shared)
    return table


def _histories(results: list[dict[str, Any]]) -> Table:
    table = Table("market", "view", "attack", "users", "precision at 10", "popularity", "advantage")
    for result in results:
        estimates = (estimate_text(result[key]) for key in ("precision", "prior", "advantage"))
        table.add_row(result["market"], _view(result), result["attack"], str(result["users"]), *estimates)
    return table


def _membership(results: list[dict[str, Any]]) -> Table:
    """The strongest attack of each view; all of them are in the results' files."""
    table = Table("market", "target", "unit", "view", "attack", "AUC", "TPR at 1 % FPR", "models", "within ε")
    for result in strongest(results):
        estimates = (estimate_text(result[key]) for key in ("auc", "tpr_at_1_percent_fpr"))
        bound = result["bound"]
        within = "-" if bound is None else ("yes" if all(bound["within"].values()) else "NO")
        head = result["market"], result["target"], result["unit"], result["view"], result["attack"]
        table.add_row(*head, *estimates, str(result["targets"]), within)
    return table


def _poisoning(results: list[dict[str, Any]]) -> Table:
    table = Table(
        "attacker", "strategy", "joined by", "AUC of the others", "AUC lost", "codes used", "codes kept (ARI)"
    )
    for result in results:
        estimates = (estimate_text(result[key]) for key in ("auc", "loss"))
        codes = f"{result['codes']:.1f}", f"{result['agreement']:.2f}"
        table.add_row(result["market"], result["strategy"], result["defence"], *estimates, *codes)
    return table


def _view(result: Mapping[str, Any]) -> str:
    """Nothing is published without ``protect: release``: the white box is then what it would be."""
    hypothetical = "release" in result["view"] and not result["published"]
    return f"{result['view']} (if published)" if hypothetical else str(result["view"])


_TABLES: Mapping[str, Callable[[list[dict[str, Any]]], Table]] = {
    "inversion": _inversion,
    "reconstruction": _reconstruction,
    "usage": _usage,
    "histories": _histories,
    "membership": _membership,
    "poisoning": _poisoning,
}
_TITLES = {
    "inversion": "recovery of single updates",
    "reconstruction": "reconstruction of user embeddings",
    "usage": "use of global codes",
    "histories": "recovery of training items",
    "membership": "membership inference, the strongest attack of each view (mean and 95 % interval)",
    "poisoning": "a malicious market",
}
