"""Intervals beside those of statsmodels, and beside their published formulas."""

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from attacks.disclosure.risk import Tally, beyond
from attacks.metrics import bounded_estimate, mean_estimate, membership_metrics, proportion

CASES = [(0, 20), (1, 20), (7, 20), (20, 20), (13, 400)]


@pytest.mark.parametrize(("hits", "tries"), CASES)
def test_exact_intervals_are_quantiles_of_beta(hits, tries):
    """Clopper, Pearson, Biometrika 1934."""
    found = proportion(hits, tries)
    low = stats.beta.ppf(0.025, hits, tries - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, tries - hits) if hits < tries else 1.0
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_intervals_of_proportions_are_those_of_statsmodels():
    for hits, tries in CASES:
        found = proportion(hits, tries)
        assert (found.low, found.high) == pytest.approx(proportion_confint(hits, tries, method="beta"), abs=1e-9)
        half = proportion(hits, tries, repeated=tries / 2)
        wanted = proportion_confint(hits / 2, tries / 2, method="beta")
        assert (half.value, half.low, half.high) == pytest.approx((found.value, *wanted), abs=1e-9)


def test_intervals_of_means_are_those_of_statsmodels():
    values = np.random.default_rng(0).normal(size=12)
    found = mean_estimate(values)
    assert (found.low, found.high) == pytest.approx(DescrStatsW(values).tconfint_mean())


SHARES = [[0.6, 0.9], [0.97, 0.99, 1.0], [0.0, 0.0, 0.4], [0.2, 0.5, 0.3, 0.9]]


@pytest.mark.parametrize("values", SHARES)
def test_the_interval_of_a_mean_share_stays_inside_where_students_does_not(values):
    """The positive control: of two markets whose AUCs are .6 and .9 the t interval ends at 2.7."""
    found, plain = bounded_estimate(np.array(values)), mean_estimate(np.array(values))
    assert 0.0 < found.low < found.value < found.high < 1.0
    assert found.value == pytest.approx(np.mean(values))
    assert plain.low < 0.0 or plain.high > 1.0
    turned = bounded_estimate(1.0 - 2.0 * np.array(values), -1.0)  # as a cosine, the other way round
    assert (turned.low, turned.high) == pytest.approx((1.0 - 2.0 * found.high, 1.0 - 2.0 * found.low))


def test_the_interval_of_a_mean_share_is_that_of_a_fractional_logit():
    """Papke, Wooldridge, 1996: quasi-maximum likelihood of a constant; A⁻¹BA⁻¹ by differences of its score."""
    values = np.random.default_rng(2).beta(2, 1, size=9)
    step, place = 1e-5, special.logit(values.mean())
    hessian = len(values) * (special.expit(place + step) - special.expit(place - step)) / (2 * step)
    error = np.sqrt(((values - special.expit(place)) ** 2).sum() * 9 / 8) / hessian
    found = bounded_estimate(values)
    wanted = special.expit(place + np.array([-1, 1]) * stats.t.ppf(0.975, 8) * error)
    assert (found.low, found.high) == pytest.approx(tuple(wanted), rel=1e-6)


def test_the_interval_of_a_mean_share_is_that_of_statsmodels():
    for values in map(np.array, SHARES):
        n = len(values)
        fitted = GLM(values, np.ones((n, 1)), family=Binomial()).fit(cov_type="HC0")
        half = stats.t.ppf(0.975, n - 1) * fitted.bse[0] * np.sqrt(n / (n - 1))
        found = bounded_estimate(values)
        wanted = special.expit(fitted.params[0] + np.array([-half, half]))
        assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-6)


def test_the_interval_of_a_mean_share_covers_as_often_as_it_says():
    """Of 2,000 means of four Beta(4, 2), 95 % are covered; false alarms below 1e-3: six standard deviations."""
    rng = np.random.default_rng(5)
    found = [bounded_estimate(rng.beta(4, 2, size=4)) for _ in range(2_000)]
    covered = np.mean([one.low <= 2 / 3 <= one.high for one in found])
    assert covered > 0.95 - 6 * np.sqrt(0.95 * 0.05 / 2_000)
    large = rng.beta(4, 2, size=4_000)
    assert bounded_estimate(large).high == pytest.approx(mean_estimate(large).high, abs=1e-4)


