"""``fedmm audit RUN --users FOLDER``: an auditor's canary users, read through what a run published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attacks.auditing import AUDIT_LEVEL
from attacks.auditing.canary_users import CanaryReading, Published, read_canary_users
from experiments.assessment.audit import UnverifiedRunError
from experiments.assessment.statements import CANARY_USERS, add_statement, audit_file, make_statement
from experiments.runs.canary_files import SECRET_FILE, items_file, read_canary_file
from experiments.verification import examine_run
from fedmm_secure.data.catalogue import read_catalogue
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.results.scorers import ReleasedScorer
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import read_ledger
from privacy.aggregation.identities import Identity


def audit_canary_users(run: Path, folder: Path, level: float = AUDIT_LEVEL) -> tuple[str, list[CanaryReading]]:
    """The market of an auditor's candidates, and what they showed; see ``canary_readings``.

    Raises:
        UnverifiedRunError: the run does not verify: what it commits to is not what it has.
    """
    examined = examine_run(run)
    if examined.findings:
        raise UnverifiedRunError(run, examined.findings)
    return canary_readings(run, folder, examined.plans, level)


def reading_results(market: str, readings: Sequence[CanaryReading]) -> list[dict[str, Any]]:
    """What a market's canary users showed, as plain data."""
    return [
        {"market": market, **vars(one), "refuted": one.refuted, "lost": one.lost, "verdict": one.verdict}
        for one in readings
    ]


def sign_readings(run: Path, market: str, readings: Sequence[CanaryReading], level: float, identity: Identity) -> None:
    """Put what a market's canary users showed beside the run, signed by who read them."""
    results = {CANARY_USERS: reading_results(market, readings)}
    add_statement(run, audit_file(run, market), make_statement(run, "audit", {"level": level}, results, identity))


def canary_readings(
    run: Path, folder: Path, plans: Mapping[str, SpendingPlan], level: float = AUDIT_LEVEL
) -> tuple[str, list[CanaryReading]]:
    """Read an auditor's candidates through what a run published.

    Args:
        run: the directory.
        folder: as ``fedmm data canaries`` wrote it.
        plans: of the run's markets.
        level: false-alarm rate of all readings together.

    Raises:
        ConfigError: the run commits to no such candidates, or to another catalogue.
    """
    users = read_canary_file(folder / SECRET_FILE)
    plan = plans.get(users.market)
    if plan is None:
        raise ConfigError(f"{folder}: is about market {users.market}; the markets of {run} are {', '.join(plans)}")
    if plan.config.audit.users.get(users.market) != users.digest:
        raise ConfigError(f"{run}: audit.users.{users.market} of its configuration is not the hash of {folder}")
    ledger = read_ledger(RunDirectory(run).ledger(users.market))
    path = folder / items_file(users.market)
    catalogue = read_catalogue(path)
    if ledger.opening.get("catalogue") != catalogue.stated():
        raise ConfigError(f"{path}: is not the catalogue that market {users.market} was opened with")
    scorer = ReleasedScorer(ClosedRun(run, users.market), plan.config)
    published = Published(plan, ledger.entries, scorer, catalogue)
    return users.market, list(read_canary_users(users, published, level))
