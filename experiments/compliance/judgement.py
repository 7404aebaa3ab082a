"""Whether a document's guarantee may be relied on; a function of the document alone, so that a check repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from attacks.auditing import AIM
from experiments.assessment.record import Verdict
from experiments.assessment.records import infers_membership
from experiments.compliance.coverage import IRREFUTABLE, UNTRIED, irrefutable, untried, weak_stages
from experiments.compliance.document import (
    AttackStated,
    AuditStated,
    CanaryUsersStated,
    Declarations,
    Document,
    EvidenceStanding,
    LedgerStated,
    MarketStated,
    VerdictStated,
)
from experiments.presentation.text import PERSON, worst
from fedmm_secure.guarantee.stages import SERVER_VIEW, SEVERAL_MARKETS
from privacy.accounting.text import delta_text, epsilon_text
from privacy.aggregation.kinds import TRAITS, Traits

ASSUMPTIONS = [
    "public: each market's item catalogue (not the counts), the number of its users, the configuration",
    "δ is 1/n^1.1 of a market's users at most; an n that is itself secret is assumed known",
    "the operating system's entropy is unpredictable: a 256-bit key drawn from it feeds the stream cipher that all "
    "noise, sampling and randomised response come from",
    "the code that ran is the code that is named by hash: whether a machine drew the noise that its ledger names, no "
    "ledger shows",
    "gradients are computed and clipped in floating point; before they are added up each is cut towards zero to "
    "integers of bounded norm, so that an error of that arithmetic can shrink a user's part and never enlarge it",
    "the server's ε of 0 under encryption is computational: CKKS (RLWE) at 128 bits, and no market hands it the key",
    "under masked-ckks, single updates stay hidden while at least two markets do not collude",
    "nobody has rows in several markets, unless figures of such a person are claimed: the unit is a user of one "
    "market; what markets state of the same person composes, and a noise that is one for all of them is moved by each; "
    "user ids are compared where one process holds all rows, and between organisations nobody compares them",
    "the limit of ε was fixed before any run on the data was looked at: under it runs may be chosen, and stopped, by "
    "what earlier ones showed the claimed view; a limit that was chosen by what they showed is none",
    "a user is a person with one id, and no item is a user: rows of others about a person are not that person's",
    "runs on other copies of the data under another name of the market, or under a privacy account that this one has "
    "not heard of, are not known to it",
]
_NOT_GUARANTEED = [
    "the profile view: a user's own codes, embedding and scores are computed from that user's rows, and unprotected",
    "logs, state, keys, user codes and predictions of the run directory: private values that stay with the market",
    "how long a computation takes, and other side channels of the machine that trains",
    "what is true of a population whether or not a user takes part: differential privacy does not hide it",
    "lawfulness, purpose and necessity of the processing: for the controller to establish",
]
EXACT_EVALUATION = (
    "test figures (AUC, LogLoss and others) are exact and computed on private rows: outside the guarantee"
)
NOISY_EVALUATION = (
    "test figures (AUC and LogLoss) come from noisy histograms, within the guarantee; none of private rows is exact"
)
ATTACK_SUCCESS = "the success of attacks: exact, and computed on private rows"
OPEN_NOISE = (
    "against the auditor who may replay the run, and whoever gets that auditor's key, no figure of this report holds"
)
CANARIES_AGAINST = {
    "VIOLATED": "what the run published refutes its claim",
    "shows nothing": "those who are in do not weigh what they add, so that they show nothing",
}  # by verdict
NO_MEMBERSHIP = "attacked, but nobody tried to infer membership"
UNCOUNTED = ("untrusted", "unsigned", "unbound")
ROUNDING = 1 + 1e-9  # of a δ that was computed as the same power elsewhere


def document_verdict(document: Document) -> VerdictStated:
    """The verdict that follows from everything else in the document."""
    reasons = [*_broken(document), *_by_reason(_of_markets(document))]
    return VerdictStated(compliant=not reasons, reasons=reasons, open=_open(document))


def evaluation_note(private: bool) -> str:
    """What the guarantee does not cover of the figures that a run reports."""
    return NOISY_EVALUATION if private else EXACT_EVALUATION


def not_guaranteed(document: Document) -> list[str]:
    """What a reader must not take for covered."""
    found = [] if document.run.private_evaluation else [EXACT_EVALUATION]
    if document.run.one_noise:
        found.append(SEVERAL_MARKETS)
    if document.run.replay_auditor is not None:
        found.append(f"{OPEN_NOISE}: {document.run.replay_auditor}")
    return [*found, ATTACK_SUCCESS, *_NOT_GUARANTEED]


def colour(document: Document) -> Literal["good", "open", "bad"]:
    """What the first screen says at a glance: green only where nothing is left open."""
    if not document.verdict.compliant:
        return "bad"
    return "open" if document.verdict.open else "good"


def standing(document: Document) -> dict[str, EvidenceStanding]:
    """What each piece of evidence is worth, by its id; what is not listed is worth nothing."""
    return {evidence.id: evidence.standing for evidence in document.evidence}


def counted_audits(document: Document, market: str) -> list[AuditStated]:
    """Audits of a market that fit the run and are signed from outside it."""
    worth = standing(document)
    return [audit for audit in document.markets[market].audit if worth.get(audit.evidence) == "counts"]


def counted_canary_users(document: Document, market: str) -> list[CanaryUsersStated]:
    """What an auditor's canary users showed of a market, where it fits the run and is signed from outside it."""
    worth = standing(document)
    return [one for one in document.markets[market].canary_users if worth.get(one.evidence) == "counts"]


