import numpy as np
import pytest
from scipy import integrate, stats

from attacks.membership.scores import (
    PRIOR_FREEDOM,
    SCORES,
    _predictive,
    bavaria,
    blocks,
    calibrated,
    lira_empirical_bayes,
    lira_online,
    loss_threshold,
    multi_query,
    ratios,
    rmia,
)
from attacks.metrics import membership_metrics, proportion, roc, true_positives_at
from tests.curves import coins


def gaussian_models(n_models, n_queries, effect, seed=0):
    """Confidences that membership raises by ``effect`` standard deviations, queries of unequal difficulty."""
    member, rng = coins(n_models, n_queries, seed)
    difficulty = rng.normal(0, 3, n_queries)
    return difficulty + effect * member + rng.normal(size=member.shape), member


def auc(scores, member):
    return membership_metrics(scores, member).auc.value


def test_lira_reaches_the_optimum_that_difficulty_hides_from_the_loss_threshold():
    confidence, member = gaussian_models(64, 2000, effect=1.5)
    assert auc(lira_online(confidence, member), member) == pytest.approx(0.8556, abs=0.02)  # Phi(1.5 / sqrt 2)
    assert auc(loss_threshold(confidence, member), member) < 0.68


@pytest.mark.parametrize("score", [calibrated, rmia])
def test_other_calibrated_scores_reach_it_too(score):
    confidence, member = gaussian_models(64, 2000, effect=1.5)
    # RMIA's population ratio is not the likelihood ratio of this model: it may lose a little
    assert auc(score(confidence, member), member) > (0.8 if score is rmia else 0.835)


@pytest.mark.parametrize("name", SCORES)
def test_attacks_find_nothing_where_there_is_nothing(name):
    confidence, member = gaussian_models(32, 1000, effect=0.0)
    found = membership_metrics(SCORES[name](confidence, member), member)
    assert found.auc.value == pytest.approx(0.5, abs=0.02)
    assert found.tpr[0.01].value == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize("name", SCORES)
def test_no_score_reads_the_coins_of_its_own_block(name):
    """What makes the attack fixed before the coins that it is tested with."""
    confidence, member = gaussian_models(16, 200, effect=1.0)
    for targets, _ in blocks(16):
        flipped = member.copy()
        flipped[targets] = ~flipped[targets]
        left, right = (SCORES[name](confidence, inside)[targets] for inside in (member, flipped))
        np.testing.assert_allclose(left, right)


def test_a_query_that_no_shadow_holds_is_scored_all_the_same():
    confidence, member = gaussian_models(8, 200, effect=1.0)
    member[:, 0], member[:, 1] = False, True
    for score in SCORES.values():
        assert np.isfinite(score(confidence, member)).all()


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_empirical_bayes_beats_plain_lira_with_few_shadows_and_finds_nothing_in_nothing(effect):
    confidence, member = gaussian_models(8, 4000, effect=effect)
    plain, shrunken = (
        auc(lira_online(confidence, member), member),
        auc(lira_empirical_bayes(confidence, member), member),
    )
    if effect:
        assert shrunken > plain + 0.02
        assert shrunken == pytest.approx(0.69, abs=0.02)  # Phi(0.7 / sqrt 2): the optimum
    else:
        assert shrunken == pytest.approx(0.5, abs=0.02)


def unequal_models(n_models, n_queries, seed=0):
    """Confidences whose spread differs from query to query, tenfold: where a variance of each query's own pays."""
    member, rng = coins(n_models, n_queries, seed)
    spread = 10.0 ** rng.uniform(-0.5, 0.5, n_queries)
    return rng.normal(0, 3, n_queries) + member + spread * rng.normal(size=member.shape), member


def test_bavaria_beats_lira_where_queries_spread_unequally():
    """With few shadow models too, where variances of the queries alone, or one for all, are mostly wrong."""
    for n_models in (16, 64):
        confidence, member = unequal_models(n_models, 3000)
        plain, shrunken = (membership_metrics(score(confidence, member), member) for score in (lira_online, bavaria))
        assert shrunken.auc.value > plain.auc.value + 0.005
        assert shrunken.tpr[0.01].value > 1.1 * plain.tpr[0.01].value


