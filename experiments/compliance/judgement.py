"""Whether a document's guarantee may be relied on; a function of the document alone, so that a check repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from experiments.compliance.document import Document, VerdictStated

ASSUMPTIONS = [
    "public: each market's item catalogue (not the counts), the number of its users, the configuration",
    "δ is 1/n^1.1 of a market's users unless configured; an n that is itself secret is assumed known",
    "the server's ε of 0 under encryption is computational: CKKS (RLWE) at 128 bits, and no market hands it the key",
    "under masked-ckks, single updates stay hidden while at least two markets do not collude",
    "the random generator of the operating system is unpredictable, and the code that ran is the code that is named",
    "runs on other copies of the data, or under another privacy account, are not known to the account",
]
NOT_GUARANTEED = [
    "the profile view: a user's own codes, embedding and scores are computed from that user's rows, and unprotected",
    "evaluation figures (AUC and others): computed on private test rows, outside the guarantee",
    "logs, state, keys, user codes and predictions of the run directory: private values that stay with the market",
    "floating-point attacks on noise (Mironov, CCS 2012), timing and other side channels of the training machine",
    "what is true of a population whether or not a user takes part: differential privacy does not hide it",
    "lawfulness, purpose and necessity of the processing: for the controller to establish",
]


def judge(document: Document) -> VerdictStated:
    """The verdict that follows from everything else in the document."""
    reasons = [*_broken(document), *_by_reason(_of_markets(document))]
    return VerdictStated(compliant=not reasons, reasons=reasons, open=_open(document))


def claimed_epsilon(document: Document, market: str, view: str) -> float | None:
    """The ε that a view is claimed to have: over all runs on the data, or of this one where that is declared to do."""
    found = document.markets[market]
    if document.declarations.sole_run:
        return found.views[view].epsilon
    if view != "server":
        return found.all_runs.epsilon[view]
    # what the server reads in the clear, the markets read too
    return found.all_runs.epsilon["market"] if document.run.aggregation == "plaintext" else found.views[view].epsilon


def _broken(document: Document) -> list[str]:
    found = []
    if not document.verification.verified:
        found.append(f"the ledger or the transcript does not verify: {len(document.verification.findings)} findings")
    for attack in document.attacks:
        if attack.within is False:
            found.append(f"an attack does better than a guarantee admits: {attack.attack}, {attack.view} view")
    return found


def _of_markets(document: Document) -> Iterator[tuple[str, str]]:
    """Market and reason."""
    limit = document.declarations.max_epsilon
    for name, market in document.markets.items():
        runs = market.all_runs
        if market.ledger.seeded:
            yield name, "noise came from a known seed"
        for audit in market.audit:
            if audit.verdict == "VIOLATED":
                yield name, f"the audit refutes the claim of {audit.stage} ({audit.game})"
        for view in document.run.claimed_views:
            epsilon = claimed_epsilon(document, name, view)
            if market.views[view].epsilon is None:
                yield name, f"no bound on what the {view} view learns"
            elif limit is not None and epsilon is not None and epsilon > limit:
                yield name, f"ε of the {view} view exceeds the limit {limit:g}"
        if document.declarations.sole_run:
            continue
        if runs.runs is None:
            yield name, "tuning is not accounted for: there is no privacy account of the run's data to read"
        elif runs.without_bound:
            yield (
                name,
                f"tuning is not accounted for: {runs.without_bound} of {runs.runs} runs on its data have no budget",
            )


def _by_reason(found: Iterable[tuple[str, str]]) -> list[str]:
    markets: dict[str, list[str]] = {}
    for market, reason in found:
        markets.setdefault(reason, []).append(market)
    return [f"{', '.join(names)}: {reason}" for reason, names in markets.items()]


def _open(document: Document) -> list[str]:
    found = []
    unaudited = [name for name, market in document.markets.items() if not market.audit]
    if unaudited:
        found.append(f"not audited: {', '.join(unaudited)}; nothing has tried to refute the claims there")
    for name, market in document.markets.items():
        weak = [f"{audit.stage} ({audit.game})" for audit in market.audit if audit.verdict == "inconclusive"]
        if weak:
            found.append(f"market {name}: audits too small to see half the noise: {', '.join(weak)}")
    if not document.attacks:
        found.append("not attacked: no attack was run against this run")
    if document.declarations.sole_run:
        known = [market.all_runs.runs for market in document.markets.values()]
        others = "an unknown number of" if None in known else str(max(runs or 1 for runs in known) - 1)
        found.append(f"declared, not shown: {others} other runs on the same data were set aside")
    if document.declarations.max_epsilon is None:
        found.append("no limit on ε was given: whether these figures are small enough is for the reader to say")
    return found
