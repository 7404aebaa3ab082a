"""Noisy test figures: exact without noise, honest about it otherwise, and each user's candidates that user's own."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

from fedmm_secure.ctr.private_evaluation import (
    NoisyEstimate,
    bin_centres,
    mean_of,
    noisy_figures,
    private_candidates,
    release_histograms,
)
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import Market
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.score_bins import LOG_ODDS
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny

PER_POSITIVE = 4


def scored(n_users, seed=0, auc=0.8):
    """One positive and four negatives a user, and calibrated scores of about the given AUC."""
    rng = np.random.default_rng(seed)
    user = np.concatenate([np.arange(n_users), np.repeat(np.arange(n_users), PER_POSITIVE)])
    label = np.concatenate([np.ones(n_users), np.zeros(n_users * PER_POSITIVE)])
    distance = np.sqrt(2) * stats.norm.ppf(auc)
    score = rng.normal(size=len(user)) + distance * label
    odds = distance * score - distance**2 / 2 - np.log(PER_POSITIVE)
    return Candidates(user, np.zeros(len(user), dtype=np.int64), label), expit(odds)


class Silent:
    """Noise of 0."""

    def discrete_gaussian(self, count, *, levels):
        return np.zeros(count, dtype=np.int64)


def figures(candidates, probability, noise_multiplier, seed=None):
    noise = Silent() if seed is None else NoiseSource.from_seed(seed)
    released = release_histograms(candidates, [probability], noise_multiplier, noise, per_positive=PER_POSITIVE)
    return noisy_figures(released)[0]


def binned(probability):
    """The centre of each score's bin."""
    return bin_centres()[np.searchsorted(LOG_ODDS, logit(probability), side="right")]


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.9])
def test_without_noise_they_are_the_figures_of_the_binned_scores(auc):
    candidates, probability = scored(400, auc=auc)
    found = figures(candidates, probability, 1e-3)
    assert found.auc.value == pytest.approx(roc_auc_score(candidates.label, binned(probability)), abs=1e-12)
    assert found.logloss.value == pytest.approx(log_loss(candidates.label, expit(binned(probability))), abs=1e-12)
    assert (found.positives, found.negatives) == pytest.approx((400, 1600))
    least = figures(candidates, probability, 1e-3, seed=0)  # and so they are as noise goes to 0
    assert least.auc.value == pytest.approx(found.auc.value, abs=1e-4)
    assert least.auc.deviation < 1e-4


@pytest.mark.parametrize("auc", [0.6, 0.8, 0.9])
def test_bins_cost_little(auc):
    """Ties within bins: an AUC lower by .003 at most."""
    candidates, probability = scored(20_000, auc=auc)
    found = figures(candidates, probability, 1e-2)
    assert 0 <= roc_auc_score(candidates.label, probability) - found.auc.value < 0.003
    assert found.logloss.value == pytest.approx(log_loss(candidates.label, probability), abs=0.003)


@pytest.mark.parametrize(("n_users", "noise_multiplier"), [(400, 2.0), (2_000, 2.0), (2_000, 12.0)])
def test_intervals_hold_the_figures_without_noise(n_users, noise_multiplier):
    """300 releases: fewer intervals hold than 99 % of tries would have if their 95 % were exact; they are wider, so the
    false alarm is below .01. None is twice as wide as it has to be.
    """
    candidates, probability = scored(n_users)
    exact = figures(candidates, probability, 1e-3)
    found = [figures(candidates, probability, noise_multiplier, seed) for seed in range(300)]
    for name in ("auc", "logloss"):
        truth, estimates = getattr(exact, name).value, [getattr(each, name) for each in found]
        intervals = [estimate.interval() for estimate in estimates]
        held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
        assert held >= stats.binom.ppf(0.01, 300, 0.95) / 300
        spread = np.std([estimate.value for estimate in estimates])
        assert np.mean([estimate.deviation for estimate in estimates]) < 2 * spread


def test_where_noise_drowns_the_counts_there_is_no_figure():
    candidates, probability = scored(60)
    found = figures(candidates, probability, 40.0, seed=0)
    assert found.auc is None
    assert found.logloss is None
    assert mean_of([found.auc, NoisyEstimate(0.7, 0.1)]) is None