@pytest.mark.parametrize(("share", "n"), [(0.004, 30), (0.001, 100), (0.5, 10)])
def test_the_interval_of_hits_and_misses_covers_however_few_there_are(share, n):
    """Exactly, over all numbers of hits. Log-odds, as of hits that are worth .999, cover rare ones .89, .90."""
    chance = stats.binom.pmf(np.arange(n + 1), n, share)

    def covered(worth):
        found = [bounded_estimate(np.where(np.arange(n) < hits, worth, 0.0)) for hits in range(n + 1)]
        return chance[[one.low <= worth * share <= one.high for one in found]].sum()

    assert covered(1.0) > 0.95
    assert (covered(0.999) < 0.91) == (share < 0.01)


def test_the_ends_of_what_there_can_be_are_no_less_and_no_more():
    assert vars(bounded_estimate(np.ones(5))) == {"value": 1.0, "low": pytest.approx(proportion(5, 5).low), "high": 1.0}
    assert vars(bounded_estimate(np.array([0.7]), -1.0)) == {"value": pytest.approx(0.7), "low": -1.0, "high": 1.0}
    with pytest.raises(ValueError, match="are not all in"):
        bounded_estimate(np.array([0.5, 1.2]))


@pytest.mark.parametrize(("value", "least", "most"), [(0.0, 0.0, 1.0), (0.3, 0.0, 1.0), (1.0, -1.0, 1.0)])
def test_values_that_are_all_the_same_do_not_make_a_mean_certain(value, least, most):
    """Where one in twenty is at the other end, seven of ten samples of seven show nothing of it."""
    found, rare = bounded_estimate(np.full(7, value), least, most), 0.05
    for end in (least, most):
        assert found.low <= (1 - rare) * value + rare * end <= found.high
    assert found.low <= found.value <= found.high
    many = bounded_estimate(np.full(4000, value), least, most)
    assert many.high - many.low < 0.002 * (most - least)


def test_rates_that_are_the_same_in_all_models_have_an_interval():
    """Fifty attacks that find one member in 200 for certain, on two models: a third find none, and said "0 [0, 0]"."""
    rng, found = np.random.default_rng(7), []
    for _ in range(50):
        member = rng.random((2, 200)) < 0.5
        certain = member & (rng.random(member.shape) < 0.005)
        scores = np.where(certain, 2.0, 1.0 - member - 1e-3 * rng.random(member.shape))
        found.append(membership_metrics(scores, member).tpr[0.01])
    nothing = [one for one in found if one.value == 0.0]
    assert len(nothing) > 10
    assert all(one.low == 0.0 and 0.01 < one.high < 0.03 for one in nothing)
    assert all(one.high > 0.005 for one in found)


def one_hit(models):
    """Scores of models that show nothing at 1 % of false positives, but for one member of the first."""
    member = np.arange(models * 20).reshape(models, 20) % 2 == 1
    scores = np.where(member, 0.0, 1.0)
    scores[0, 1] = 2.0
    return scores, member


@pytest.mark.parametrize("models", [2, 16, 64])
def test_a_single_hit_among_many_models_has_an_interval_of_few_hits(models):
    """Four true hits in 16 models are one at most 9 % of the time, and the interval then ended below four."""
    found, hits = membership_metrics(*one_hit(models)).tpr[0.01], 10 * models
    exact = proportion(1, hits)
    assert found.value == 1 / hits
    assert found.low <= exact.low < exact.high <= found.high
    each = np.zeros(models)
    each[0] = 0.1
    ended = hits * (each.mean() + np.sqrt(2) * (mean_estimate(each).high - each.mean()))  # as it was
    assert stats.poisson.cdf(1, ended) > 0.05 or models == 2
    assert stats.poisson.cdf(1, hits * found.high) < 0.03


def test_scores_that_never_err_are_no_proof_that_none_ever_will():
    member = np.arange(40).reshape(2, 20) % 2 == 1
    found = membership_metrics(member + 0.0, member)
    assert (found.auc.value, found.auc.high) == (1.0, 1.0)
    assert found.auc.low == pytest.approx(proportion(20, 20).low)  # pairs of which none has a unit of another
    same = membership_metrics(np.zeros(member.shape), member)
    assert same.auc.low < same.auc.value == 0.5 < same.auc.high


@pytest.mark.parametrize(("hits", "control"), [(60, 20), (30, 10), (90, 5), (196, 192), (199, 197), (40, 150)])
def test_the_interval_of_a_risk_is_near_that_of_a_ratio_in_statsmodels(hits, control):
    """One less the risk is a ratio of failures; theirs is a score test's, ours MOVER-R of exact ones."""
    low, high = confint_proportions_2indep(200 - hits, 200, 200 - control, 200, compare="ratio", method="score")
    found = beyond(Tally(hits, 200), Tally(control, 200))
    wanted = np.clip((1 - high, 1 - low), -1, 1)
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.01 if control < 190 else 0.25)
