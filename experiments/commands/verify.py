"""``fedmm verify``: a run, or a compliance report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from experiments.commands.options import FINDING, JsonFlag
from experiments.commands.progress import TaskProgress
from experiments.commands.signing import PassphraseOption, read_passphrase
from experiments.presentation.console import one_line, say, say_json
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import judging
from privacy.aggregation.identities import read_card
from privacy.aggregation.keys import KeyDirectory
from privacy.foreign import held_still

if TYPE_CHECKING:
    from experiments.verification.replay import Replay
    from experiments.verification.run import Examination
    from privacy.accounting.ledger_check import Finding


@dataclass(frozen=True)
class ReportStated:
    """Who says what in a compliance report.

    Attributes:
        signer: name on the card; None where the report is not signed.
        card: its fingerprint.
        verdict: of the report.
    """

    signer: str | None
    card: str | None
    verdict: Literal["compliant", "not compliant"]

    @property
    def text(self) -> str:
        """In words."""
        who = "unsigned" if self.signer is None else f"signed by {self.signer}, card {self.card}"
        holds = self.verdict == "compliant"
        return f"{who}; {'the guarantee holds as stated' if holds else 'it says: not compliant'}"


VERIFY_HELP = (
    "Check a run: its ledgers against the plan of its configuration, every record, array and signature, ε by two "
    "accountants, and the noise by its spare values; or a compliance report, as JSON, page or DSSE envelope: its "
    "signature, its digests, and the run that it is about.\n\n"
    "Example: fedmm verify runs/x --signer card.json; fedmm verify runs/x --replay keys/auditor --data markets; "
    "fedmm verify compliance.html --run runs/x --card card.json"
)


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN|REPORT", help="A run directory, or a compliance report.")],
    run: Annotated[
        Path | None, typer.Option(help="Of a report: the run to compare it with; default: the folder it stands in.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Of a report: the card of who must have signed it.")] = None,
    server: Annotated[
        Path | None, typer.Option(help="Of a deployed run: the server's directory, to add up its aggregates again.")
    ] = None,
    signer: Annotated[
        Path | None,
        typer.Option(
            metavar="CARD", help="Of a run: the card of who must have signed every ledger's last line; got from them."
        ),
    ] = None,
    account: Annotated[
        Path | None,
        typer.Option(help="Of a report: the privacy account that holds its run; default: yours on this machine."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYS",
            help="Of a run with audit.replay: the auditor's key directory; draws every release again with the rows, "
            "and says which differ.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --replay: the folder of the markets' files, as they handed them over.")
    ] = None,
    run_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --replay: what the rows' owner made of its privacy account's key with fedmm keys run-key: shows "
            "that the rows are those that the run was opened on.",
        ),
    ] = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm verify``."""
    if path.is_file():
        if server is not None or signer is not None or replay is not None:
            raise ConfigError(f"{path}: --server, --signer and --replay are for run directories")
        with judging(path):
            with TaskProgress("verifying", quiet=as_json):
                stated, findings = check_report(path, run, card, account)
            _tell(path, stated.text, findings, [], vars(stated), as_json)
        raise typer.Exit(FINDING if findings else 0)
    if run is not None or card is not None or account is not None:
        raise ConfigError(f"{path}: --run, --card and --account are for compliance reports")
    if replay is None and (data is not None or run_key is not None or passphrase_file is not None):
        raise ConfigError("--data, --run-key and --passphrase-file go with --replay")
    if not path.is_dir():
        raise ConfigError(f"{path}: neither a run directory nor a report: there is no such file; is the name right?")
    from experiments.reports.run import page_findings  # the accountants and what reads models
    from experiments.verification.run import CHECKS, examine_run
    from fedmm_secure.federation.canaries import CANARIES
    from fedmm_secure.federation.coins import REPLAY

    with judging(path), held_still(path):
        with TaskProgress("verifying", quiet=as_json):
            brought = None if replay is None else _brought(replay, passphrase_file, data, run_key)
            examined = examine_run(path, server, None if signer is None else read_card(signer), brought)
            on_page, about_page = page_findings(path, examined) if examined.complete else ([], [])
        findings, notes = [*examined.findings, *on_page], [*_notes(examined), *about_page]
        checked = [*CHECKS, *(name for name in (CANARIES, REPLAY) if name in examined.checks)]
        _tell(path, ", ".join(checked), findings, notes, examined.to_data(), as_json)
    raise typer.Exit(FINDING if findings else 0)


def _brought(keys: Path, passphrase_file: Path | None, data: Path | None, run_key: Path | None) -> Replay:
    from experiments.verification.replay import Replay
    from fedmm_secure.federation.run_keys import read_run_key

    auditor = KeyDirectory(keys).identity(read_passphrase(passphrase_file))
    return Replay(auditor, data, None if run_key is None else read_run_key(run_key))


def check_report(
    path: Path, run: Path | None, card: Path | None, account: Path | None = None
) -> tuple[ReportStated, list[Finding]]:
    """What a compliance report says and who says it, and what does not hold.

    Raises:
        ConfigError: the file is no report.
    """
    from experiments.compliance.check import verify_report  # the accountants and what reads models
    from experiments.compliance.signing import ReportError
    from experiments.exports.attestation import is_envelope
    from experiments.exports.attestation_check import verify_attestation

    trusted = None if card is None else read_card(card)
    check = verify_attestation if is_envelope(path) else verify_report
    try:
        found, findings = check(path, run, trusted, account)
    except ReportError as error:
        what = str(error).removeprefix(f"{path}: ")
        if what.startswith("not a compliance report"):
            raise
        raise ConfigError(f"{path}: neither a run directory nor a report: {what}") from error
    signer = found.signature
    return ReportStated(
        signer=None if signer is None else signer.card.name,
        card=None if signer is None else signer.fingerprint,
        verdict="compliant" if found.document.verdict.compliant else "not compliant",
    ), findings


def _notes(examined: Examination) -> list[str]:
    """Who signed, and what else a reader should know of a run that verifies."""
    by_text: dict[str, list[str]] = {}
    for market, signature in examined.signatures.items():
        by_text.setdefault(signature.text, []).append(market)
    return [f"{', '.join(markets)}: {text}" for text, markets in by_text.items()] + [
        *examined.notes,
        *(f"not checked: {text}" for text in examined.unchecked),
    ]


def _tell(
    path: Path, verified: str, findings: Sequence[Finding], notes: Sequence[str], more: Mapping[str, Any], as_json: bool
) -> None:
    if as_json:
        say_json({"findings": [vars(found) for found in findings], **more})
    else:
        for found in findings:
            say(one_line(f"{found.where}: {found.what}"), error=True)
        if not findings:
            say(f"{path}: verified: {verified}")
        for note in notes:
            say(one_line(note))
