"""Whether a run is verified, signed, audited and attacked: what its reader may rely on, in plain lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from attacks.auditing import AIM
from experiments.assessment.findings import AttackRow, attack_rows
from experiments.assessment.records import infers_membership
from experiments.compliance.coverage import IRREFUTABLE, UNTRIED, irrefutable, untried, weak_stages
from experiments.compliance.evidence import WeighedStatement
from experiments.compliance.judgement import CANARIES_AGAINST, NO_MEMBERSHIP, UNCOUNTED
from experiments.verification.closing import ClosingSignature
from experiments.verification.run import Examination
from privacy.aggregation.identities import Card

Colour = Literal["good", "open", "bad"]
VIOLATED = "VIOLATED"
NOT_AUDITED = "code not audited"
_SELF_SIGNED, _OWN = "self-signed", "own"
_NAMED = 7  # markets that a line names; of more it says how many


@dataclass(frozen=True)
class StandingLine:
    """What holds (good), is not established (open) or does not hold (bad); and the same in a few words."""

    text: str
    colour: Colour
    short: str = ""

    @property
    def brief(self) -> str:
        """The text where room is scarce."""
        return self.short or self.text


def named(markets: Sequence[str]) -> str:
    """Some markets, for a line."""
    return ", ".join(markets) if len(markets) <= _NAMED else f"{len(markets)} markets"


def verification_line(examined: Examination) -> StandingLine:
    """Whether a run was verified, as one line."""
    count = len(examined.findings)
    if count:
        return StandingLine(f"not verified: {count} finding{'s' if count > 1 else ''}", "bad")
    return StandingLine("verified", "good")


def open_noise(card: Card) -> str:
    """Who can take all noise of a run away."""
    return f"no bound against {card.name}, {card.fingerprint}, who may replay the run and knows all of its noise"


def signature_lines(
    markets: Sequence[str], examined: Examination, evidence: Sequence[WeighedStatement], trusted: Collection[str]
) -> list[StandingLine]:
    """Who closed the ledgers, and whether that is more than the word of who ran them.

    Args:
        markets: of the run.
        examined: its verification.
        evidence: results of attacks and audits.
        trusted: fingerprints of cards that the page's reader knows the owners of.
    """
    closed: dict[str, list[str]] = {}
    by_key: dict[str, ClosingSignature] = {}
    for market, signature in examined.signatures.items():
        key = _OWN if signature.own else signature.fingerprint
        by_key[key] = signature
        closed.setdefault(key, []).append(market)
    lines = [_signature_line(by_key[key], found, markets, trusted) for key, found in closed.items()]
    unsigned = [market for market in markets if market not in examined.signatures]
    if unsigned:
        lines.append(StandingLine(f"not signed: {named(unsigned)}", "open"))
    if {item.stated.fingerprint for item in counting(evidence)} == closed.keys() and len(closed) == 1:
        lines.append(
            StandingLine(f"{_SELF_SIGNED}: the run, its attacks and its audits by one key", "open", _SELF_SIGNED)
        )
    return lines


def _signature_line(
    signature: ClosingSignature, found: Sequence[str], markets: Sequence[str], trusted: Collection[str]
) -> StandingLine:
    where = "" if len(found) == len(markets) else f" ({named(found)})"
    if signature.own:
        what = "by a key that the run made itself, which proves nothing to others"
        return StandingLine(f"{_SELF_SIGNED}{where}: {what}", "open", f"{_SELF_SIGNED}{where}")
    who = f"signed by {signature.name}{where}"
    if signature.fingerprint in trusted:
        return StandingLine(f"{who}, card {signature.fingerprint}, whose owner the writer of this page knows", "good")
    what = f"compare card {signature.fingerprint} with its owner's, then fedmm report --trust CARD"
    return StandingLine(f"{who}, by name alone: {what}", "open", f"{who}, a key that nobody here vouches for")


def audit_line(markets: Sequence[str], evidence: Sequence[WeighedStatement], *, budget: bool) -> StandingLine:
    """What audits of the code say. Nobody has to sign what refutes a claim; for it speaks only what counts."""
    results = [result for item in evidence for found in item.audits.values() for result in found]
    refuted = sum(result.verdict == VIOLATED for result in results)
    if refuted:
        return StandingLine(f"audit of the code: {refuted} claim{'s' if refuted > 1 else ''} refuted", "bad")
    if not budget:
        return StandingLine("code not audited: without a budget there is no claim to refute", "open", NOT_AUDITED)
    counted = [item for item in counting(evidence) if item.audits]
    audited = {market for item in counted for market in item.audits}
    missing = [market for market in markets if market not in audited]
    if not audited:
        return _uncounted("code audited", "audit", evidence) if results else StandingLine(NOT_AUDITED, "open")
    if missing:
        what = f"{NOT_AUDITED} at the plans of {named(missing)}"
        return StandingLine(
            f"code audited at the plans of {len(audited)} of {len(markets)} markets; {what}", "open", what
        )
    by_market = {market: [a for item in counted for a in item.audits.get(market, [])] for market in markets}
    weak = [market for market in markets if weak_stages(by_market[market])]
    if weak:
        what = f"audits that would have missed ε at {AIM:g} times the claim: {named(weak)}"
        return StandingLine(f"code audited, no claim refuted; {what}", "open")
    return StandingLine("code audited at every market's plan, no claim refuted", "good")


def canary_lines(committed: Collection[str], evidence: Sequence[WeighedStatement]) -> list[StandingLine]:
    """What an auditor's canary users showed; nothing where no market commits to any, and nobody says so.

    Args:
        committed: markets whose configuration commits to a file of canary users.
        evidence: results of attacks and audits.
    """
    shown = [(market, one) for item in evidence for market, found in item.canary_users.items() for one in found]
    against = [(market, CANARIES_AGAINST[one.verdict]) for market, one in shown if one.verdict in CANARIES_AGAINST]
    if against:
        return [StandingLine(f"canary users of {market}: {what}", "bad") for market, what in dict.fromkeys(against)]
    read = {market for item in counting(evidence) for market in item.canary_users}
    unread = sorted(set(committed) - read)
    if unread:
        return [StandingLine(f"canary users of {named(unread)}: committed to, and no reading of them counts", "open")]
    return [StandingLine(f"canary users of {named(sorted(read))}: no claim refuted", "good")] if read else []


def attack_line(
    rows: Sequence[AttackRow], evidence: Sequence[WeighedStatement], bounded: Collection[str] = ()
) -> StandingLine:
    """Whether attacks were made, and whether one did better than a guarantee admits.

    Nobody has to sign what refutes a claim; for it speaks only what counts.

    Args:
        rows: results of all attacks.
        evidence: results of attacks and audits.
        bounded: views that a guarantee is claimed for, and that show something.
    """
    beyond = sum(row.beyond for row in rows)
    if beyond:
        return StandingLine(f"{beyond} attack{'s' if beyond > 1 else ''} beyond what a guarantee admits", "bad")
    if not rows:
        return StandingLine("not attacked", "open")
    counted = [row for item in counting(evidence) if item.attacks for row in attack_rows(item.results)]
    if not counted:
        return _uncounted("attacked", "attack", evidence)
    if not any(infers_membership(row.kind) for row in counted):
        return StandingLine(NO_MEMBERSHIP, "open")
    missing = untried(bounded, {row.view for row in counted if row.verdict is not None})
    if missing:
        return StandingLine(f"attacked, but {named(missing)} view: {UNTRIED}", "open")
    too_wide = irrefutable((row.view, row.verdict) for row in counted)
    if too_wide:
        return StandingLine(f"attacked, but {named(too_wide)} view: {IRREFUTABLE}", "open")
    return StandingLine("attacked", "good")


def counting(evidence: Sequence[WeighedStatement]) -> list[WeighedStatement]:
    """Evidence that fits the run and is signed from outside it, by somebody whom the reader knows."""
    return [item for item in evidence if item.stated.standing == "counts"]


def _uncounted(done: str, kind: str, evidence: Sequence[WeighedStatement]) -> StandingLine:
    reasons = {str(item.stated.problem).split(": ")[0] for item in evidence if item.stated.kind == kind}
    short = f"{done}, by results that do not count"
    return StandingLine(f"{short}: {'; '.join(sorted(reasons))}", "open", short)


def left_out(evidence: Sequence[WeighedStatement]) -> list[StandingLine]:
    """How many results count neither for nor against anything, beside others that count."""
    count = sum(item.stated.standing in UNCOUNTED for item in evidence)
    kinds = {item.stated.kind for item in counting(evidence)}
    beside = [item for item in evidence if item.stated.standing in UNCOUNTED and item.stated.kind in kinds]
    return [StandingLine(f"{count} of {len(evidence)} statements of results do not count", "open")] if beside else []


def broken(evidence: Sequence[WeighedStatement]) -> list[StandingLine]:
    """Evidence that was edited or cannot be read."""
    return [
        StandingLine(f"{item.stated.id}: {item.stated.problem}", "bad")
        for item in evidence
        if item.stated.standing == "broken"
    ]


def headlines(rows: Sequence[AttackRow]) -> list[AttackRow]:
    """What to show first: the most successful membership inference, with a guarantee against it and without.

    What is beyond a guarantee comes before what is not, however successful. Of a run on which no membership was
    inferred, what went furthest beyond chance.
    """
    membership = [row for row in rows if row.tpr is not None]
    kinds = [[row for row in membership if row.verdict is not None], [row for row in membership if row.verdict is None]]
    if not membership:
        kinds = [list(rows)]
    return [max(kind, key=lambda row: (row.beyond, row.advantage)) for kind in kinds if kind]