def counted_attacks(document: Document) -> list[AttackStated]:
    """Attacks whose evidence fits the run and is signed from outside it."""
    worth = standing(document)
    return [attack for attack in document.attacks if worth.get(attack.evidence) == "counts"]


def untried_views(document: Document) -> list[str]:
    """Claimed views that show something, of which it is bounded what, and that no attack that counts was held to."""
    markets = document.markets.values()
    views = [view for view in document.run.claimed_views if any(found.views[view].epsilon for found in markets)]
    return untried(views, {attack.view for attack in counted_attacks(document) if attack.verdict is not None})


def claimed_epsilon(document: Document, market: str, view: str) -> float | None:
    """The ε that a view is claimed to have: over all runs on the data, or of this one where that is declared to do.

    Over all runs it is the most that anything says: the account, the ledger's note of earlier runs, the run itself.
    """
    found = document.markets[market]
    own = found.views[view].epsilon
    if document.declarations.sole_run:
        return own
    if view == SERVER_VIEW and TRAITS.get(document.run.aggregation, Traits()).server_reads_updates:
        view = "market"  # what the server reads in the clear, the markets read too
    # whichever says most: no account makes a run spend less than its own ledger says
    return worst([own, found.views[view].epsilon, found.all_runs.epsilon[view], found.all_runs.ledger_epsilon[view]])


ONE_USER = "a user of one market, with all rows there"


@dataclass(frozen=True)
class ClaimedFigure:
    """What is claimed against one view, and of whom.

    Attributes:
        unit: ``USER``: ε of the worst market; ``PERSON``: composed over all markets.
        view: its name.
        epsilon: None where nothing bounds it, or it is not known.
        delta: the largest of a market.
    """

    unit: str
    view: str
    epsilon: float | None
    delta: float


def claimed(document: Document, market: str | None = None) -> list[ClaimedFigure]:
    """Every figure that is claimed, of a market or of the worst, with its unit; what prints an ε takes it from here.

    A person in several markets is protected less than the user of one. Where ids are declared to be the same people's,
    both are claimed, and the limit is on both.
    """
    names = list(document.markets) if market is None else [market]
    figures = []
    for view in document.run.claimed_views:
        epsilon = worst(claimed_epsilon(document, name, view) for name in names)
        at = {view} if epsilon == 0.0 else {view, "market"}  # what a server read in other runs alone has their δ
        delta = max(document.markets[name].views[one].delta for name in names for one in at)
        figures.append(ClaimedFigure(ONE_USER, view, epsilon, delta))
    return [*figures, *(_of_persons(document) if document.run.shared_users == "composed" else [])]


def _of_persons(document: Document) -> list[ClaimedFigure]:
    across = document.across_markets
    return [ClaimedFigure(PERSON, view, epsilon, across.delta) for view, epsilon in across.epsilon.items()]


def claimed_unit(document: Document) -> str:
    """The largest unit that the report claims a figure for."""
    return claimed(document)[-1].unit


def figures_text(document: Document) -> str:
    """All that is claimed, in words: each figure with its unit."""
    units: dict[str, list[str]] = {}
    for found in claimed(document):
        text = f"{found.view}: ε {claimed_text(document, found)}, δ {delta_text(found.delta)}"
        units.setdefault(found.unit, []).append(text)
    texts = [f"{_ABOUT[unit]}, {scope(document)}: {'; '.join(parts)}." for unit, parts in units.items()]
    return " ".join([*texts, *filter(None, [persons_note(document)])])


_ABOUT = {ONE_USER: f"{ONE_USER[0].upper()}{ONE_USER[1:]}, worst market", PERSON: f"{PERSON[0].upper()}{PERSON[1:]}"}


