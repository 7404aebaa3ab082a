"""From a run directory to a compliance report's document."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent, RandomizedResponseDpEvent

from experiments.assessment.statements import binding_of
from experiments.compliance.document import (
    AcrossMarkets,
    AllRuns,
    Declarations,
    Document,
    GuaranteeStated,
    LedgerStated,
    MarketStated,
    RunStated,
    VerdictStated,
    Verification,
)
from experiments.compliance.evidence import canaries_stated, examine, trusting
from experiments.compliance.judgement import (
    ASSUMPTIONS,
    ROUNDING,
    document_verdict,
    not_guaranteed,
    trusted_fingerprints,
)
from experiments.compliance.questions import answer_questions
from experiments.verification.closing import ClosingSignature
from experiments.verification.run import CHECKS, examine_run
from fedmm_secure.config import Config, configuration_hash
from fedmm_secure.federation.account import firsts_on_same_data, readers_account, spent_on_same_data
from fedmm_secure.federation.account_entries import planned_spending
from fedmm_secure.federation.closing import file_digests
from fedmm_secure.federation.parties import min_cohort
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import ALL_VIEWS, CLAIMS, EVALUATION, SERVER_VIEW, VIEWS, has_sums, scheduled
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_environment, read_foreign_config, read_metrics, read_noise
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.events import gaussian_steps
from privacy.accounting.groups import NotKnownError, joint_epsilon, joint_spendings
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.ledger import GENESIS, LedgerError, read_ledger, stage_group
from privacy.accounting.places import state_folder
from privacy.accounting.spendings import Spending, spent_to_data
from privacy.errors import InputError
from privacy.foreign import MAX_LINES_BYTES, ForeignFileError, read_bytes, reading_once

_PENDING = VerdictStated(compliant=False, reasons=["not judged yet"], open=[])


@reading_once
def build_document(
    directory: Path, declarations: Declarations, *, created: str | None = None, account: Path | None = None
) -> Document:
    """The document of a finished run.

    Args:
        directory: the run directory.
        declarations: what the signer says.
        created: time of the report, ISO 8601; by default now.
        account: the reader's privacy account; by default that of this machine's user, never one that lies with the run.

    Raises:
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_foreign_config(directory), read_metrics(directory)
    examination = examine_run(directory)
    known_runs = readers_account(account)
    findings = [f"{_inside(directory, found.where)}: {found.what}" for found in examination.findings]
    claimed = CLAIMS[config.privacy.protect]
    evidence = trusting(examine(directory), trusted_fingerprints(declarations))
    statements = metrics["privacy"]["markets"]
    markets = {
        name: MarketStated(
            users=metrics["markets"][name]["n_users"],
            items=metrics["markets"][name]["n_items"],
            catalogue=metrics["privacy"]["catalogue"][name],
            views={view: _guarantee(views[view]) for view in ALL_VIEWS},
            changed_rows={view: _guarantee(views[view]["changed_rows"]) for view in VIEWS},
            stages={stage: found["epsilon"] for stage, found in views["stages"].items() if found is not None},
            noise_multipliers=_noise(directory, name),
            mechanisms=_mechanisms(directory, name),
            shown=file_digests(directory, config, name),
            all_runs=_all_runs(known_runs, config, directory, name, views, claimed),
            ledger=_ledger(directory, name, views, examination.signatures.get(name)),
            audit=[audit for found in evidence for audit in found.audits.get(name, [])],
            canaries=canaries_stated(examination.measured.get(name, ())),
            canary_file=config.audit.users.get(name),
            canary_users=[reading for found in evidence for reading in found.canary_users.get(name, [])],
        )
        for name, views in statements.items()
    }
    private_evaluation = all(views["stages"].get(EVALUATION) is not None for views in statements.values())
    document = Document(
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        run=RunStated(
            name=directory.resolve().name,
            id=binding_of(directory).run,
            configuration_sha256=configuration_hash(config).hex(),
            protect=config.privacy.protect,
            aggregation=config.aggregation.kind,
            claimed_views=list(claimed),
            seeds=list(config.seed),
            tuned=config.ctr.tune,
            synthetic=config.data.synthetic is not None,
            shared_users=config.data.shared_users,
            one_noise=has_sums(config),
            private_evaluation=private_evaluation,
            baselines=[] if private_evaluation else sorted(config.ctr.baselines),  # noisy figures are of one model
            summed=list(dict.fromkeys(stage_group(stage) for stage, _ in scheduled(config))),
            smallest_cohort=min_cohort(config, config.data.n_markets),
            replay_auditor=None if config.audit.replay is None else config.audit.replay.card.fingerprint,
        ),
        declarations=declarations,
        verdict=_PENDING,
        markets=markets,
        across_markets=_across_markets(known_runs, config, directory, statements, claimed, declarations),
        verification=Verification(
            verified=not findings,
            findings=findings,
            checked=list(CHECKS.values()),
            unchecked=[_without_paths(text, known_runs, directory) for text in examination.unchecked],
        ),
        evidence=[found.stated for found in evidence],
        attacks=[attack for found in evidence for attack in found.attacks],
        assumptions=ASSUMPTIONS,
        not_guaranteed=[],
        questions=[],
        environment=_environment(directory),
    )
    document = document.model_copy(
        update={"not_guaranteed": not_guaranteed(document), "verdict": document_verdict(document)}
    )
    return document.model_copy(update={"questions": answer_questions(document)})


