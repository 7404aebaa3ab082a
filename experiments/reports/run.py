"""The page of a run: how accurate, how private and against whom, what attacks achieved, whether it verifies."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.assessment.findings import attack_rows
from experiments.assessment.records import ATTACKS
from experiments.assessment.statements import read_attacks
from experiments.compliance.evidence import canaries_stated, examine, trusting
from experiments.compliance.judgement import evaluation_note
from experiments.presentation.drawing import Drawing, inline
from experiments.presentation.page import render
from experiments.presentation.text import WHO, catalogue_lines, natural_key
from experiments.reports.accuracy import (
    MANY_MARKETS,
    Comparison,
    auc_spreads,
    best_of,
    comparable_baselines,
    macro_gain,
    outcome,
    outcomes,
    spread,
)
from experiments.reports.privacy import NO_BUDGET, ViewLine, view_lines
from experiments.reports.run_figures import run_drawings
from experiments.reports.standing import (
    StandingLine,
    attack_line,
    audit_line,
    broken,
    canary_lines,
    headlines,
    left_out,
    open_noise,
    signature_lines,
    verification_line,
)
from experiments.verification.run import Examination, examine_run
from fedmm_secure.config import Config
from fedmm_secure.guarantee.stages import (
    ALL_VIEWS,
    CLAIMS,
    DECRYPTED_VIEWS,
    EVALUATION,
    SEVERAL_MARKETS,
    STAGES,
    has_sums,
)
from fedmm_secure.storage.layout import LOG_FILE, PAGE_FILE, RunDirectory
from fedmm_secure.storage.run_directory import MALFORMED, read_environment, read_foreign_config, read_metrics
from privacy.accounting.ledger import LedgerError, read_ledger
from privacy.accounting.ledger_check import Finding
from privacy.files import write_atomic
from privacy.foreign import ForeignDirectory, reading_once

MAX_PAGE_BYTES = 64 * 2**20
_TITLE = re.compile(r"<title>FedMM run ([\w.-]{1,100})</title>")
_TRUSTED = re.compile(r'<meta name="trusted" content="([0-9a-f ]{39}(?:, [0-9a-f ]{39}){0,99})">')

MARKS = {  # of a comparison: no colour alone says it
    "won": {"sign": "▲", "words": "better than", "colour": "good"},
    "undecided": {"sign": "◆", "words": "not told from", "colour": "open"},
    "lost": {"sign": "▼", "words": "worse than", "colour": "bad"},
}


@reading_once
def write_report(directory: Path, trusted: Collection[str] = (), examined: Examination | None = None) -> Path:
    """Write ``report.html`` into a finished run's directory.

    Args:
        directory: of the run.
        trusted: fingerprints of cards whose owners the page's writer knows: what they signed counts.
        examined: its verification, where that was done before.

    Raises:
        RunDirectoryError: not a finished run.
    """
    path = directory / PAGE_FILE
    found = examined or examine_run(directory)
    write_atomic(path, run_page(directory, directory.resolve().name, found, trusted).encode())
    return path


def page_findings(directory: Path, examined: Examination) -> tuple[list[Finding], list[str]]:
    """Whether the page of a run, where there is one, is what the run gives; and what a reader should know of it.

    Args:
        directory: of the run.
        examined: its verification, which the page shows.
    """
    run, where = ForeignDirectory(directory), str(directory / PAGE_FILE)
    if not run.has(PAGE_FILE):
        return [], []
    shown = run.text(PAGE_FILE, MAX_PAGE_BYTES)
    titled, trusting_page = _TITLE.search(shown), _TRUSTED.search(shown)
    name = titled[1] if titled else directory.resolve().name
    trusted = trusting_page[1].split(", ") if trusting_page else []
    try:
        if read_foreign_config(directory).privacy.epsilon is None and not all(map(run.has, _owners_files(directory))):
            return [], [f"{PAGE_FILE} is not compared: of a run without a budget it shows what its owner keeps"]
        again = run_page(directory, name, examined, trusted)
    except MALFORMED as error:
        return [Finding(where, f"cannot be compared: {error!r:.200}")], []
    if shown != again:
        what = "is not the page that the run gives: edited, or of an earlier state or another version (fedmm report)"
        return [Finding(where, what)], []
    renamed = "" if name == directory.resolve().name else f", then called {name}"
    vouched = f", whose writer vouches for the cards {', '.join(trusted)}" if trusted else ""
    return [], [f"{PAGE_FILE} is the page of the run{renamed}{vouched}"]


def _owners_files(directory: Path) -> list[str]:
    """What a page without a budget is drawn from, beside what is handed out."""
    markets = list(read_metrics(directory)["markets"])
    return [LOG_FILE, *(RunDirectory().codes(market).as_posix() for market in markets)]


def run_page(directory: Path, name: str, examined: Examination, trusted: Collection[str] = ()) -> str:
    """The page of a run, of that name, as its verification found it; what cards of ``trusted`` signed counts."""
    config, metrics = read_foreign_config(directory), _in_order(read_metrics(directory))
    markets, statements = list(metrics["markets"]), metrics["privacy"]["markets"]
    evidence = trusting(examine(directory), trusted)
    rows, budget = attack_rows(read_attacks(directory)), config.privacy.epsilon is not None
    baselines = comparable_baselines(config, list(metrics["macro"]["baselines"]))
    others = [baseline for baseline in metrics["macro"]["baselines"] if baseline not in baselines]
    comparison, views = best_of(metrics, baselines), view_lines(config, metrics["privacy"])
    seeded = any(found["seeded"] for found in statements.values())
    private_figures = all(found["stages"].get(EVALUATION) for found in statements.values())
    standing = [
        verification_line(examined),
        *signature_lines(markets, examined, evidence, trusted),
        audit_line(markets, evidence, budget=budget),
        *canary_lines(config.audit.users, evidence),
    ]
    claimed = CLAIMS[config.privacy.protect]
    bounded = {view for view in claimed if any(found[view]["epsilon"] for found in statements.values())}
    attacked = attack_line(rows, evidence, bounded)
    summary = [
        *_generated(config.data.synthetic is not None),
        *_privacy_points(budget, views, seeded),
        *_open_to(config),
        *_accuracy_points(comparison),
        *standing,
        attacked,
        *broken(evidence),
        *left_out(evidence),
    ]
    return render(
        "run.html.j2",
        title=f"FedMM run {name}",
        name=name,
        trusted=sorted(trusted),
        config=config,
        metrics=metrics,
        markets=markets,
        many=len(markets) > MANY_MARKETS,
        comparison=comparison,
        unprotected=best_of(metrics, others) if config.private_ctr else None,
        baselines=[*baselines, *others],
        gains={baseline: macro_gain(metrics["markets"], baseline) for baseline in metrics["macro"]["baselines"]},
        outcome=outcome,
        marks=MARKS,
        outcomes={baseline: outcomes(metrics["markets"], baseline) for baseline in metrics["macro"]["baselines"]},
        spreads=auc_spreads(metrics),
        budget=budget,
        no_budget=NO_BUDGET,
        view_lines=views,
        views=ALL_VIEWS,
        persons=metrics["privacy"].get("across_markets"),
        who=WHO,
        earlier=max(line.earlier for line in views),
        epsilons=[
            spread(view, {market: _bound(found[view]["epsilon"]) for market, found in statements.items()})
            for view in ALL_VIEWS
        ],
        deltas=spread("δ", {market: found["market"]["delta"] for market, found in statements.items()}),
        bases={view: next(iter(statements.values()))[view]["basis"] for view in ALL_VIEWS},
        seeded=seeded,
        several_markets=SEVERAL_MARKETS if has_sums(config) else "",
        catalogues=catalogue_lines(
            {market: found["kind"] for market, found in metrics["privacy"]["catalogue"].items()}
        ),
        stages=STAGES,
        accounted=DECRYPTED_VIEWS,
        findings=examined.findings,
        summary=summary,
        colour=_colour(summary),
        standing=standing,
        attacked=attacked,
        evidence=[found.stated for found in evidence],
        evaluation=evaluation_note(private_figures),
        private_figures=private_figures,
        attacks=rows,
        known={name: record for name, record in ATTACKS.items() if any(row.kind == name for row in rows)},
        headlines=headlines(rows),
        audits={
            market: found for market in markets if (found := [a for e in evidence for a in e.audits.get(market, [])])
        },
        canaries={
            market: canaries_stated(examined.measured[market]) for market in markets if market in examined.measured
        },
        canary_users={
            market: shown
            for market in markets
            if (shown := [one for e in evidence for one in e.canary_users.get(market, [])])
        },
        readings=_readings(metrics),
        fingerprints=_fingerprints(directory, markets),
        figures=Figures(run_drawings(directory, config, metrics)),
        environment=read_environment(directory),
    )


def _in_order(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with markets in the order in which people look for them."""

    def ordered(found: Mapping[str, Any]) -> dict[str, Any]:
        return {market: found[market] for market in sorted(found, key=natural_key)}

    privacy = metrics["privacy"]
    by_market = {"markets": ordered(privacy["markets"]), "catalogue": ordered(privacy["catalogue"])}
    return {**metrics, "markets": ordered(metrics["markets"]), "privacy": {**privacy, **by_market}}