def claimed_text(document: Document, found: ClaimedFigure) -> str:
    """The ε of a figure; one that is not known is not one without a bound."""
    unknown = found.unit == PERSON and document.across_markets.problem is not None
    return "not known" if unknown else epsilon_text(found.epsilon)


def persons_note(document: Document) -> str | None:
    """What is to be said beside the figures of a person in several markets: why there are none."""
    problem = document.across_markets.problem
    return None if problem is None else f"A person in several markets: ε is not known: {problem}."


def scope(document: Document) -> str:
    """Which runs the figures are of."""
    return "of this run" if document.declarations.sole_run else "of all runs on the data"


def _broken(document: Document) -> list[str]:
    found = []
    if not document.verification.verified:
        found.append(f"the ledger or the transcript does not verify: {len(document.verification.findings)} findings")
    if document.run.tuned and {"consumer", "release"} & set(document.run.claimed_views):
        found.append("the CTR model was tuned on private validation rows, which no ledger line pays for")
    found += [f"{item.id}: {item.problem}" for item in document.evidence if item.standing == "broken"]
    for attack in document.attacks:
        if attack.verdict is Verdict.BEYOND and _speaks_against(document, attack.evidence):
            found.append(f"an attack does better than a guarantee admits: {attack.attack}, {attack.view} view")
    if document.run.shared_users == "composed":
        found += list(_across_markets(document))
    return found


def _across_markets(document: Document) -> Iterator[str]:
    """Where some people are in several markets, the limit is on what all of those spend on them."""
    limit, problem = document.declarations.max_epsilon, document.across_markets.problem
    if problem is not None:
        yield f"people in several markets: what is learnt of them is not known: {problem}"
        return
    for view, epsilon in document.across_markets.epsilon.items():
        if epsilon is None:
            yield f"people in several markets: no bound on what the {view} view learns of them"
        elif epsilon > limit:
            yield (
                f"people in several markets: ε of the {view} view, composed over all markets, is "
                f"{epsilon_text(epsilon)}, and exceeds the limit {limit:g}"
            )


def _speaks_against(document: Document, evidence: str) -> bool:
    """Nobody has to sign what refutes a claim; it only has to be about this run."""
    return standing(document).get(evidence) in ("counts", "untrusted", "unsigned")


def _of_markets(document: Document) -> Iterator[tuple[str, str]]:
    """Market and reason."""
    limit = document.declarations.max_epsilon
    for name, market in document.markets.items():
        runs = market.all_runs
        yield from ((name, reason) for reason in _of_ledger(market.ledger))
        yield from ((name, reason) for reason in _of_delta(document, market))
        for audit in market.audit:
            if audit.verdict == "VIOLATED" and _speaks_against(document, audit.evidence):
                yield name, f"the audit of the code refutes the claim of {audit.stage} ({audit.game})"
        for reading in market.canary_users:
            if reading.verdict in CANARIES_AGAINST and _speaks_against(document, reading.evidence):
                yield name, f"canary users, {reading.reading}: {CANARIES_AGAINST[reading.verdict]}"
        for view in document.run.claimed_views:
            epsilon = claimed_epsilon(document, name, view)
            if market.views[view].epsilon is None:
                yield name, f"no bound on what the {view} view learns"
            elif epsilon is None:
                if runs.runs is not None and not runs.without_bound:  # else it is said below why
                    yield name, f"no bound on what the {view} view learns over all runs"
            elif epsilon > limit:
                yield name, f"ε of the {view} view exceeds the limit {limit:g}"
        if document.declarations.sole_run:
            continue
        if runs.runs is None:
            yield name, f"tuning is not accounted for: no privacy account can be read: {runs.problem}"
            continue
        if runs.runs < runs.ledger_runs:
            yield name, f"the privacy account knows {runs.runs} runs on its data, the run's ledger {runs.ledger_runs}"
        if not runs.as_planned:
            yield name, "the privacy account does not hold this run with what its plan spends"
        if runs.without_bound:
            yield (
                name,
                f"tuning is not accounted for: {runs.without_bound} of {runs.runs} runs on its data have no "
                "budget, or other users",
            )


def _of_ledger(ledger: LedgerStated) -> Iterator[str]:
    if ledger.seeded:
        yield "noise came from a known seed"
    if not ledger.exact:
        yield "noise is not that of an exact integer mechanism: its last digits can tell who took part"
    if ledger.closed_by is None:
        yield "the ledger is not closed: no signature says that nothing was left out of it or rewritten"
    elif ledger.self_signed:
        yield "the ledger is closed with a key that the run made itself: whoever has the directory could rewrite it"


