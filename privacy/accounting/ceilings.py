"""Ceilings: what all runs on the same data may come to together, held to before one more is entered.

A run may be chosen by what others showed under a limit that was fixed before the first of them
(``privacy.accounting.filters``). The line of an account that enters a run fixes such a limit. From then on it binds
every run on the same data, whatever later ones ask for: the strictest that anybody fixed holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from privacy.accounting.account_file import AccountError
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.spendings import Ceiling, Spending
from privacy.accounting.text import delta_text, epsilon_text


class CeilingError(AccountError):
    """A run that would come to more than a ceiling on its data, with those before it."""


def refuse_above(account: Path, market: str, spending: Spending, before: Sequence[Spending]) -> None:
    """Refuse a run that would come to more than a ceiling that it, or a run before it on the same data, fixed.

    Args:
        account: that it would be entered in, for the message.
        market: whose data they are, for the message.
        spending: what the run would spend.
        before: what is known of runs on the same data, each course of one for itself.

    Raises:
        CeilingError: it would; says how many runs there are, and what they come to.
    """
    runs = [*(one.to_user_of(spending.users) for one in before), spending]
    for ceiling, users in _strictest([*before, spending]):
        together = [one.to_user_of(users) for one in runs]
        epsilon = max(several_runs_epsilon(together, view, ceiling.delta) for view in ceiling.views)
        if epsilon > ceiling.epsilon:
            raise CeilingError(
                f"{account}: market {market}: ε of {len(runs)} runs on the same data, this one included, would come to "
                f"{epsilon_text(epsilon)} at δ {delta_text(ceiling.delta)}, above the ceiling of {ceiling.epsilon:g} "
                "that one of them fixed (privacy.ceiling): it is refused, and has spent nothing"
            )


def _strictest(spendings: Iterable[Spending]) -> list[tuple[Ceiling, str | None]]:
    """Ceilings that no other one implies, each with the column that tells apart the users that it is of.

    A cost is no larger at a larger δ, and neither is ε of the same cost: who is below one at a smaller δ is below it.
    """
    fixed = {(one.ceiling, one.users) for one in spendings if one.ceiling is not None}
    kept: list[tuple[Ceiling, str | None]] = []
    for ceiling, users in sorted(fixed, key=lambda found: (found[0].epsilon, found[0].delta, -len(found[0].views))):
        if not any(users == other and _implies(strict, ceiling) for strict, other in kept):
            kept.append((ceiling, users))
    return kept


def _implies(strict: Ceiling, ceiling: Ceiling) -> bool:
    within = strict.epsilon <= ceiling.epsilon and strict.delta <= ceiling.delta
    return within and set(ceiling.views) <= set(strict.views)