def test_bavarias_law_is_the_posterior_predictive_of_its_prior():
    """By integration over the variance: normal values, a flat mean, an inverse-gamma variance."""
    values, chosen = np.array([[0.3], [1.1], [2.0], [-5.0]]), np.array([[True], [True], [True], [False]])
    found, mean, pooled = _predictive(values, chosen), 3.4 / 3, np.var([0.3, 1.1, 2.0], ddof=1)
    squares = 2 * pooled
    prior = stats.invgamma(PRIOR_FREEDOM / 2, scale=PRIOR_FREEDOM * pooled / 2)

    def joint(variance, own):
        likelihood = variance**-1.0 * np.exp(-squares / (2 * variance))  # of three values, the mean integrated out
        return prior.pdf(variance) * likelihood * stats.norm.pdf(own, mean, np.sqrt(variance * 4 / 3))

    def density(own):
        return integrate.quad(joint, 0, 60, args=(own,), limit=200)[0]

    wanted = [density(own) / density(mean) for own in (-1.0, 0.5, 4.0)]
    assert [float(found.pdf(own)[0] / found.pdf(mean)[0]) for own in (-1.0, 0.5, 4.0)] == pytest.approx(
        wanted, rel=1e-5
    )


def several_statistics(effect, n_models=16, n_queries=2000):
    parts = [gaussian_models(n_models, n_queries, effect, seed=0)]
    rng = np.random.default_rng(1)
    member = parts[0][1]
    other = rng.normal(0, 3, n_queries) + effect * member + rng.normal(size=member.shape)
    return np.stack([parts[0][0], other], axis=2), member


def test_several_statistics_tell_more_than_one():
    statistics, member = several_statistics(effect=0.8)
    one = auc(lira_empirical_bayes(statistics[:, :, 0], member), member)
    optimum = float(stats.norm.cdf(0.8 * np.sqrt(2.0) / np.sqrt(2.0)))
    known = np.zeros((statistics.shape[1], 1))
    both = multi_query([ratios(statistics, member)], member, known)
    assert auc(both, member) > one + 0.04
    assert auc(both, member) == pytest.approx(optimum, abs=0.03)


def test_the_combined_classifier_finds_nothing_in_nothing_and_is_not_told_its_target():
    statistics, member = several_statistics(effect=0.0)
    known = np.zeros((statistics.shape[1], 1))
    assert auc(multi_query([ratios(statistics, member)], member, known), member) == pytest.approx(0.5, abs=0.02)
    small, inside = several_statistics(effect=1.0, n_models=8, n_queries=300)
    flipped = inside.copy()
    flipped[:2] = ~flipped[:2]
    known = np.zeros((300, 1))
    left, right = (multi_query([ratios(small, found)], found, known)[:2] for found in (inside, flipped))
    np.testing.assert_allclose(left, right)


def test_true_positives_at_a_false_positive_rate():
    member = np.array([True] * 4 + [False] * 100)
    score = np.concatenate([[200.0, 99.5, 98.5, 0.0], np.arange(100.0)])
    assert true_positives_at(score, member, 0.01) == 3  # one non-member may score above
    assert true_positives_at(score, member, 0.0) == 2


def test_clopper_pearson_matches_a_published_value():
    found = proportion(0, 10)
    assert found.low == 0.0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_the_curve_never_promises_more_than_was_observed():
    member = np.array([[True, True, False, False]])
    rates, true = roc(np.array([[3.0, 1.0, 2.0, 0.0]]), member)
    assert true[rates < 0.5].max() == 0.0  # two non-members cannot show a rate below a half
    assert true[(rates >= 0.5) & (rates < 1.0)].max() == 0.5  # above both of them there is one member
    assert true[-1] == 1.0