def _generated(synthetic: bool) -> list[StandingLine]:
    return (
        [StandingLine("the rows are synthetic: nobody's, so what is measured here is of no person", "open")]
        if synthetic
        else []
    )


def _privacy_points(budget: bool, views: Sequence[ViewLine], seeded: bool) -> list[StandingLine]:
    found = [] if budget else [StandingLine("no differential privacy, so no guarantee", "open")]
    found += [StandingLine(f"ε is claimed for {line.who}, and unbounded", "bad") for line in views if line.broken]
    return found + (
        [StandingLine("noise from a known seed: a test, its numbers guarantee nothing", "bad")] if seeded else []
    )


def _open_to(config: Config) -> list[StandingLine]:
    """Who can take all noise away."""
    if config.audit.replay is None:
        return []
    return [StandingLine(open_noise(config.audit.replay.card), "open")]


def _accuracy_points(comparison: Comparison | None) -> list[StandingLine]:
    if comparison is None:
        return [StandingLine("compared with no baseline of the same protection and budget", "open")]
    if comparison.outcome == "lost":
        return [StandingLine(f"less accurate than {comparison.baseline}", "open")]
    if comparison.outcome == "undecided":
        return [StandingLine(f"not shown to be more accurate than {comparison.baseline}", "open")]
    return []


