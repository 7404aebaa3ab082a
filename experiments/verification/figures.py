"""Test figures that the budget paid for: those that the published histograms give, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.runs.differences import differences
from experiments.verification.equality import same_values
from experiments.verification.evidence import Evidence, sections
from experiments.verification.platform import same_code
from fedmm_secure.ctr.private_evaluation import histograms_from_arrays
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.stages import EVALUATION
from fedmm_secure.results.metrics import figures_of_seeds, macro_figures, noisy_metrics
from fedmm_secure.results.tasks import TASKS, macro_of
from fedmm_secure.storage.layout import METRICS_FILE
from privacy.accounting.ledger_check import Finding

_SIZES = frozenset({"n_users", "n_items"})  # public, and compared with the opening line
_ROUNDING = 1e-9  # of a difference of AUC, whose parts other code adds up in another order
_GAINS = "last digits of auc_gain_over_it: other code computed them, in another order"


def figure_findings(evidence: Evidence, published: Mapping[str, Publications]) -> list[Finding]:
    """What the metrics say of test rows that the published histograms do not; exact figures that others do not give.

    Exact figures of single seeds and markets cannot be computed again without the rows. Means and intervals of them
    can.
    """
    where = str(evidence.directory / METRICS_FILE)
    return [Finding(where, what) for what in _problems(evidence, published)]


def _problems(evidence: Evidence, published: Mapping[str, Publications]) -> Iterator[str]:
    private = evidence.config.private_evaluation
    stated = sections(evidence.metrics, "privacy").get("evaluation")
    if stated != {"private": private}:
        yield f"privacy.evaluation: says {stated!r:.100}, where {{'private': {private}}} was configured"
    markets = sections(evidence.metrics, "markets")
    if not private:
        yield from _exact(evidence, markets)
        return
    histograms = {
        market: histograms_from_arrays(found.read[EVALUATION])
        for market, found in published.items()
        if EVALUATION in found.read  # one that is missing, or is no histogram, is found elsewhere
    }
    if set(histograms) != set(markets):
        yield f"test figures of {len(markets)} markets, histograms that they could follow from of {len(histograms)}"
        return
    wanted = noisy_metrics(histograms)
    for market, figures in wanted["markets"].items():
        said = {key: value for key, value in markets[market].items() if key not in _SIZES}
        yield from _different(evidence, f"market {market}", figures, said)
    yield from _different(evidence, "macro", wanted["macro"], evidence.metrics.get("macro"))


def _exact(evidence: Evidence, markets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Means over seeds and markets that are none of what the metrics say of these."""
    gives = "its seeds give"
    for market, found in markets.items():
        for name, section in {"": found, **found["baselines"]}.items():
            wanted = figures_of_seeds(section["auc_by_seed"])
            said = {key: section[key] for key in wanted}
            yield from _different(evidence, f"market {market}, {name}".strip(", "), wanted, said, gives)
        yield from _gains(evidence, market, found)
    if not markets:
        return
    macro = macro_figures(markets, len(evidence.config.seed))
    macro |= macro_of([{task: markets[name].get(task) for task in TASKS} for name in sorted(markets)])
    said = dict.fromkeys(TASKS) | dict(evidence.metrics["macro"])
    said["baselines"] = {
        name: {key: value for key, value in section.items() if key != "communication"}
        for name, section in said["baselines"].items()
    }
    yield from _different(evidence, "macro", macro, said, "the markets give")


def _gains(evidence: Evidence, market: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Differences from baselines that are none of the AUCs beside them; how sure they are, only the rows give."""
    exact = same_code(evidence)
    for name, section in found["baselines"].items():
        said = (section["auc_gain_over_it"] or {}).get("mean")
        known = found["auc"] is not None and section["auc"] is not None
        wanted = found["auc"] - section["auc"] if known else None
        if said == wanted:
            continue
        if exact or said is None or wanted is None or abs(said - wanted) > _ROUNDING:
            yield f"market {market}, auc_gain_over_it of {name:.100}: says {said!r:.100}, the AUCs give {wanted!r:.100}"
        else:
            evidence.leave_open(_GAINS)


def _different(
    evidence: Evidence, about: str, wanted: Mapping[str, Any], said: Any, gives: str = "the published histograms give"
) -> Iterator[str]:
    for field, expected, found in differences(wanted, said, same=same_values(evidence)):
        yield f"{about}, {field:.100}: says {found!r:.100}, {gives} {expected!r:.100}"
