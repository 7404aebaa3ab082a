"""Markets, opening lines and metrics: a run is what its ledgers were opened with, and says so everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experiments.runs.differences import differences
from experiments.verification.effort import too_many_steps
from experiments.verification.equality import same_values
from experiments.verification.evidence import Evidence, ledger_file, sections
from experiments.verification.platform import same_code
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.across_markets import across_markets, states_persons
from fedmm_secure.federation.canaries import stated_canaries
from fedmm_secure.federation.coins import stated_toss
from fedmm_secure.federation.opening import commitments
from fedmm_secure.federation.requests import is_run_id
from fedmm_secure.guarantee.multipliers import UNKNOWN, MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import VIEWS
from fedmm_secure.guarantee.statement import guarantees
from fedmm_secure.storage.layout import MARKET_FOLDERS, METRICS_FILE
from privacy.accounting.accountants import Accountant
from privacy.accounting.guarantees import STATED, STATED_EARLIER
from privacy.accounting.ledger_check import Finding, check_claims, unaccountable
from privacy.hexadecimal import is_digest

_MOST_USERS, _MOST_ITEMS = 10**10, 10**9
_ROUNDING = 1 + 1e-9  # of a δ that was computed as the same power elsewhere
SIZES = ("n_users", "n_items")


def market_findings(evidence: Evidence) -> list[Finding]:
    """All markets of the federation, or the one that this is the run of, in everything that the run left."""
    directory, markets = evidence.directory, evidence.bundle.markets
    findings = []
    names = {
        METRICS_FILE: set(sections(evidence.metrics, "markets")),
        f"{METRICS_FILE}, privacy": set(sections(evidence.metrics, "privacy", "markets")),
        "ledger": {path.stem for path in ledger_file(directory, "").parent.glob("*")},
    }
    for folder in MARKET_FOLDERS:
        if (directory / folder).is_dir():
            names[folder] = {path.stem for path in (directory / folder).iterdir()}
    here = names["ledger"] & set(markets)
    # a deployed market has its own ledger alone; anything between one market and all of them lacks some
    expected = set(markets) if len(here) != 1 or len(names[METRICS_FILE]) > 1 else here
    for place, found in names.items():
        for market in sorted(expected - found):
            if place not in MARKET_FOLDERS:
                findings.append(Finding(str(directory / place), f"market {market} of the federation is missing"))
        for market in sorted(found - expected):
            findings.append(Finding(str(directory / place), f"{market!r:.100} is no market of this run"))
    return findings


def opening_findings(evidence: Evidence) -> list[Finding]:
    """Opening lines against configuration, bundle, environment and metrics; keeps each market's plan."""
    findings = []
    for market, content in evidence.ledgers.items():
        where = f"{evidence.ledger(market)}:1"
        if not content.kinds:
            findings.append(Finding(str(evidence.ledger(market)), "the ledger is empty"))
            continue
        try:
            plan = _plan(evidence, market, content.opening)
            evidence.plans[market] = _with_catalogue(evidence, market, plan)
        except (ConfigError, ValueError, TypeError, KeyError, OverflowError) as error:
            findings.append(Finding(where, f"no plan can be made of what it commits to: {error!s:.300}"))
            continue
        data = content.opening.get("data")
        known = data if is_digest(data) else "a fingerprint of the rows"
        stated = str(content.opening.get("run"))
        run = stated if is_run_id(stated) else "an id of a run"
        catalogue = _catalogue(evidence, market, plan)
        wanted = commitments(run, plan, catalogue, evidence.bundle, evidence.directory, known)
        wanted |= {"code": evidence.environment.get("code")} | stated_toss(evidence.config, market, content.opening)
        wanted |= stated_canaries(evidence.config, content.opening)
        findings += [
            Finding(where, f"{field:.100}: opened with {found!r:.300}, the run has {expected!r:.300}")
            for field, expected, found in differences(wanted, dict(content.opening), same=same_values(evidence))
        ]
        findings += _against_policy(where, plan) + _kind_of_catalogue(evidence, market)
    findings += _across_ledgers(evidence)
    return findings + _against_metrics(evidence)


def _catalogue(evidence: Evidence, market: str, plan: SpendingPlan) -> dict[str, Any]:
    """What a first line says of a market's items: what the metrics state, with the number that everything has."""
    if evidence.config.catalogue == "discovered":
        return {"kind": "discovered"}  # they were not known then
    stated = sections(evidence.metrics, "privacy", "catalogue").get(market, {})
    return {**stated, "size": plan.size.items}


def _with_catalogue(evidence: Evidence, market: str, plan: SpendingPlan) -> SpendingPlan:
    """The plan once a catalogue was discovered; it is compared with the publication elsewhere.

    Raises:
        ValueError: the metrics do not say how many items were found.
    """
    if evidence.config.catalogue != "discovered":
        return plan
    size = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("size")
    if type(size) is not int or not 1 <= size <= _MOST_ITEMS:
        raise ValueError(f"a catalogue of {size!r:.50} items was discovered")
    return plan.with_items(size)


def _kind_of_catalogue(evidence: Evidence, market: str) -> list[Finding]:
    """Items come from where the configuration says; markets in memory may bring the generator's for a file's."""
    kind = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("kind")
    configured = evidence.config.catalogue
    if kind == configured or (kind, configured) == ("synthetic", "file"):
        return []
    what = f"market {market}, catalogue: says {kind!r:.50}, configured is {configured}"
    return [Finding(str(evidence.directory / METRICS_FILE), what)]


