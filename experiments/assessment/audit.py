"""``fedmm audit``: the audit of code, at the noise that a plan states.

What a run spends is planned again from its configuration and its ledgers, once it verifies; nothing that lies beside
them is read. Games are played by whoever audits, every time anew, and results are theirs: they stand in a folder of
their own, and only what they sign is put beside the run. An audit of code says nothing of what a run drew.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks.auditing import AUDIT_LEVEL
from attacks.auditing.audit import FEWEST_CANARIES, Audit, AuditProgress, plan_audits, play
from attacks.auditing.faults import FAULTS, Fault
from attacks.auditing.run_canaries import Measured
from attacks.auditing.verdicts import AuditVerdict
from experiments.assessment.figures import draw_audit
from experiments.assessment.statements import (
    AUDIT,
    AUDIT_FILE,
    EvidenceFile,
    add_statement,
    audit_file,
    binding_of,
    make_statement,
)
from experiments.presentation.console import command_text
from experiments.runs.configuration import resolve
from experiments.runs.markets import choose_market
from experiments.verification import examine_run
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.executors.base import Executor
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.storage.files import write_parquet
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.provenance import code_version
from privacy.accounting.events import event_to_data
from privacy.accounting.ledger_check import Finding
from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import Identity
from privacy.errors import StoppedError
from privacy.files import write_json

FAULTY_MODELS = 30  # canaries, where each trains a model
AUDITS_FOLDER = Path("audits")  # in the working directory: an audited run may be somebody else's


class UnverifiedRunError(StoppedError):
    """A run whose plan cannot be relied on: there is nothing to audit, and that is a finding.

    Attributes:
        findings: of its verification.
    """

    def __init__(self, run: Path, findings: Sequence[Finding]) -> None:
        first, others = findings[0], len(findings) - 1
        what = f"{first.where}: {first.what}" + (f", and {others} more" if others else "")
        super().__init__(
            f"{run}: does not verify, so there is no plan to audit: {what}; see {command_text('verify', run)}"
        )
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Audited:
    """What is audited of one market.

    Attributes:
        plan: the market's, from a configuration; or planned again from a run's, which verified.
        run: the run's directory; None where there is none.
        measured: what canaries of the run itself showed, where it has any.
    """

    plan: SpendingPlan
    run: Path | None = None
    measured: tuple[Measured, ...] = ()

    @property
    def market(self) -> str:
        """The market whose plan is audited."""
        return self.plan.market

    @property
    def folder(self) -> Path | None:
        """Where results of a run stand unless another place is named."""
        return None if self.run is None else AUDITS_FOLDER / (binding_of(self.run).run or self.run.name)


def read_audited(source: str, overrides: list[str], market: str | None) -> Audited:
    """A configuration's plan, or that of a run.

    Raises:
        ConfigError: there is no ε to audit, or no such market.
        UnverifiedRunError: the run does not verify.
    """
    if RunDirectory(Path(source)).ledgers.is_dir():
        if overrides:
            raise ConfigError(f"{source}: a run is audited as it was configured; leave out --set")
        return _of_run(Path(source), market)
    config = resolve(source, overrides)
    _check_budget(config, source)
    markets = {found.name: found for found in load_markets(config.data)}
    name = choose_market(market, {found: data.n_users for found, data in markets.items()})
    sizes = {found: MarketSize(data.n_users, data.n_items) for found, data in markets.items()}
    return Audited(SpendingPlan.of(config, name, sizes))


def _of_run(run: Path, market: str | None) -> Audited:
    examined = examine_run(run)
    if examined.findings:
        raise UnverifiedRunError(run, examined.findings)
    plans = examined.plans
    name = choose_market(market, {found: plan.size.users for found, plan in plans.items()})
    _check_budget(plans[name].config, str(run))
    return Audited(plans[name], run, tuple(examined.measured.get(name, ())))


def _check_budget(config: Config, source: str) -> None:
    if config.privacy.epsilon is None:
        raise ConfigError(f"{source}: privacy.epsilon is not set: no guarantee is claimed, so there is none to audit")


def new_nonce() -> bytes:
    """The auditor's own: from it alone all randomness of an audit's games follows."""
    return secrets.token_bytes(32)


def audit(
    audited: Audited,
    *,
    canaries: int | None = None,
    level: float = AUDIT_LEVEL,
    nonce: bytes | None = None,
    executor: Executor | None = None,
    report: AuditProgress = lambda name, done, n: None,
    out: Path | None = None,
    identity: Identity | None = None,
) -> list[dict[str, Any]]:
    """Audit the code at one market's plan.

    Args:
        audited: what to audit.
        canaries: of each audit; by default as many as it takes to see ``attacks.auditing.AIM`` times the claimed ε.
        level: false-alarm rate of the whole audit: each of its tests has its share.
        nonce: 32 bytes; the same draw the same games. By default fresh ones.
        executor: who plays; by default this process.
        report: told of progress by audit.
        out: the auditor's folder; results stand in one of the market's name below it. None keeps none.
        identity: signs what is found, as a statement about the run as it is now, which is put beside the run too.
    """
    nonce = nonce or new_nonce()
    audits = plan_audits(audited.plan, canaries=canaries, level=level)
    found, start = [], time.perf_counter()
    for planned, played in play(audits, nonce, executor=executor, report=report):
        finding = planned.judge(played)
        found.append(
            {
                "market": audited.market,
                "stage": planned.stage,
                "game": planned.kind,
                **asdict(finding),
                "needed": planned.needed,
                "key": result_key(planned, nonce),
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
        start = time.perf_counter()
    if out is not None:
        _write_parquet(out / audited.market / "audit.parquet", found)
        draw_audit(out / audited.market / "audit", found)
    if audited.run is not None:
        settings = {"level": level, "canaries": canaries, "nonce": nonce.hex()}
        statement = make_statement(audited.run, "audit", settings, {AUDIT: found}, identity)
        if out is not None:
            write_json(out / audited.market / AUDIT_FILE, EvidenceFile(statements=[statement]).model_dump(mode="json"))
        if identity is not None:
            add_statement(audited.run, audit_file(audited.run, audited.market), statement)
    elif out is not None:
        write_json(out / audited.market / AUDIT_FILE, {AUDIT: found, "nonce": nonce.hex()})
    return found


def result_key(planned: Audit, nonce: bytes) -> str:
    """What a result is of: code, game, noise, claimed events and the auditor's nonce, by hash."""
    what = {
        "code": code_version(),
        "audit": planned.name,
        "laws": [[weight, *vars(law).values()] for weight, law in planned.parts],
        "events": [event_to_data(event) for event in planned.claim.events],
        "delta": planned.claim.delta,
        "canaries": planned.canaries,
        "nonce": nonce.hex(),
    }
    return hashlib.sha256(canonical_json(what)).hexdigest()


