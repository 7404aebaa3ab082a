"""The page of a run: how accurate, how private and against whom, what attacks achieved, whether it verifies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.compliance.evidence import Evidence, examine, read_attacks, read_audits
from experiments.compliance.judgement import evaluation_note
from experiments.reports.attacks import AttackRow, attack_rows
from experiments.reports.drawing import Drawing, inline
from experiments.reports.page import render
from experiments.reports.run_figures import run_drawings
from experiments.reports.text import WHO, catalogue_lines, worst
from experiments.run_directory import MALFORMED, read_environment, read_foreign_config
from experiments.verification import verify_run
from fedmm_secure.config import NOISY_BASELINES, Config
from fedmm_secure.federation.closing import read_metrics
from fedmm_secure.guarantee.stages import ALL_VIEWS, DECRYPTED_VIEWS, EVALUATION, STAGES
from fedmm_secure.storage import write_atomic
from privacy.accounting.ledger_check import Finding
from privacy.foreign import ForeignDirectory

REPORT = "report.html"
MAX_PAGE_BYTES = 64 * 2**20
_TITLE = re.compile(r"<title>FedMM run ([\w.-]{1,100})</title>")


def write_report(directory: Path, findings: Sequence[Finding] | None = None) -> Path:
    """Write ``report.html`` into a finished run's directory.

    Args:
        directory: of the run.
        findings: of its verification, where that was done before.

    Raises:
        RunDirectoryError: not a finished run.
    """
    path = directory / REPORT
    found = verify_run(directory) if findings is None else findings
    write_atomic(path, run_page(directory, directory.resolve().name, found).encode())
    return path


def page_findings(directory: Path, findings: Sequence[Finding]) -> tuple[list[Finding], list[str]]:
    """Whether the page of a run, where there is one, is what the run gives; and what a reader should know of it.

    Args:
        directory: of the run.
        findings: of its verification, which the page shows.
    """
    run, where = ForeignDirectory(directory), str(directory / REPORT)
    if not run.has(REPORT):
        return [], []
    shown = run.text(REPORT, MAX_PAGE_BYTES)
    titled = _TITLE.search(shown)
    name = titled[1] if titled else directory.resolve().name
    try:
        again = run_page(directory, name, findings)
    except MALFORMED as error:
        return [Finding(where, f"cannot be compared: {error!r:.200}")], []
    if shown != again:
        what = "is not the page that the run gives: edited, or of an earlier state or another version (fedmm report)"
        return [Finding(where, what)], []
    renamed = "" if name == directory.resolve().name else f", then called {name}"
    return [], [f"{REPORT} is the page of the run{renamed}"]


def run_page(directory: Path, name: str, findings: Sequence[Finding]) -> str:
    """The page of a run, of that name, whose verification made those findings."""
    config, metrics = read_foreign_config(directory), read_metrics(directory)
    statements = metrics["privacy"]["markets"]
    first = next(iter(statements.values()))
    rows, audits, evidence = attack_rows(read_attacks(directory)), read_audits(directory), examine(directory)
    private_figures = all(found["stages"].get(EVALUATION) for found in statements.values())
    violated = [result for results in audits.values() for result in results if result["verdict"] == "VIOLATED"]
    seeded = any(found["seeded"] for found in statements.values())
    open_points = find_open(config, list(metrics["markets"]), evidence)
    red = findings or violated or seeded or any(row.within is False for row in rows) or broken(evidence)
    return render(
        "run.html.j2",
        title=f"FedMM run {name}",
        name=name,
        config=config,
        metrics=metrics,
        best=best_baselines(config, metrics),
        views=ALL_VIEWS,
        who=WHO,
        worst={view: worst(found[view]["epsilon"] for found in statements.values()) for view in ALL_VIEWS},
        bases={view: first[view]["basis"] for view in ALL_VIEWS},
        seeded=seeded,
        catalogues=catalogue_lines(
            {market: found["kind"] for market, found in metrics["privacy"]["catalogue"].items()}
        ),
        stages=STAGES,
        accounted=DECRYPTED_VIEWS,
        findings=findings,
        colour="bad" if red else ("open" if open_points else "good"),
        open_points=open_points,
        broken=broken(evidence),
        evidence=[found.stated for found in evidence],
        evaluation=evaluation_note(private_figures),
        private_figures=private_figures,
        attacks=rows,
        headlines=headlines(rows),
        audits=audits,
        violated=violated,
        figures=Figures(run_drawings(directory, config, metrics)),
        environment=read_environment(directory),
    )


def find_open(config: Config, markets: Sequence[str], evidence: Sequence[Evidence]) -> list[str]:
    """What a reader must not take for established, one phrase each."""
    if config.privacy.epsilon is None:
        found = ["no differential privacy: ε is unbounded"]
    else:
        audited = {market for item in counting(evidence) for market in item.audits}
        missing = [market for market in markets if market not in audited]
        found = [f"not audited: {', '.join(missing)}"] if missing else []
    if not any(item.attacks for item in counting(evidence)):
        found.append("not attacked")
    unfit = [item.stated for item in evidence if item.stated.standing in ("unsigned", "unbound")]
    return found + [f"{stated.id}: {stated.problem}" for stated in unfit]


def counting(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Evidence that fits the run and is signed from outside it."""
    return [item for item in evidence if item.stated.standing == "counts"]


def broken(evidence: Sequence[Evidence]) -> list[str]:
    """Evidence that was edited or cannot be read, one line each."""
    return [f"{item.stated.id}: {item.stated.problem}" for item in evidence if item.stated.standing == "broken"]


class Figures:
    """Figures for a template, by name; empty where there is no data."""

    def __init__(self, drawings: Mapping[str, Drawing]) -> None:
        self._drawings = drawings

    def __getitem__(self, name: str) -> str:
        return inline(self._drawings[name]) if name in self._drawings else ""


def best_baselines(config: Config, metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the strongest baseline is called and its macro AUC; beside a private model, one with DP and one without."""
    found = {name: values["auc"] for name, values in metrics["macro"]["baselines"].items() if values["auc"] is not None}
    names = frozenset(found)
    groups = {"best baseline": names}
    if config.private_ctr:
        groups = {"best baseline with DP": names & NOISY_BASELINES, "without DP": names - NOISY_BASELINES}
    best = {label: max(group, key=lambda name: found[name]) for label, group in groups.items() if group}
    return [(f"{label}, {name}", found[name]) for label, name in best.items()]


def headlines(rows: Sequence[AttackRow]) -> list[AttackRow]:
    """What to show first: the most successful membership inference, with a guarantee against it and without."""
    membership = [row for row in rows if row.tpr is not None]
    kinds = [[row for row in membership if row.within is not None], [row for row in membership if row.within is None]]
    if not membership:
        kinds = [list(rows)]
    return [max(kind, key=lambda row: row.success["value"]) for kind in kinds if kind]