def _plan(evidence: Evidence, market: str, opening: Mapping[str, Any]) -> SpendingPlan:
    """What the configuration makes of the sizes that the bundle states or, where it does not, the opening line.

    Noise multipliers are solved anew; where those that were committed are the same but for rounding, they stand, so
    that events can be compared to the last digit.

    Raises:
        ConfigError: no noise meets the budget.
        ValueError: a size is out of all bounds.
    """
    sizes = dict(evidence.sizes)
    if sizes[market] == UNKNOWN:
        sizes[market] = MarketSize(opening["users"], opening["items"])
    own = sizes[market]
    whole, fewest = type(own.users) is type(own.items) is int, 1
    if evidence.config.catalogue == "discovered":
        fewest = 0  # how many items there are is not known yet
    if not (whole and 1 <= own.users <= _MOST_USERS and fewest <= own.items <= _MOST_ITEMS):
        raise ValueError(f"{own.users!r:.50} users and {own.items!r:.50} items")
    plan = SpendingPlan.of(evidence.config, market, sizes)
    committed = opening["noise"]
    if differences(dict(plan.noise), committed, same=same_values(evidence)):
        return plan
    return SpendingPlan.of(evidence.config, market, sizes, committed)


def _against_policy(where: str, plan: SpendingPlan) -> list[Finding]:
    """δ is the chance that nothing holds: at 1/n, one user published in full would satisfy it."""
    policy = plan.size.users**-1.1
    if plan.epsilon is None or plan.delta <= policy * _ROUNDING:
        return []
    return [Finding(where, f"delta {plan.delta:.3g} is above 1/n^1.1 = {policy:.3g} of its {plan.size.users} users")]


def _across_ledgers(evidence: Evidence) -> list[Finding]:
    """All ledgers of a directory are of one run, and agree on what all markets share."""
    findings = []
    openings = {market: content.opening for market, content in evidence.ledgers.items() if content.opening}
    first = next(iter(openings.values()), {})
    for market, opening in openings.items():
        for field in ("run", "configuration", "federation", "environment", "code", "sizes"):
            if opening.get(field) != first.get(field):
                where = f"{evidence.ledger(market)}:1"
                findings.append(Finding(where, f"{field}: not what {next(iter(openings))}'s ledger was opened with"))
    return findings


def _against_metrics(evidence: Evidence) -> list[Finding]:
    where, findings = str(evidence.directory / METRICS_FILE), []
    stated = sections(evidence.metrics, "markets")
    for market, plan in evidence.plans.items():
        sizes = stated.get(market, {})
        for field, opened in zip(SIZES, (plan.size.users, plan.size.items), strict=True):
            if sizes.get(field) != opened:
                what = f"market {market}, {field}: says {sizes.get(field)!r:.100}, its ledger was opened with {opened}"
                findings.append(Finding(where, what))
        listed = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("size")
        if listed != plan.size.items:
            what = f"market {market}, catalogue: says {listed!r:.100} items, its ledger was opened with"
            findings.append(Finding(where, f"{what} {plan.size.items}"))
    return findings


def statement_findings(evidence: Evidence) -> list[Finding]:
    """ε of each market and view by two accountants, and every field of the privacy statement, from the ledgers."""
    findings, twice = [], not too_many_steps(evidence)
    if not twice:
        evidence.unchecked.append("epsilon: by PLD alone, for PRV takes too many different steps or too many markets")
    claimed = sections(evidence.metrics, "privacy", "markets")
    for market, content in evidence.ledgers.items():
        views, path = claimed.get(market), evidence.ledger(market)
        if views is None:
            continue  # among the findings about markets
        claims: dict[str, float | None] = {}
        for view in VIEWS:
            said = views.get(view)
            epsilon = said.get("epsilon") if isinstance(said, Mapping) else None
            if epsilon is None or type(epsilon) in (int, float):
                claims[view] = epsilon
        findings += check_claims(path, content.entries, claims, twice=twice)
    return [*findings, *_against_statements(evidence, claimed), *_across_markets(evidence)]


def _across_markets(evidence: Evidence) -> list[Finding]:
    """What the metrics say of a person with rows in all markets, from the plans."""
    if not evidence.plans:
        return []  # what no plan can be made of is among the findings
    expected = asdict(across_markets(evidence.plans)) if states_persons(evidence.config) else {}
    said = sections(evidence.metrics, "privacy").get("across_markets") or {}
    where = str(evidence.directory / METRICS_FILE)
    return [
        Finding(where, f"privacy.across_markets.{field}: says {found!r:.100}, the plans give {wanted!r:.100}")
        for field, wanted, found in differences(expected, said, same=same_values(evidence))
    ]


def _against_statements(evidence: Evidence, claimed: Mapping[str, Any]) -> list[Finding]:
    """Differences from what the ledgers give; a run of other code may have its statements all on the finest grid."""
    found = _other_statements(evidence, claimed, STATED)
    if found and not same_code(evidence):
        return found if _other_statements(evidence, claimed, STATED_EARLIER) else []
    return found


def _other_statements(evidence: Evidence, claimed: Mapping[str, Any], accountant: Accountant) -> list[Finding]:
    where = str(evidence.directory / METRICS_FILE)
    return [
        Finding(where, f"market {market}, {field:.100}: says {found!r:.100}, the ledger gives {expected!r:.100}")
        for market, content in evidence.ledgers.items()
        if market in claimed and content.entries and not unaccountable(content.entries)
        for field, expected, found in differences(
            dict(guarantees(evidence.config, content.entries, accountant)),
            dict(claimed[market]),
            same=same_values(evidence),
        )
    ]
