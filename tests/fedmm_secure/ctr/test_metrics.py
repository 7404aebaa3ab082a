import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from fedmm_secure.ctr import metrics
from fedmm_secure.ctr.metrics import (
    PairedDifference,
    _RankedScores,
    auc_difference,
    evaluate,
    holm,
    paired_auc_difference,
    ranked_auc,
    seed_interval,
)
from fedmm_secure.data.candidates import Candidates


def random_candidates(seed, n_users=30):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), 6)
    label = np.tile([1.0, 0, 0, 0, 0, 0], n_users)
    return Candidates(user, rng.integers(0, 50, len(user)), label), rng.random(len(user)).round(1)


@pytest.mark.parametrize("seed", range(5))
def test_per_user_metrics_agree_with_scikit_learn(seed):
    candidates, score = random_candidates(seed)
    found = evaluate(candidates, score)
    by_user = [(candidates.label[candidates.user == u], score[candidates.user == u]) for u in range(30)]
    assert found.gauc == pytest.approx(np.mean([roc_auc_score(label, s) for label, s in by_user]))
    # scikit-learn averages over ties; ours breaks them against the model
    average = np.mean([ndcg_score([label], [s], k=10) for label, s in by_user])
    assert found.ndcg10 <= average + 1e-9
    distinct = score + np.linspace(0, 1e-4, len(score))
    by_user = [(candidates.label[candidates.user == u], distinct[candidates.user == u]) for u in range(30)]
    expected = np.mean([ndcg_score([label], [s], k=10) for label, s in by_user])
    assert evaluate(candidates, distinct).ndcg10 == pytest.approx(expected)


