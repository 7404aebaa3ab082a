"""Test figures that the budget paid for: those that the published histograms give, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.runs.differences import differences
from experiments.verification.equality import same_values
from experiments.verification.evidence import Evidence, sections
from fedmm_secure.ctr.private_evaluation import histograms_from_arrays
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.stages import EVALUATION
from fedmm_secure.results.metrics import noisy_metrics
from fedmm_secure.storage.layout import METRICS_FILE
from privacy.accounting.ledger_check import Finding

_SIZES = frozenset({"n_users", "n_items"})  # public, and compared with the opening line


def figure_findings(evidence: Evidence, published: Mapping[str, Publications]) -> list[Finding]:
    """What the metrics say of test rows that the published histograms do not.

    Exact figures cannot be computed again without the rows: of those only the kind is checked.
    """
    where = str(evidence.directory / METRICS_FILE)
    return [Finding(where, what) for what in _problems(evidence, published)]


def _problems(evidence: Evidence, published: Mapping[str, Publications]) -> Iterator[str]:
    private = evidence.config.private_evaluation
    stated = sections(evidence.metrics, "privacy").get("evaluation")
    if stated != {"private": private}:
        yield f"privacy.evaluation: says {stated!r:.100}, where {{'private': {private}}} was configured"
    if not private:
        return
    markets = sections(evidence.metrics, "markets")
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


def _different(evidence: Evidence, about: str, wanted: Mapping[str, Any], said: Any) -> Iterator[str]:
    for field, expected, found in differences(wanted, said, same=same_values(evidence)):
        yield f"{about}, {field}: says {found!r:.100}, the published histograms give {expected!r:.100}"