def _of_delta(document: Document, market: MarketStated) -> Iterator[str]:
    """δ is the probability that nothing holds: at 1/n, one user published in full would satisfy it."""
    delta = max(market.views[view].delta for view in document.run.claimed_views)
    own, policy = market.users**-1.1, document.declarations.max_delta
    if delta > own * ROUNDING:
        yield f"δ {delta_text(delta)} exceeds 1/n^1.1 of its {market.users} users, {own:.1e}"
    if policy is not None and delta > policy * ROUNDING:
        yield f"δ {delta_text(delta)} exceeds the limit {policy:g}"


def trusted_fingerprints(declarations: Declarations) -> frozenset[str]:
    """Cards whose closings and evidence count: the signer's own, and those that the signer names."""
    named = {card.fingerprint for card in declarations.trusted}
    return frozenset(named if declarations.signer is None else named | {declarations.signer})


def _of_keys(document: Document) -> Iterator[str]:
    """Whose word the report rests on, where that is less than it seems: anybody can make a key."""
    closed = {name: found.ledger for name, found in document.markets.items() if found.ledger.closed_by is not None}
    strangers: dict[str, list[str]] = {}
    for name, ledger in closed.items():
        if not ledger.self_signed and ledger.closed_by not in trusted_fingerprints(document.declarations):
            strangers.setdefault(str(ledger.closed_by), []).append(name)
    for fingerprint, names in strangers.items():
        yield f"{', '.join(names)}: closed by card {fingerprint}, which the signer does not vouch for (--trust CARD)"
    keys = {ledger.closed_by for ledger in closed.values()}
    keys |= {item.fingerprint for item in document.evidence if item.standing == "counts"}
    if keys == {document.declarations.signer}:
        yield f"self-signed: run, evidence and report by one key, card {document.declarations.signer}"


def _by_reason(found: Iterable[tuple[str, str]]) -> list[str]:
    markets: dict[str, list[str]] = {}
    for market, reason in found:
        markets.setdefault(reason, []).append(market)
    return [f"{', '.join(names)}: {reason}" for reason, names in markets.items()]


def _open(document: Document) -> list[str]:
    found = [f"not checked: {text}" for text in document.verification.unchecked]
    unaudited = [name for name in document.markets if not counted_audits(document, name)]
    if unaudited:
        what = "nothing has tried to refute that the code keeps what is claimed there"
        found.append(f"code not audited at the plans of {', '.join(unaudited)}; {what}")
    for name in document.markets:
        weak = weak_stages(counted_audits(document, name))
        if weak:
            what = f"would have missed ε at {AIM:g} times the claim: {', '.join(weak)}"
            found.append(f"market {name}: audits of the code {what}")
    unread = [name for name, market in document.markets.items() if market.canary_file]
    unread = [name for name in unread if not counted_canary_users(document, name)]
    if unread:
        found.append(f"canary users of {', '.join(unread)}: committed to, and no reading of them counts")
    attacks = counted_attacks(document)
    if not attacks:
        found.append("not attacked: no attack on this run counts")
    elif not any(infers_membership(attack.kind) for attack in attacks):
        found.append(NO_MEMBERSHIP)
    else:
        found += [f"{view} view: {UNTRIED}" for view in untried_views(document)]
    of_views = irrefutable((attack.view, attack.verdict) for attack in counted_attacks(document))
    found += [f"{view} view: {IRREFUTABLE}" for view in of_views]
    found += [f"{item.id}: {item.problem}" for item in document.evidence if item.standing in UNCOUNTED]
    found += _of_keys(document)
    if document.run.synthetic:
        found.append("about synthetic data, no person's: it vouches for nobody's rows")
    if document.run.shared_users == "distinct":
        found.append("declared, not shown: user ids that several markets have are those of different people")
    if document.declarations.sole_run:
        known = [market.all_runs.runs for market in document.markets.values()]
        most = max(found.all_runs.known for found in document.markets.values())
        others = "an unknown number of" if None in known else str(most - 1)
        found.append(f"declared, not shown: {others} other runs on the same data were set aside")
    else:
        found += _by_reason(_not_fixed(document))
    return found


def _not_fixed(document: Document) -> Iterator[tuple[str, str]]:
    """Where the limit on several runs may follow from what some of them showed; on a person no ceiling is fixed."""
    limit, most = document.declarations.max_epsilon, 1
    what = "declared, not shown: that the limit {:g} was fixed before the first of {} runs on the data was looked at"
    for name, market in document.markets.items():
        runs, ceiling = market.all_runs.known, market.all_runs.ceiling
        most = max(runs, most)
        if runs > 1 and (ceiling is None or ceiling > limit):
            yield name, what.format(limit, runs)
    if most > 1 and document.run.shared_users == "composed":
        yield "people in several markets", what.format(limit, most)