@pytest.mark.parametrize("levels", [3, 1000])
def test_ranked_auc_is_scikit_learns_and_has_no_value_for_one_class(levels):
    rng = np.random.default_rng(levels)
    label, score = (rng.random(500) < 0.2).astype(float), rng.integers(0, levels, 500) / levels
    assert ranked_auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-14)
    assert np.isnan(ranked_auc(np.ones(3), score[:3]))
    assert np.isnan(ranked_auc(np.zeros(3), score[:3]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_weighted_auc_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label, score, group = (rng.random(60) < 0.4).astype(float), rng.random(60).round(1), np.arange(60) % 12
    weights = rng.integers(0, 4, (2, 12)).astype(float)
    weights[:, :2], label[0], label[1] = 1.0, 1.0, 0.0
    expected = [roc_auc_score(label, score, sample_weight=weight[group]) for weight in weights]
    by_pairs = _RankedScores(label, score, group).auc(weights)
    assert by_pairs == pytest.approx(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_MOST_CELLS", 0)  # as for many users: to the same bits
        np.testing.assert_array_equal(_RankedScores(label, score, group).auc(weights), by_pairs)
    weights[0] = 0.0
    assert np.isnan(_RankedScores(label, score, group).auc(weights)).tolist() == [True, False]


def test_a_better_model_has_a_gain_whose_interval_excludes_zero():
    candidates, noise = random_candidates(0, n_users=400)
    better = [noise + 0.5 * candidates.label]
    rng = np.random.default_rng(0)
    found = paired_auc_difference(candidates, better, [noise], rng=rng)
    assert found.low > 0
    nothing = paired_auc_difference(candidates, [noise], [noise], rng=rng)
    assert nothing.mean == nothing.low == nothing.high == 0.0


def test_the_error_in_closed_form_is_what_the_bootstrap_over_users_finds(monkeypatch):
    candidates, noise = random_candidates(3, n_users=300)
    rng = np.random.default_rng(0)
    ours = [0.6 * candidates.label + noise + 0.1 * rng.random(len(noise)) for _ in range(2)]
    theirs = [0.4 * candidates.label + rng.random(len(noise)).round(1) for _ in range(2)]
    found = auc_difference(candidates, ours, theirs)
    drawn = paired_auc_difference(candidates, ours, theirs, resamples=2000, rng=rng)
    assert found.mean == pytest.approx(drawn.mean, abs=1e-12)
    half = (drawn.high - drawn.low) / 2  # 2,000 resamples: its quantiles are good to some 4 %
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(half, rel=0.15)
    monkeypatch.setattr(metrics, "MOST_RESAMPLED", 299)  # of more users nobody draws one
    assert paired_auc_difference(candidates, ours, theirs, rng=None) == found.interval


def test_of_users_with_one_candidate_each_it_is_delongs_variance_pair_by_pair():
    rng = np.random.default_rng(1)
    label = np.array([1.0] * 8 + [0.0] * 11)
    one, other = rng.random(19).round(1), rng.random(19).round(1)
    candidates = Candidates(np.arange(19), np.arange(19), label)

    def parts(scores):
        wins = np.array([[(p > n) + 0.5 * (p == n) for n in scores[8:]] for p in scores[:8]], dtype=float)
        return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)

    (a, a10, a01), (b, b10, b01) = parts(one), parts(other)
    variance = np.square(a10 - b10 - (a - b)).sum() / 8**2 + np.square(a01 - b01 - (a - b)).sum() / 11**2
    found = auc_difference(candidates, [one], [other])
    assert found.mean == pytest.approx(a - b)
    assert found.error == pytest.approx(np.sqrt(variance * 19 / 18))
    assert auc_difference(candidates, [one], [one]).p == 1.0


@pytest.mark.parametrize("spread", [0.0, 3.0, 20.0])
def test_an_interval_over_trainings_covers_as_often_as_it_says(spread):
    """Three trainings of models that do not differ: an interval over users alone misses as much as trainings differ."""
    rng = np.random.default_rng(int(spread))
    trained = rng.normal(size=(1000, 1)) + spread * rng.normal(size=(1000, 3))
    found = [PairedDifference(float(values.mean()), 1.0).over_trainings(values.tolist()).interval for values in trained]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert 0.94 < covered < 0.99
    if spread > 1:
        assert np.mean(np.abs(trained.mean(axis=1)) < 1.96) < 0.7  # over users alone


def test_a_p_value_is_the_level_of_the_interval_that_ends_at_0():
    for found in (PairedDifference(0.01, 0.004), PairedDifference(-0.01, 0.002, 0.003, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "CONFIDENCE", 1.0 - found.p)
            assert min(abs(found.interval.low), abs(found.interval.high)) == pytest.approx(0.0, abs=1e-9)
    assert PairedDifference(0.0098, 0.005).p == pytest.approx(0.05, rel=1e-3)
    assert PairedDifference(1.0, 0.0, 1.0 / 12.706, 2).p == pytest.approx(0.05, rel=1e-3)
    assert (PairedDifference(0.0, 0.0).p, PairedDifference(0.1, 0.0).p, PairedDifference(9.0, 0.1).p) == (1, 0, 0)


def test_trainings_that_do_not_differ_add_nothing_and_one_says_nothing_of_others():
    users = PairedDifference(0.01, 0.002)
    same = users.over_trainings([0.01, 0.01])
    assert (same.p, same.interval) == (pytest.approx(users.p), users.interval)
    assert users.over_trainings([0.008, 0.012]).interval.high == pytest.approx(
        0.01 + np.hypot(1.959964 * 0.002, 12.706205 * 0.002)
    )
    with pytest.raises(ValueError, match="at least two"):
        users.over_trainings([0.01])


def test_holm_corrects_as_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    """Two models of equal skill: the interval should miss 0 in about 5 % of draws; 16 of 60 would be absurd."""
    misses = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        candidates, _ = random_candidates(seed, n_users=60)
        left, right = (0.5 * candidates.label + rng.normal(size=len(candidates)) for _ in range(2))
        found = paired_auc_difference(candidates, [left], [right], resamples=200, rng=rng)
        misses += not found.low <= 0 <= found.high
    assert misses <= 10  # false alarm below 1 in 1000 if the level is 5 %


def test_seed_interval_is_students():
    found = seed_interval([0.7, 0.72, 0.74])
    assert found.mean == pytest.approx(0.72)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-4)
    assert seed_interval([0.7]).low is None