def _guarantee(found: Mapping[str, Any]) -> GuaranteeStated:
    return GuaranteeStated(**{key: found[key] for key in ("epsilon", "delta", "unit", "basis")})


def _all_runs(
    account: PrivacyAccount,
    config: Config,
    directory: Path,
    market: str,
    views: Mapping[str, Any],
    claimed: tuple[str, ...],
) -> AllRuns:
    """Composition of every run that the account holds on the market's data, later ones too.

    Whoever chose this run among them, and every market that saw their sums, has observed them all.
    """
    observed = [view for view in claimed if view != SERVER_VIEW]
    before = views["with_earlier_runs"]
    by_ledger = {
        "ledger_runs": before["earlier_runs"] + 1,
        "ledger_epsilon": {
            SERVER_VIEW: views[SERVER_VIEW]["epsilon"],
            **{view: before[view]["epsilon"] for view in observed},
        },
    }
    try:
        spendings = _spendings(account, config, directory, market)
        firsts = [] if config.data.synthetic is not None else firsts_on_same_data(account, directory, market)
    except (AccountError, LedgerError) as error:
        problem = _without_paths(str(error), account, directory)
        nothing = {"runs": None, "problem": problem, "without_bound": 0, "as_planned": False, "ceiling": None}
        return AllRuns(**nothing, epsilon=dict.fromkeys(claimed), **by_ledger)
    delta = views["market"]["delta"]
    unbounded = [run for run in spendings if any(gaussian_steps(run.observed(view)) is None for view in observed)]
    epsilon: dict[str, float | None] = {}
    for view in claimed:
        total = several_runs_epsilon(list(map(_seen_by_servers, spendings)), view, delta)
        epsilon[view] = None if math.isinf(total) else total
    if len(spendings) <= before["earlier_runs"]:  # a ledger's note does not say what servers read of other runs
        epsilon[SERVER_VIEW] = None
    return AllRuns(
        runs=len(spendings),
        problem=None,
        without_bound=len(unbounded),
        as_planned=_as_planned(config, directory, market, spendings),
        epsilon=epsilon,
        ceiling=_ceiling(firsts, observed, delta),
        **by_ledger,
    )


def _seen_by_servers(run: Spending) -> Spending:
    """What a run spends, with what its server sees; where an account does not say, that may be all that markets do."""
    return (
        run if SERVER_VIEW in run.events else replace(run, events={**run.events, SERVER_VIEW: run.observed("market")})
    )


def _ceiling(firsts: Sequence[Spending], observed: Sequence[str], delta: float) -> float | None:
    """ε that the first run on the data fixed; None where it fixed none.

    A ceiling at a larger δ, or for fewer views than the report claims a bound for, is none on what it claims. Where
    several runs began with none known, as in accounts of their own, nothing held them to it together.
    """
    fixed = firsts[0].ceiling if len(firsts) == 1 else None
    holds = fixed is not None and fixed.delta <= delta * ROUNDING and {*observed} <= {*fixed.views}
    return fixed.epsilon if fixed is not None and holds else None


def _spendings(account: PrivacyAccount, config: Config, directory: Path, market: str) -> list[Spending]:
    """What all runs on a market's data spend; of rows that are nobody's no account knows, and this run is all there is.

    Raises:
        AccountError: the account does not say.
        LedgerError: the ledger does not say what the run was planned on.
    """
    if config.data.synthetic is None:
        return spent_on_same_data(account, directory, market)
    return [_planned(config, directory, market)]


def _across_markets(
    account: PrivacyAccount,
    config: Config,
    directory: Path,
    statements: Mapping[str, Any],
    claimed: tuple[str, ...],
    declarations: Declarations,
) -> AcrossMarkets:
    """What the same runs as elsewhere in the report spend on a person who has rows in all markets, if it is known."""
    observed = [view for view in claimed if view != SERVER_VIEW]
    delta = max(views["market"]["delta"] for views in statements.values())
    totals: dict[str, float] = {}
    try:
        spendings = {market: _spendings(account, config, directory, market) for market in statements}
        if declarations.sole_run:
            run = binding_of(directory).run
            spendings = {market: [one for one in found if one.run == run] for market, found in spendings.items()}
        totals = {view: joint_epsilon(joint_spendings(spendings, view), delta) for view in observed}
        problem = None
    except (AccountError, LedgerError) as error:
        problem = _without_paths(str(error), account, directory)
    except NotKnownError as error:
        problem = str(error)
    epsilon = {view: totals[view] if math.isfinite(totals.get(view, math.inf)) else None for view in observed}
    return AcrossMarkets(markets=len(statements), epsilon=epsilon, delta=delta, problem=problem)


