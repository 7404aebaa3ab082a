"""The (ε, δ) that each view gets, read off a ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dp_accounting.dp_event import ComposedDpEvent, DpEvent

from privacy.accounting.accountants import Accountant, finely, planning_interval, pld_epsilon
from privacy.accounting.events import gaussian_steps
from privacy.accounting.exactness import discretisation_slack, epsilon_with_slack
from privacy.accounting.filters import RunCost, filter_epsilon, noted_cost, run_cost
from privacy.accounting.ledger import Entry, depended_on, stage_group
from privacy.accounting.losses import COARSE, ROUGH
from privacy.accounting.spendings import Spending
from privacy.accounting.text import delta_text

EARLIER_RUNS = "earlier-runs"  # the stage that carries what runs before this one spent on the same data
STATED, STATED_EARLIER = pld_epsilon, finely  # by which ε is stated, and was by versions before
EARLIER_RUNS_MECHANISM = "what runs before this one spent on the same data, as one Gaussian mechanism"
LISTED_EARLIER_RUNS = "what runs before this one spent on the same data"  # step by step, in ledgers of versions before


@dataclass(frozen=True)
class Guarantee:
    """One (ε, δ) statement.

    Attributes:
        epsilon: None means unbounded.
        delta: δ.
        unit: the privacy unit.
        basis: what the number rests on.
    """

    epsilon: float | None
    delta: float
    unit: str
    basis: str


DP = "differential privacy of everything the view observes, composed from the ledger"
UNBOUNDED = "none: what the view observes depends on a stage without differential privacy"
COMPUTATIONAL = (
    "computational: the view observes only ciphertexts (CKKS, IND-CPA, 128-bit) and holds no secret key; "
    "without that assumption the market view's guarantee applies"
)
NOTHING_OBSERVED = "nothing that depends on users' rows is observed"
CHANGED_ROWS = "implied by the above: changing any rows of one user is a removal and an addition"


def view_entries(entries: Sequence[Entry], view: str) -> list[Entry]:
    """Everything that a view observes, with all that it depends on."""
    return depended_on(entries, [entry for entry in entries if view in entry.audience])


class Drawn(Protocol):
    """What composition needs to know of a release, or of a run, beside its event."""

    @property
    def coordinates(self) -> int:
        """Values of the noise that were drawn, at most."""
        ...

    @property
    def extra_delta(self) -> float:
        """δ beside that of the noise."""
        ...


def coarsely(events: Sequence[DpEvent], delta: float) -> float:
    """PLD on the grid on which budgets are kept, whatever the steps: still an upper bound."""
    return pld_epsilon(events, delta, interval=COARSE)


def planning_accountant(epsilon: float) -> Accountant:
    """PLD on the grid on which a budget of ``epsilon`` is planned: still an upper bound."""
    return partial(pld_epsilon, interval=planning_interval(epsilon))


def roughly(events: Sequence[DpEvent], delta: float) -> float:
    """PLD for what is shown while a run goes on: still an upper bound, looser again."""
    return pld_epsilon(events, delta, interval=ROUGH)


def composed_epsilon(
    events: Sequence[DpEvent], entries: Sequence[Drawn], delta: float, accountant: Accountant = pld_epsilon
) -> float:
    """ε at ``delta`` of events whose noise is discrete, drawn as the entries say; ``inf`` if any part is not private.

    The accountant's figure is that of continuous noise; what the discrete law and the sampler may add comes on top
    (``privacy.accounting.exactness``), and what the entries say of δ comes off. So nothing outside this package asks
    an accountant for an ε: its answer alone does not hold for what is drawn.
    """
    if gaussian_steps(ComposedDpEvent(list(events))) is None:
        return math.inf
    return epsilon_as_drawn(lambda at: accountant(events, at), entries, delta)


def epsilon_as_drawn(epsilon_at: Callable[[float], float], entries: Sequence[Drawn], delta: float) -> float:
    """ε at ``delta`` of what the entries drew, from that of continuous noise at a δ."""
    slack = discretisation_slack(sum(entry.coordinates for entry in entries), 1)
    left = delta - sum(entry.extra_delta for entry in entries)
    return epsilon_with_slack(epsilon_at, left, slack) if left > 0 else math.inf


def view_guarantee(
    entries: Sequence[Entry],
    view: str,
    *,
    encrypted: bool = False,
    accountant: Accountant = pld_epsilon,
) -> Guarantee:
    """Guarantee of one market's users against one view, everything upstream included.

    Args:
        entries: the market's ledger.
        view: name of the view; an entry counts if the view is in its audience.
        encrypted: whether the view holds ciphertexts of what others see in the clear.
        accountant: composition to use.
    """
    delta, unit = entries[0].delta, entries[0].unit
    observed = view_entries(entries, view)
    if not observed:
        return Guarantee(0.0, 0.0, unit, COMPUTATIONAL if encrypted else NOTHING_OBSERVED)
    return _guarantee([entry.event_for(view) for entry in observed], observed, delta, unit, DP, accountant)


def changed_rows(guarantee: Guarantee) -> Guarantee:
    """What an add-or-remove guarantee implies for a change of one user's rows: (2ε, (1 + e^ε) δ).

    Group privacy for two (Dwork, Roth, 2014, section 2.3); a δ of 1 or more says nothing, so ε is then unbounded.
    """
    unit = "change of one user's rows"
    if guarantee.epsilon is None:
        return Guarantee(None, guarantee.delta, unit, CHANGED_ROWS)
    delta = (1.0 + math.exp(min(guarantee.epsilon, 700.0))) * guarantee.delta
    if delta >= 1.0:
        return Guarantee(None, guarantee.delta, unit, f"{CHANGED_ROWS}; its delta would be {delta_text(delta)}")
    return Guarantee(2.0 * guarantee.epsilon, delta, unit, CHANGED_ROWS)


def guarantee_with_earlier_runs(
    entries: Sequence[Entry], view: str, *, accountant: Accountant = pld_epsilon
) -> Guarantee:
    """Guarantee against a view that observed this run and those before it on the same data, however each was chosen.

    Ledgers of earlier versions list the steps of all runs before in one; whose they were, they do not say. What they
    stated is plain composition, which holds of runs that were laid down beforehand. It is of lists alone: the Gaussian
    mechanism of a note tells no less than runs only with what else ``privacy.accounting.filters`` counts beside it.
    """
    delta, unit = entries[0].delta, entries[0].unit
    observed, notes = view_entries(entries, view), [entry for entry in entries if entry.stage == EARLIER_RUNS]
    own, earlier = ([entry.event_for(view) for entry in found] for found in (observed, notes))
    listed = [note for note in notes if note.mechanism == LISTED_EARLIER_RUNS]
    noted = [note for note in notes if note.mechanism != LISTED_EARLIER_RUNS]
    if not _any_step([note.event_for(view) for note in noted]):
        basis = "plain composition of this run with the runs before it that the privacy account holds"
        accountant = coarsely if _any_step(earlier) else accountant
        return _guarantee([*own, *earlier], [*observed, *notes], delta, unit, basis, accountant)
    costs = [RunCost(noted_cost(note.event_for(view)), note.extra_delta) for note in noted]
    for found, interval in ((observed, None), (listed, COARSE)):
        together = ComposedDpEvent([entry.event_for(view) for entry in found])
        cost = run_cost(together, sum(entry.coordinates for entry in found), delta, interval=interval)
        costs.append(RunCost(cost, sum(entry.extra_delta for entry in found)))
    epsilon = filter_epsilon(costs, delta)
    basis = "fully adaptive composition of this run with the runs before it that the privacy account holds"
    return Guarantee(None if math.isinf(epsilon) else epsilon, delta, unit, basis)


def several_runs_epsilon(spendings: Sequence[Spending], view: str, delta: float) -> float:
    """ε at ``delta`` of all that runs make a view observe, however each was chosen by what others showed.

    That of a single one by its losses, which were laid down beforehand; of several by ``privacy.accounting.filters``.
    """
    seen = [one for one in spendings if gaussian_steps(one.observed(view)) != {}]
    if len(seen) > 1:
        return filter_epsilon([RunCost(cost_of(one, view, delta), one.extra_delta) for one in seen], delta)
    return composed_epsilon([one.observed(view) for one in seen], seen, delta) if seen else 0.0


def cost_of(spending: Spending, view: str, delta: float) -> float:
    """Squared μ of the Gaussian mechanism that tells a view no less than a run; for an ε of all at ``delta``."""
    return run_cost(spending.observed(view), spending.coordinates, delta)


def _any_step(events: Sequence[DpEvent]) -> bool:
    return gaussian_steps(ComposedDpEvent(list(events))) != {}


def conditional_guarantee(
    entries: Sequence[Entry], stage: str, *, accountant: Accountant = pld_epsilon
) -> Guarantee | None:
    """Guarantee of all repetitions of a stage, its inputs taken as fixed.

    This is what DP-SGD alone gives. It is no user-level guarantee where the inputs were computed from
    everyone's rows. None if no such stage is in the ledger.
    """
    stages = [entry for entry in entries if stage_group(entry.stage) == stage_group(stage)]
    if not stages:
        return None
    inputs = sorted({stage_group(name) for entry in stages for name in entry.depends_on})
    basis = f"conditional on the outputs of: {', '.join(inputs) or 'nothing'}"
    return _guarantee([entry.event for entry in stages], stages, stages[0].delta, stages[0].unit, basis, accountant)


def _guarantee(
    events: Sequence[DpEvent],
    entries: Sequence[Entry],
    delta: float,
    unit: str,
    basis: str,
    accountant: Accountant,
) -> Guarantee:
    epsilon = composed_epsilon(events, entries, delta, accountant)
    if math.isinf(epsilon):
        return Guarantee(None, delta, unit, UNBOUNDED if basis == DP else basis)
    return Guarantee(epsilon, delta, unit, basis)
