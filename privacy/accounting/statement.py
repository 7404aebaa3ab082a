"""The (ε, δ) that each view gets, read off a ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.accounting.accountants import Accountant, pld_epsilon
from privacy.accounting.ledger import Entry, depended_on


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
    visible = [entry for entry in entries if view in entry.audience]
    if not visible:
        return Guarantee(0.0, 0.0, unit, COMPUTATIONAL if encrypted else NOTHING_OBSERVED)
    epsilon = accountant([entry.event for entry in depended_on(entries, visible)], delta)
    if math.isinf(epsilon):
        return Guarantee(None, delta, unit, UNBOUNDED)
    return Guarantee(epsilon, delta, unit, DP)


def conditional_guarantee(
    entries: Sequence[Entry], stage_prefix: str, *, accountant: Accountant = pld_epsilon
) -> Guarantee | None:
    """Guarantee of the stages whose name starts with ``stage_prefix``, their inputs taken as fixed.

    This is what DP-SGD alone gives. It is no user-level guarantee where the inputs were computed from
    everyone's rows. None if no such stage is in the ledger.
    """
    stages = [entry for entry in entries if entry.stage.startswith(stage_prefix)]
    if not stages:
        return None
    epsilon = accountant([entry.event for entry in stages], stages[0].delta)
    inputs = sorted({stage.split("/")[0] for entry in stages for stage in entry.depends_on})
    basis = f"conditional on the outputs of: {', '.join(inputs) or 'nothing'}"
    return Guarantee(None if math.isinf(epsilon) else epsilon, stages[0].delta, stages[0].unit, basis)
