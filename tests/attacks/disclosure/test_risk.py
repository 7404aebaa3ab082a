"""The formula of a risk and its interval, against what they are by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from attacks.disclosure import risk
from attacks.disclosure.risk import Outcome, Risk, Tally, beyond
from attacks.disclosure.singling_out import _alike, _fits
from attacks.metrics import Estimate


def test_a_risk_is_what_control_users_leave():
    """Worked by hand: 60 of 100 against 20 of 100 is (.6 - .2) / .8."""
    found = Risk.of(
        "codes",
        "guess",
        [Outcome(Tally(40, 60), Tally(5, 40), Tally(1, 60)), Outcome(Tally(20, 40), Tally(15, 60), Tally(1, 40))],
    )
    assert (found.users, found.success.value, found.control.value, found.prior.value) == (100, 0.6, 0.2, 0.02)
    assert found.risk.value == pytest.approx(0.5)
    assert found.over_prior.value == pytest.approx(0.58 / 0.98)
    assert 0.3 < found.risk.low < 0.5 < found.risk.high < 0.65


def covered(of, n, share, control):
    """How often the interval of a risk holds it, of ``n`` users and ``n`` left out: the sum over all counts."""
    counts, truth = np.arange(n + 1), max((share - control) / (1 - control), -1.0)
    chance = np.outer(stats.binom.pmf(counts, n, share), stats.binom.pmf(counts, n, control))
    found = [(hits, others, of(hits, others)) for hits in counts for others in counts if chance[hits, others] > 1e-7]
    return sum(chance[hits, others] for hits, others, one in found if one.low <= truth <= one.high)


def by_wilson(monkeypatch):
    """Rates as the protocol has them."""

    def wilson(hits, tries, *, repeated):
        return Estimate(hits / tries, *proportion_confint(hits, tries, method="wilson"))

    monkeypatch.setattr(risk, "proportion", wilson)


@pytest.mark.parametrize(("n", "share", "control"), [(1, 0.8, 5e-4), (5, 0.97, 0.01), (10, 0.99, 5e-3)])
def test_risks_of_few_users_are_covered(monkeypatch, n, share, control):
    def of(hits, others):
        return beyond(Tally(int(hits), n), Tally(int(others), n))

    assert covered(of, n, share, control) > 0.95
    by_wilson(monkeypatch)
    assert covered(of, n, share, control) < 0.91


@pytest.mark.parametrize(("hits", "control", "value"), [(100, 0, 1.0), (0, 0, 0.0), (100, 100, 0.0), (0, 100, 0.0)])
def test_rates_of_nothing_and_everything_have_intervals_too(hits, control, value):
    found = beyond(Tally(hits, 100), Tally(control, 100))
    assert found.value == value
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.high - found.low > 0.01


def test_its_interval_holds_it_whatever_was_counted():
    """All counts of twelve. Where one or two of those left out were not found, it was "1.000 [-1.000, -1.000]"."""
    for hits in range(13):
        for control in range(13):
            found = beyond(Tally(hits, 12), Tally(control, 12))
            assert -1.0 <= found.low <= found.value <= found.high <= 1.0
            assert found.low < found.high or found.value == -1.0  # or less than there is room for
    nearly = beyond(Tally(20, 20), Tally(19, 20))
    assert (nearly.value, nearly.high) == (1.0, 1.0)
    assert nearly.low == -1.0  # nineteen in twenty of those left out: nothing is known of what is beyond


@pytest.mark.parametrize(("attack", "control"), [(0.3, 0.1), (0.06, 0.04), (0.9, 0.5), (0.99, 0.97), (0.98, 0.99)])
def test_its_interval_covers_as_often_as_it_says(attack, control):
    """400 repetitions: three standard errors either way."""
    rng = np.random.default_rng(0)
    truth, n = (attack - control) / (1 - control), 300
    hits, others = rng.binomial(n, attack, 400), rng.binomial(n, control, 400)
    intervals = [beyond(Tally(int(a), n), Tally(int(c), n)) for a, c in zip(hits, others, strict=True)]
    covered = np.mean([found.low <= truth <= found.high for found in intervals])
    assert covered > 0.917
    assert covered < 0.983 or control > 0.9  # the few failures that are left tell little


def control_of_codes(rng, *, counted):
    """Users left out whom a pair of codes isolates, where codes say nothing of who is in; repeats counted or not."""
    said, others = rng.integers(0, 60, size=(2, 240, 1))
    pairs, left = (np.concatenate([codes, np.zeros_like(codes)], axis=1) for codes in (said, others))
    return Tally.of(_fits(pairs, left) == 1, _alike(pairs) if counted else None)


@pytest.mark.parametrize(("counted", "least", "most"), [(True, 0.93, 1.0), (False, 0.0, 0.85)])
def test_predicates_that_are_the_same_are_one(counted, least, most):
    """500 times, of four users to a pair: intervals that take each for a try of its own cover .7 of the time."""
    rng = np.random.default_rng(1)
    found = [control_of_codes(rng, counted=counted) for _ in range(500)]
    truth = np.mean([one.hits / one.tries for one in found])
    covered = np.mean([one.rate.low <= truth <= one.rate.high for one in found])
    assert least < covered < most
    assert found[0].rate.value == found[0].hits / 240
