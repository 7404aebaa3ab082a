"""What a run guarantees to each market's users, by view: read off the ledger, nothing else."""

from __future__ import annotations

import decimal
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dp_accounting.dp_event import RandomizedResponseDpEvent

from fedmm_secure.config import Config
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS, STAGES, USER_CODES, VIEWS
from privacy.accounting.accountants import Accountant
from privacy.accounting.events import randomised_response_epsilon
from privacy.accounting.guarantees import (
    EARLIER_RUNS,
    STATED,
    Guarantee,
    changed_rows,
    conditional_guarantee,
    guarantee_with_earlier_runs,
    view_guarantee,
)
from privacy.accounting.ledger import Entry
from privacy.accounting.text import epsilon_text

# Of figures that accountants give: further ones differ between machines, so that nobody could hold a run to them.
STATED_DIGITS = 8


def stated(figure: float) -> float:
    """A figure at as many digits as are stated, rounded up."""
    context = decimal.Context(prec=STATED_DIGITS, rounding=decimal.ROUND_CEILING)
    return float(context.create_decimal_from_float(figure))


def guarantees(config: Config, entries: Sequence[Entry], accountant: Accountant = STATED) -> dict[str, Any]:
    """The (ε, δ) of every view, with what it implies for changed rows, of each stage alone, and over runs."""
    given = {entry.delta for entry in entries}
    return {name: _stated(found, given) for name, found in _guarantees(config, entries, accountant).items()}


def _stated(found: Any, given: Collection[float]) -> Any:
    """Every figure as it is stated; a δ that was given, not computed, stays as it is."""
    if isinstance(found, dict):
        return {name: _stated(one, given) for name, one in found.items()}
    return stated(found) if isinstance(found, float) and found not in given else found


def _guarantees(config: Config, entries: Sequence[Entry], accountant: Accountant) -> dict[str, Any]:
    encrypted = not config.aggregation.traits.server_reads_updates
    found: dict[str, Any] = {}
    for view in VIEWS:
        guarantee = view_guarantee(entries, view, encrypted=encrypted and view == "server", accountant=accountant)
        found[view] = asdict(guarantee) | {"changed_rows": asdict(changed_rows(guarantee))}
    found["profile"] = asdict(_profile(entries, accountant))
    found["stages"] = {stage: _alone(entries, stage, accountant) for stage in STAGES}
    found["with_earlier_runs"] = _over_runs(entries, accountant)
    found["seeded"] = any(entry.seeded for entry in entries)
    return found


def _alone(entries: Sequence[Entry], stage: str, accountant: Accountant) -> dict[str, Any] | None:
    found = conditional_guarantee(entries, stage, accountant=accountant)
    return None if found is None else asdict(found)


def _profile(entries: Sequence[Entry], accountant: Accountant) -> Guarantee:
    """A target user's own code: no central mechanism protects it; randomised response does, if it was used."""
    delta = entries[0].delta
    published = [entry.event for entry in entries if entry.stage.startswith(USER_CODES)]
    if not published:
        basis = "none: a user's code, embedding and scores are computed from that user's own rows"
        return Guarantee(None, delta, "user", basis)
    implied = changed_rows(view_guarantee(entries, "release", accountant=accountant))
    own = sum(randomised_response_epsilon(event) for event in published if isinstance(event, RandomizedResponseDpEvent))
    if implied.epsilon is None or math.isinf(own):
        return Guarantee(
            None, delta, implied.unit, f"randomised codes alone: epsilon {epsilon_text(own)}; {implied.basis}"
        )
    basis = (
        f"published codes alone, by k-ary randomised response: epsilon {epsilon_text(own)}, added to what a change of "
        "the user's rows means in everything else that is released; scores of the user's own account stay unprotected"
    )
    return Guarantee(implied.epsilon + own, implied.delta, implied.unit, basis)


def _over_runs(entries: Sequence[Entry], accountant: Accountant) -> dict[str, Any]:
    earlier = [entry for entry in entries if entry.stage == EARLIER_RUNS]
    views: Mapping[str, Any] = {
        view: asdict(guarantee_with_earlier_runs(entries, view, accountant=accountant)) for view in DECRYPTED_VIEWS
    }
    return {"earlier_runs": sum(int(entry.remark or 0) for entry in earlier), **views}
