"""Intervals beside those of statsmodels, where it is installed, and beside their published formulas, always."""

import numpy as np
import pytest
from scipy import stats

from attacks.disclosure.risk import Tally, beyond
from attacks.metrics import mean_estimate, proportion

CASES = [(0, 20), (1, 20), (7, 20), (20, 20), (13, 400)]


@pytest.mark.parametrize(("hits", "tries"), CASES)
def test_exact_intervals_are_quantiles_of_beta(hits, tries):
    """Clopper, Pearson, Biometrika 1934."""
    found = proportion(hits, tries)
    low = stats.beta.ppf(0.025, hits, tries - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, tries - hits) if hits < tries else 1.0
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_intervals_of_proportions_are_those_of_statsmodels():
    reference = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
    for hits, tries in CASES:
        for ours, theirs in (("exact", "beta"), ("wilson", "wilson")):
            found = proportion(hits, tries, method=ours)
            assert (found.low, found.high) == pytest.approx(
                reference.proportion_confint(hits, tries, method=theirs), abs=1e-9
            )


def test_intervals_of_means_are_those_of_statsmodels():
    reference = pytest.importorskip("statsmodels.stats.weightstats", reason="statsmodels is not installed")
    values = np.random.default_rng(0).normal(size=12)
    found = mean_estimate(values)
    assert (found.low, found.high) == pytest.approx(reference.DescrStatsW(values).tconfint_mean())


@pytest.mark.parametrize(("hits", "control"), [(60, 20), (30, 10), (90, 5)])
def test_the_interval_of_a_risk_is_near_that_of_a_ratio_in_statsmodels(hits, control):
    """One less the risk is a ratio of failures; theirs is a score test's, ours MOVER-R."""
    reference = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
    low, high = reference.confint_proportions_2indep(
        200 - hits, 200, 200 - control, 200, compare="ratio", method="score"
    )
    found = beyond(Tally(hits, 200), Tally(control, 200))
    assert (found.low, found.high) == pytest.approx((1 - high, 1 - low), abs=0.01)
