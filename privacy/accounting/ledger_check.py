"""Check a ledger without trusting what wrote it: hash chain, and ε by two independent accountants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.accounting.accountants import pld_epsilon, prv_epsilon
from privacy.accounting.guarantees import view_events
from privacy.accounting.ledger import LedgerError, read_ledger, stage_group

RELATIVE_AGREEMENT = 0.01


@dataclass(frozen=True)
class Finding:
    """Something that does not hold; ``where`` names the file, line, market or view."""

    where: str
    what: str


def verify_ledger(path: Path, claims: Mapping[str, float | None]) -> list[Finding]:
    """Check one market's ledger against the ε it is claimed to prove.

    Args:
        path: the ledger.
        claims: claimed ε by view; None claims nothing (unbounded). Each stage alone is checked too.

    Returns:
        Findings; empty if the chain is intact, PLD and PRV agree within 1 %, and every claim holds.
    """
    try:
        entries, _ = read_ledger(path)
    except LedgerError as error:
        return [Finding(str(path), str(error).removeprefix(f"{path}:"))]
    findings = []
    if not entries:
        return [Finding(str(path), "the ledger is empty")]
    if any(entry.market != path.stem for entry in entries):
        findings.append(Finding(str(path), "holds entries of another market"))
    if len({(entry.delta, entry.unit) for entry in entries}) > 1:
        findings.append(Finding(str(path), "entries disagree on delta or unit"))
    delta = entries[0].delta
    for group in sorted({stage_group(entry.stage) for entry in entries}):
        alone = [entry.event for entry in entries if stage_group(entry.stage) == group]
        findings += _disagreement(f"{path} stage {group}", pld_epsilon(alone, delta), prv_epsilon(alone, delta))
    for view, claimed in claims.items():
        events = view_events(entries, view)
        where = f"{path} view {view}"
        pld = pld_epsilon(events, delta)
        findings += _disagreement(where, pld, prv_epsilon(events, delta))
        if claimed is not None and (math.isinf(pld) or pld > claimed * (1 + 1e-6) + 1e-9):
            findings.append(Finding(where, f"claimed epsilon {claimed:.4g}, the ledger gives {pld:.4g}"))
        if claimed is None and math.isfinite(pld):
            findings.append(Finding(where, f"claimed no bound, the ledger gives {pld:.4g}: metrics are stale"))
    return findings


def _disagreement(where: str, pld: float, prv: float) -> list[Finding]:
    same = math.isinf(pld) == math.isinf(prv)
    if same and math.isfinite(pld):
        same = abs(pld - prv) <= RELATIVE_AGREEMENT * max(pld, prv) + 1e-3
    return [] if same else [Finding(where, f"the accountants disagree: PLD {pld:.4g}, PRV {prv:.4g}")]