def _colour(summary: Sequence[StandingLine]) -> str:
    """Green only where nothing is open."""
    colours = {line.colour for line in summary}
    return "bad" if "bad" in colours else ("open" if "open" in colours else "good")


def _readings(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was read of each market's file, where a run says: with a budget it does not, for no budget pays for it."""
    found = {market: values.get("reading") for market, values in metrics["markets"].items()}
    return {market: reading for market, reading in found.items() if reading is not None}


def _fingerprints(directory: Path, markets: Sequence[str]) -> dict[str, str]:
    """The keyed hash of rows and reading that a ledger's first line commits to, of the ledgers that are here."""
    found = {}
    for market in markets:
        try:
            found[market] = str(read_ledger(RunDirectory(directory).ledger(market)).opening["data"])
        except (LedgerError, OSError, KeyError):  # verification says what is wrong with it
            continue
    return found


def _bound(epsilon: float | None) -> float:
    """None, unbounded, is larger than any."""
    return math.inf if epsilon is None else epsilon


class Figures:
    """Figures for a template, by name; empty where there is no data."""

    def __init__(self, drawings: Mapping[str, Drawing]) -> None:
        self._drawings = drawings

    def __getitem__(self, name: str) -> str:
        return inline(self._drawings[name]) if name in self._drawings else ""