def _as_planned(config: Config, directory: Path, market: str, spendings: Sequence[Spending]) -> bool:
    """Whether each course of the run is in the account with what its plan spends."""
    try:
        expected = _planned(config, directory, market)
    except LedgerError:  # verification says what is wrong with it
        return False
    own = [spending for spending in spendings if spending.run == expected.run]
    return bool(own) and all(_as_entered(spending, expected) for spending in own)


def _planned(config: Config, directory: Path, market: str) -> Spending:
    """What the run's plan spends, by what its ledger was opened with; raises ``LedgerError`` where that is no plan."""
    path = RunDirectory(directory).ledger(market)
    opening = read_ledger(path).opening
    try:
        sizes = {name: MarketSize(**size) for name, size in opening["sizes"].items()}
        return planned_spending(str(opening["run"]), SpendingPlan.of(config, market, sizes, opening["noise"]))
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise LedgerError(f"{path}:1: no plan can be made of what it commits to") from error


def _as_entered(entered: Spending, expected: Spending) -> bool:
    """Lines of an earlier version do not say how many markets a run is of, nor what its server sees; no plan says by
    which column users are."""
    of_markets = expected.markets if entered.markets is None else entered.markets
    events = {SERVER_VIEW: expected.events[SERVER_VIEW], **entered.events}
    return spent_to_data(replace(entered, events=events, markets=of_markets, users=None)) == spent_to_data(expected)


def _noise(directory: Path, market: str) -> dict[str, float]:
    """None where the ledger cannot be read, which is among the findings."""
    try:
        return read_noise(directory, market)
    except LedgerError:
        return {}


def _mechanisms(directory: Path, market: str) -> dict[str, str]:
    """Of stages that were charged; empty where the ledger cannot be read, which is among the findings."""
    try:
        charges = read_ledger(RunDirectory(directory).ledger(market)).charges
    except LedgerError:
        return {}
    return {stage_group(charge.entry.stage): charge.entry.mechanism for charge in charges}


def _ledger(directory: Path, market: str, views: Mapping[str, Any], signature: ClosingSignature | None) -> LedgerStated:
    path = RunDirectory(directory).ledger(market)
    try:
        content = read_ledger(path)
        sha256: str | None = hashlib.sha256(read_bytes(path, MAX_LINES_BYTES, below=directory)).hexdigest()
        lines, head, rows = len(content.kinds), content.head, content.opening.get("data")
        seeded = any(entry.seeded for entry in content.entries)
        exact = all(charge.entry.coordinates > 0 for charge in content.charges if _draws(charge.entry.event))
    except (LedgerError, ForeignFileError):  # among the findings; the document cannot vouch for what it cannot read
        sha256, lines, head, rows, seeded, exact = None, 0, GENESIS, None, views["seeded"], False
    return LedgerStated(
        file=RunDirectory().ledger(market).as_posix(),
        sha256=sha256,
        data=rows if isinstance(rows, str) else None,
        lines=max(lines, 1),
        head=head,
        seeded=seeded,
        exact=exact,
        closed_by=None if signature is None else signature.fingerprint,
        self_signed=signature is not None and signature.own,
    )


def _draws(event: DpEvent) -> bool:
    """Whether a mechanism of this event adds noise: then its line says how many values of an exact law were drawn."""
    return isinstance(event, RandomizedResponseDpEvent) or bool(gaussian_steps(event))


def _environment(directory: Path) -> dict[str, str]:
    found = read_environment(directory)
    packages = {name: version for name, version in found["packages"].items() if version is not None}
    own = {"python": found["python"], "commit": found["commit"], "code": found.get("code")}
    return packages | {key: value for key, value in own.items() if value is not None}


def _without_paths(text: str, account: PrivacyAccount, directory: Path) -> str:
    """A problem, without paths of the reader's machine."""
    folders = {directory, state_folder(), *(one.path.parent for one in (account, *account.others))}
    for folder in sorted(map(str, folders), key=len, reverse=True):  # what is inside another first
        text = text.replace(f"{folder}/", "")
    return text


def _inside(directory: Path, where: str) -> str:
    """A finding's place without the path of the machine."""
    return where.replace(f"{directory}/", "").replace(str(directory), directory.resolve().name)
