"""``fedmm report``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.options import FINDING
from experiments.commands.progress import TaskProgress
from experiments.commands.signing import PassphraseOption, SignOption, read_signer
from experiments.compliance.document import MOST_TRUSTED, Declarations, TrustedStated, schema_text
from experiments.presentation.console import one_line, say
from experiments.sweep.files import is_sweep
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import examining, read_foreign_config
from privacy.aggregation.identities import read_card

REPORT_HELP = (
    "Write the HTML page of a run or a sweep again; with --compliance, a report for auditors as HTML and JSON; with "
    "--registry, --bom or --dsse, what it says in formats of others.\n\n"
    "Exit status 1 if the compliance report says that the guarantee may not be relied on.\n\n"
    "Example: fedmm report runs/x --trust keys/owner/card.json; "
    "fedmm report runs/x --compliance --sign keys/auditor --max-epsilon 8"
)


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN|SWEEP", help="Directory of a run or a sweep.", show_default=False)
    ] = None,
    compliance: Annotated[bool, typer.Option("--compliance", help="The report for auditors.")] = False,
    registry: Annotated[
        bool, typer.Option("--registry", help="A draft record for the registry of DP deployments (OpenDP and NIST).")
    ] = False,
    bom: Annotated[bool, typer.Option("--bom", help="Models and data as a CycloneDX bill of materials.")] = False,
    dsse: Annotated[
        bool,
        typer.Option("--dsse", help="With --compliance --sign: also as in-toto statement in a DSSE envelope."),
    ] = False,
    keys: SignOption = None,
    passphrase_file: PassphraseOption = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(
            help="Your organisation's limit on every ε that is claimed; required with --compliance, by default the "
            "run's budget with --registry and --bom."
        ),
    ] = None,
    max_delta: Annotated[
        float | None,
        typer.Option(help="Its limit on every δ, where that is below 1/n^1.1 of a market's n users, the limit anyway."),
    ] = None,
    sole_run: Annotated[
        bool,
        typer.Option(
            "--declare-sole-run",
            help="Declare that nothing of other runs on the data left the machine, nor was this one chosen by them.",
        ),
    ] = False,
    account: Annotated[
        Path | None,
        typer.Option(help="Privacy account that holds the runs; default: yours on this machine."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CARD",
            help="Card of somebody whose closings and evidence count, its fingerprint compared with its owner; repeat.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE",
            help="Write nothing but the tables of a sweep of methods, into a Markdown page, between two marks.",
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of compliance reports.")] = False,
) -> None:
    """``fedmm report``."""
    if schema:
        say(schema_text(), end="")
        return
    if run is None:
        raise ConfigError("which run? give a directory of a run or a sweep")
    if len(trust or []) > MOST_TRUSTED:
        raise ConfigError(f"--trust names {len(trust or [])} cards; it may be {MOST_TRUSTED} at most")
    if not compliance and (keys is not None or dsse):
        raise ConfigError("--sign and --dsse go with --compliance")
    if dsse and keys is None:
        raise ConfigError("--dsse needs --sign KEYS: an envelope without a signature shows nothing")
    if not (compliance or registry or bom):
        if sole_run or max_epsilon is not None or max_delta is not None:
            raise ConfigError(
                "--max-epsilon, --max-delta and --declare-sole-run go with --compliance, --registry and --bom"
            )
        if into is None:
            _write_page(run, trust or [], account)
        else:
            _write_tables(run, into)
        return
    if into is not None:
        raise ConfigError("--into goes with the page of a sweep alone")
    if is_sweep(run):
        raise ConfigError(f"{run}: a compliance report is about one run; give one of {run / 'cells'}")
    max_epsilon = _limit(run, max_epsilon, compliance)
    if max_delta is not None and not 0 < max_delta < 1:
        raise ConfigError(f"--max-delta {max_delta:g}: a number between 0 and 1 is expected")
    identity, cards = read_signer(keys, passphrase_file), list(dict.fromkeys(read_card(path) for path in trust or []))
    declarations = Declarations(
        signer=None if identity is None else identity.card.fingerprint,
        trusted=[TrustedStated(name=card.name, fingerprint=card.fingerprint) for card in cards],
        sole_run=sole_run,
        max_epsilon=max_epsilon,
        max_delta=max_delta,
    )
    from experiments.compliance.build import build_document  # the accountants and what reads models
    from experiments.compliance.signing import sign, write_report_files
    from experiments.exports.attestation import write_attestation
    from experiments.exports.bom import write_bom
    from experiments.exports.registry import registry_record, write_registry

    written = list[Path]()
    with TaskProgress("writing the report"), examining(run):
        document = build_document(run, declarations, account=account)
        record = registry_record(document) if registry else None  # refused before anything is written
        if compliance:
            signed = sign(document, identity)
            written += write_report_files(run, signed)
            if dsse and identity is not None:
                written.append(write_attestation(run, signed, identity))
        if bom:
            written.append(write_bom(run, document))
        if record is not None:
            written.append(write_registry(run, record))
    for path in written:
        say(path)
    for reason in document.verdict.reasons if compliance else []:
        say(one_line(f"not compliant: {reason}"))
    for item in document.verdict.open if compliance else []:
        say(one_line(f"open: {item}"))
    raise typer.Exit(FINDING if compliance and not document.verdict.compliant else 0)


def _write_page(run: Path, trust: Sequence[Path], account: Path | None) -> None:
    if trust and is_sweep(run):
        raise ConfigError(f"{run}: --trust goes with the page of a run; give one of {run / 'cells'}")
    from experiments.reports.run import write_report  # what reads models, and what draws
    from experiments.reports.sweep import open_sweep, write_sweep_report

    with TaskProgress("writing the page"), examining(run):
        if is_sweep(run):
            path = write_sweep_report(open_sweep(run), account=account)
        else:
            path = write_report(run, [read_card(card).fingerprint for card in trust])
    say(path)


def _write_tables(run: Path, page: Path) -> None:
    if not is_sweep(run):
        raise ConfigError(f"{run}: no sweep: --into takes the tables of one whose blocks are methods")
    from experiments.reports.methods import put_tables  # what compares runs

    put_tables(run, page)
    say(page)


def _limit(run: Path, max_epsilon: float | None, compliance: bool) -> float:
    """What every claimed ε is held against: the organisation's limit, or of what nobody signs the run's own budget."""
    if max_epsilon is None and compliance:
        raise ConfigError(
            "--compliance needs --max-epsilon: without your organisation's limit on ε, any ε would be compliant"
        )
    if max_epsilon is None:
        max_epsilon = read_foreign_config(run).privacy.epsilon
    if max_epsilon is None:
        raise ConfigError(f"{run}: has no budget; which limit is its ε to be held against? --max-epsilon")
    if not 0 < max_epsilon < math.inf:
        raise ConfigError(f"--max-epsilon {max_epsilon:g}: a finite number above 0 is expected")
    return max_epsilon
