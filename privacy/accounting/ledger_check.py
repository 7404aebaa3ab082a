"""Check what is claimed of a ledger without trusting what wrote it: ε by two independent accountants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_accounting.dp_event import ComposedDpEvent, DpEvent

from privacy.accounting.accountants import finely, pld_epsilon, prv_epsilon, prv_work, within_reach
from privacy.accounting.events import event_problem, gaussian_steps
from privacy.accounting.guarantees import EARLIER_RUNS, composed_epsilon, view_entries
from privacy.accounting.ledger import Entry, LedgerError, read_ledger, stage_group
from privacy.accounting.text import epsilon_text

RELATIVE_AGREEMENT = 0.01
_MOST_COORDINATES = 10**15
_MOST_STAGES = 32  # of one run; a stage is one, however often it is repeated


@dataclass(frozen=True)
class Finding:
    """Something that does not hold; ``where`` names the file, line, market or view."""

    where: str
    what: str


def verify_ledger(path: Path, claims: Mapping[str, float | None]) -> list[Finding]:
    """Check one market's ledger file against the ε it is claimed to prove.

    Args:
        path: the ledger.
        claims: claimed ε by view; None claims nothing (unbounded).

    Returns:
        Findings; empty if the chain is intact, PLD and PRV agree within 1 %, and every claim holds.
    """
    try:
        entries = read_ledger(path).entries
    except LedgerError as error:
        return [broken_ledger(path, error)]
    return check_claims(path, entries, claims)


def broken_ledger(path: Path, error: LedgerError) -> Finding:
    """What a ledger that cannot be read comes to; its line is in ``where``."""
    text = str(error).removeprefix(f"{path}:")
    number, _, what = text.partition(": ")
    return Finding(f"{path}:{number}", what) if number.isdigit() else Finding(str(path), text.strip())


def check_claims(
    path: Path, entries: Sequence[Entry], claims: Mapping[str, float | None], *, twice: bool = True
) -> list[Finding]:
    """Check the entries of one market's ledger against the ε that they are claimed to prove; each stage alone too.

    Args:
        path: the ledger, whose name is the market's.
        entries: charges and notes, in order.
        claims: claimed ε by view; None claims nothing (unbounded).
        twice: by PRV beside PLD, which ``prv_work_of`` says the work of.
    """
    if not entries:
        return [Finding(str(path), "the ledger is empty")]
    problem = unaccountable(entries)
    if problem:
        return [Finding(str(path), problem)]
    findings = []
    if any(entry.market != path.stem for entry in entries):
        findings.append(Finding(str(path), "holds entries of another market"))
    if len({(entry.delta, entry.unit) for entry in entries}) > 1:
        findings.append(Finding(str(path), "entries disagree on delta or unit"))
    delta = entries[0].delta
    for what, events, of in _compositions(entries, claims) if twice else ():
        findings += _disagreement(f"{path} {what}", *_both(events, of, delta))
    for view, claimed in claims.items():
        observed, where = view_entries(entries, view), f"{path} view {view}"
        events = [entry.event_for(view) for entry in observed]
        pld = composed_epsilon(events, observed, delta, pld_epsilon) if observed else 0.0
        if claimed is not None and not _at_most(pld, claimed):
            pld = composed_epsilon(events, observed, delta, finely)  # an upper bound, too, and what was stated once
        if claimed is not None and not _at_most(pld, claimed):
            findings.append(
                Finding(where, f"claimed epsilon {epsilon_text(claimed)}, the ledger gives {epsilon_text(pld)}")
            )
        if claimed is None and math.isfinite(pld):
            findings.append(
                Finding(where, f"claimed no bound, the ledger gives {epsilon_text(pld)}: metrics are stale")
            )
    return findings


def prv_work_of(ledgers: Iterable[Sequence[Entry]], views: Iterable[str]) -> int:
    """Numbers that PRV lays out to check some markets' ledgers; of those that no accountant is asked about, none."""
    accountable = [entries for entries in ledgers if entries and not unaccountable(entries)]
    wanted = tuple(views)
    return prv_work(
        (events, entries[0].delta) for entries in accountable for _, events, _ in _compositions(entries, wanted)
    )


def _compositions(
    entries: Sequence[Entry], views: Iterable[str]
) -> Iterator[tuple[str, list[DpEvent], Sequence[Entry]]]:
    """What both accountants are asked about: each stage alone, and each view; events, and what drew them."""
    for group in sorted({stage_group(entry.stage) for entry in entries}):
        alone = [entry for entry in entries if stage_group(entry.stage) == group]
        yield f"stage {group}", [entry.event for entry in alone], alone
    for view in views:
        observed = view_entries(entries, view)
        yield f"view {view}", [entry.event_for(view) for entry in observed], observed


def _at_most(epsilon: float, claimed: float) -> bool:
    return math.isfinite(epsilon) and epsilon <= claimed * (1 + 1e-6) + 1e-9


def _both(events: Sequence[DpEvent], entries: Sequence[Entry], delta: float) -> tuple[float, float]:
    """ε by PLD and by PRV; 0 of nothing."""
    if not entries:
        return 0.0, 0.0
    return (
        composed_epsilon(events, entries, delta, pld_epsilon),
        composed_epsilon(events, entries, delta, prv_epsilon),
    )


def _disagreement(where: str, pld: float, prv: float) -> list[Finding]:
    same = math.isinf(pld) == math.isinf(prv)
    if same and math.isfinite(pld):
        same = abs(pld - prv) <= RELATIVE_AGREEMENT * max(pld, prv) + 1e-3
    return [] if same else [Finding(where, f"the accountants disagree: PLD {pld:.4g}, PRV {prv:.4g}")]


def unaccountable(entries: Sequence[Entry]) -> str | None:
    """Why no accountant should be asked about entries that somebody else wrote; None if one may be.

    Each stage and each view is composed by two of them: so there are few stages, and all charges together are within
    reach of the finest grid, as those of every plan are. What earlier runs spent may be more, and is infinite then.
    """
    problem = next((found for entry in entries if (found := _problem(entry))), None)
    if problem is not None:
        return problem
    groups = {stage_group(entry.stage) for entry in entries}
    if len(groups) > _MOST_STAGES:
        return f"{len(groups)} stages, where a run has {_MOST_STAGES} at most"
    charged = [entry for entry in entries if entry.stage != EARLIER_RUNS]
    events = [event for entry in charged for event in (entry.event, *entry.view_events.values())]
    private = ComposedDpEvent([event for event in events if gaussian_steps(event) is not None])
    if not within_reach(private):
        return "its releases together are more than any plan spends"
    return None


def _problem(entry: Entry) -> str | None:
    texts = (entry.market, entry.stage, entry.unit, *entry.audience, *entry.depends_on)
    if not all(type(text) is str for text in texts):
        return "an entry whose names are no texts"
    numbers = (entry.delta, entry.extra_delta, entry.coordinates)
    if not all(type(number) in (int, float) for number in numbers):
        return f"{entry.stage}: delta, extra delta or coordinates are no numbers"
    if not (0 < entry.delta < 1 and 0 <= entry.extra_delta < 1 and 0 <= entry.coordinates <= _MOST_COORDINATES):
        return f"{entry.stage}: delta {entry.delta:g} or its coordinates are out of all bounds"
    for event in (entry.event, *entry.view_events.values()):
        if problem := event_problem(event):
            return f"{entry.stage}: {problem}"
    return None
