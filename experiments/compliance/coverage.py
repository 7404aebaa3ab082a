"""What attacks and audits leave untried: those that count say nothing of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attacks.auditing import AIM
from experiments.assessment.record import Verdict
from experiments.compliance.document import AuditStated

UNTRIED = "nobody tried to infer membership, so that no attack was held against its guarantee"
IRREFUTABLE = "the guarantee is too wide for any attack on this many targets to refute it"
# by view, those on which an attack says something of it: whoever has the released models has what a consumer is shown
_SPEAKING = {
    "market": {"market", "collusion"},
    "consumer": {"consumer", "release"},
    "release": {"release"},
}


def weak_stages(audits: Sequence[AuditStated]) -> list[str]:
    """Stages that claim something, whose best audit would not have seen ε at ``AIM`` times the claim."""
    best: dict[str, bool] = {}
    for audit in audits:
        if audit.claimed:
            seen = audit.detects is not None and audit.detects <= AIM * audit.claimed
            best[audit.stage] = best.get(audit.stage, False) or seen
    return [stage for stage, seen in best.items() if not seen]


def untried(bounded: Collection[str], tried: Collection[str]) -> list[str]:
    """Views with a bound that no attack was held against: what is said of others says nothing of them.

    Args:
        bounded: views that a guarantee is claimed for, and that show something.
        tried: views whose guarantee an attack that counts was held against.
    """
    return [view for view, speaking in _SPEAKING.items() if view in bounded and not speaking & set(tried)]


def irrefutable(verdicts: Iterable[tuple[str, Verdict | None]]) -> list[str]:
    """Views whose guarantee no attack could have refuted, of attacks that count: those say nothing for it.

    Args:
        verdicts: view and verdict of each attack; None where there is no guarantee to hold.
    """
    found: dict[str, set[Verdict]] = {}
    for view, verdict in verdicts:
        if verdict is not None:
            found.setdefault(view, set()).add(verdict)
    return [view for view, of_view in found.items() if of_view == {Verdict.IRREFUTABLE}]