def test_repetitions_share_the_noise_and_their_mean_has_less():
    candidates, probability = scored(2_000)
    noise = NoiseSource.from_seed(1)
    released = release_histograms(candidates, [probability] * 4, 2.0, noise, per_positive=PER_POSITIVE)
    four = noisy_figures(released)
    one = figures(candidates, probability, 2.0, seed=0)
    assert released.noise[1] == pytest.approx(2 * 2.0 * np.sqrt(2), rel=1e-3)  # sqrt(4): four models move together
    mean = mean_of([found.auc for found in four])
    assert mean.value == pytest.approx(np.mean([found.auc.value for found in four]))
    assert mean.deviation == pytest.approx(one.auc.deviation, rel=0.2)


def market_of(rows):
    """A market of (user, item) pairs, in time order of each user."""
    user, item = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    n_users, n_items = int(user.max()) + 1, 10
    ids = [np.array([f"{kind}{i}" for i in range(n)], dtype=object) for kind, n in (("u", n_users), ("i", n_items))]
    return Market("m", *ids, user, item, np.full(len(user), np.nan), np.arange(len(user)))


ROWS = [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 0), (2, 9), (2, 4)]
TEST = np.array([1, 2, 5, 7, 8])


def test_a_candidate_is_each_users_latest_test_row_with_items_never_touched():
    market, weights = market_of(ROWS), np.ones(10)
    weights[9] = 0.0
    found = private_candidates(market, TEST, weights, per_positive=50, noise=NoiseSource.from_seed(0))
    positive = found.label == 1
    assert list(zip(found.user[positive], found.item[positive], strict=True)) == [(0, 2), (1, 5), (2, 4)]
    touched = set(ROWS)
    for user in range(3):
        drawn = set(found.item[~positive & (found.user == user)])
        assert drawn == {item for item in range(9) if (user, item) not in touched}  # 50 draws of 6: all but surely


def test_an_item_that_is_no_candidate_leaves_its_user_out():
    weights = np.ones(10)
    weights[5] = 0.0
    found = private_candidates(market_of(ROWS), TEST, weights, per_positive=2, noise=NoiseSource.from_seed(0))
    assert set(found.user) == {0, 2}
    only = np.zeros(10)
    only[[0, 1, 2]] = 1.0  # user 0 has touched all of them
    assert len(private_candidates(market_of(ROWS), TEST, only, per_positive=2, noise=NoiseSource.from_seed(0))) == 0


def test_negatives_follow_the_weights():
    """Chi-square at a false alarm of 1e-6."""
    weights = np.arange(10, dtype=np.float64)
    found = private_candidates(
        market_of(ROWS), np.array([5]), weights, per_positive=20_000, noise=NoiseSource.from_seed(3)
    )
    counts = np.bincount(found.item[found.label == 0], minlength=10)
    left = weights.copy()
    left[[3, 4, 5]] = 0
    assert (counts[left == 0] == 0).all()
    expected = 20_000 * left[left > 0] / left.sum()
    assert stats.chisquare(counts[left > 0], expected).pvalue > 1e-6


def test_the_candidates_of_others_do_not_depend_on_a_user():
    """The same coins for everyone: who leaves then changes nobody else's candidates."""

    class Constant:
        def uniforms(self, count):
            return np.tile([0.1, 0.6], count // 2)

    everyone = private_candidates(market_of(ROWS), TEST, np.ones(10), per_positive=2, noise=Constant())
    others = [row for row in ROWS if row[0] != 1]
    kept = private_candidates(market_of(others), np.array([1, 2, 4, 5]), np.ones(10), per_positive=2, noise=Constant())
    stays = everyone.user != 1
    for name in ("user", "item", "label"):
        np.testing.assert_array_equal(getattr(everyone, name)[stays], getattr(kept, name))


def test_a_share_for_them_needs_a_model_that_may_be_released():
    assert tiny(privacy={"epsilon": 8, "protect": "release", "shares": {"evaluation": 0.1}})
    for privacy in ({"epsilon": 8}, {}):
        with pytest.raises(ConfigError, match=r"privacy\.shares\.evaluation needs"):
            tiny(privacy={**privacy, "shares": {"evaluation": 0.1}})