def violations(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that contradict a claim."""
    return [result for result in found if result["verdict"] == AuditVerdict.VIOLATED]


def audit_faults(
    audited: Audited,
    *,
    canaries: int | None = None,
    nonce: bytes | None = None,
    report: AuditProgress = lambda name, done, n: None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """The audit of the audit: every mechanism broken on purpose, and whether its claim is refuted.

    Each fault is played in this process alone, by every game that is meant to see it, at 95 % confidence each.
    """
    nonce, found = nonce or new_nonce(), []
    audits = [_limited(planned) for planned in plan_audits(audited.plan, canaries=canaries)]
    for number, fault in enumerate(FAULTS.values()):
        concerned = [planned for planned in audits if _concerns(fault, planned)]
        start = time.perf_counter()
        with fault.broken():
            shown = list(play(concerned, nonce))
        seconds = (time.perf_counter() - start) / max(1, len(concerned))
        for planned, played in shown:
            finding = planned.judge(played)
            caught = finding.verdict == AuditVerdict.VIOLATED
            what = {"fault": fault.name, "stage": planned.stage, "game": planned.kind, "caught": caught}
            found.append({**what, **asdict(finding), "seconds": round(seconds, 2)})
        report("faults", number + 1, len(FAULTS))
    if out is not None:
        write_json(out / audited.market / "faults.json", found)
    return found


def _limited(planned: Audit) -> Audit:
    if len(planned.games) == 1 and planned.games[0].trains:
        planned = replace(planned, canaries=max(FEWEST_CANARIES, min(planned.canaries, FAULTY_MODELS)))
    return replace(planned, level=AUDIT_LEVEL)


def _concerns(fault: Fault, planned: Audit) -> bool:
    return planned.stage in fault.stages and (not fault.kinds or planned.kind in fault.kinds)


def _write_parquet(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    frame = pd.DataFrame(found).astype({"verdict": str})
    for column in ("needed", "detects"):
        frame[column] = frame[column].astype(np.float64)
    write_parquet(path, frame)
