import numpy as np
import pytest

from attacks.membership.users import codebook_attack, pool_rows, recommended_items, reference_recommendations
from attacks.metrics import membership_metrics
from tests.curves import coins


def auc(scores, member):
    return membership_metrics(scores, member).auc.value


def test_pooling_averages_the_rows_of_each_user_that_has_any():
    values = np.array([[1.0, 3.0, 5.0, 7.0]])
    np.testing.assert_array_equal(pool_rows(values, np.array([0, 0, 4, 4])), [[2.0, 6.0]])
    several = np.stack([values, 10 * values], axis=2)
    np.testing.assert_array_equal(pool_rows(several, np.array([0, 0, 4, 4]))[:, :, 1], [[20.0, 60.0]])


def test_recommendations_of_ones_own_items_give_membership_away():
    n_models, n_users, n_items, k = 12, 150, 60, 5
    member, rng = coins(n_models, n_users)
    vectors = rng.normal(size=(n_items, 4))
    taste = rng.normal(size=(n_users, 4))
    likes = np.argsort(-taste @ vectors.T, axis=1)[:, :k]
    popular = np.arange(k)
    recommended = np.where(member[:, :, None], likes[None], popular).astype(float)
    history = vectors[likes].mean(1)
    everything = np.arange(n_models)
    assert auc(recommended_items(recommended, member, history, vectors)(everything)[:, :, 0], member) > 0.8
    nothing = np.broadcast_to(popular, recommended.shape).astype(float)
    found = recommended_items(nothing, member, history, vectors)(everything)[:, :, 0]
    assert auc(found, member) == pytest.approx(0.5, abs=0.05)


def test_an_account_with_the_same_history_gives_membership_away_without_a_shadow():
    """Members are served nearly as the account that copies them is; others as somebody else is."""
    n_models, n_users, n_items, k = 4, 300, 60, 5
    member, rng = coins(n_models, n_users, 4)
    vectors, taste = rng.normal(size=(n_items, 4)), rng.normal(size=(n_users, 4))
    likes = np.argsort(-taste @ vectors.T, axis=1)
    copied = np.stack([likes[:, 2 : 2 + k]] * n_models)
    strangers = likes[rng.permutation(n_users), :k]
    recommended = np.where(member[:, :, None], likes[None, :, 4 : 4 + k], strangers[None])
    history = vectors[likes[:, :k]].mean(1)
    scores = reference_recommendations(recommended, copied, history, vectors)
    assert auc(scores, member) > 0.8
    alone = reference_recommendations(recommended[:1], copied[:1], history, vectors)
    np.testing.assert_array_equal(alone, scores[:1])  # of no other model
    nothing = reference_recommendations(np.stack([strangers] * n_models), copied, history, vectors)
    assert auc(nothing, member) == pytest.approx(0.5, abs=0.05)


def test_what_both_are_shown_counts_before_how_near_it_is():
    """And among equals the published ratio: farther from the history than from the account means a member."""
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.1, 0.0]])
    own = np.array([[[1, 3], [2, 2], [3, 3]]])
    copied = np.array([[[3, 2], [1, 1], [1, 1]]])
    first, far, near = reference_recommendations(own, copied, np.zeros((3, 2)), vectors)[0]
    assert 1.0 < first < 2.0  # one item of both
    assert (far, near) == pytest.approx((3 / np.hypot(1, 3) / (1 + 3 / np.hypot(1, 3)), (1 / 9) / (10 / 9)))


def test_codewords_that_follow_a_user_give_membership_away():
    n_models, n_users = 16, 200
    member, rng = coins(n_models, n_users, 1)
    latent = rng.normal(size=(n_users, 3))
    encoders = latent[None] + 0.05 * rng.normal(size=(n_models, n_users, 3))
    # the codebook of a pipeline holds the latents of its members, blurred
    words = np.full((n_models, n_users, 3), 1e3)
    for model in range(n_models):
        inside = latent[member[model]]
        words[model, : len(inside)] = inside + 0.3 * rng.normal(size=inside.shape)
    assert auc(codebook_attack(encoders, words, member), member) > 0.6
    alone = np.broadcast_to(rng.normal(size=(1, 20, 3)), (n_models, 20, 3)) + 0.01 * rng.normal(size=(n_models, 20, 3))
    assert auc(codebook_attack(encoders, alone, member), member) == pytest.approx(0.5, abs=0.05)


def test_codewords_that_follow_a_row_give_the_row_away():
    """A row moves where its user is put, a little: the difference between with and without counts, not the place."""
    n_models, n_rows = 16, 200
    member, rng = coins(n_models, n_rows, 2)
    without = np.broadcast_to(rng.normal(size=(n_rows, 3)), (n_models, n_rows, 3))
    latent = without + 0.3 * rng.normal(size=(1, n_rows, 3))
    for moved, holds in (
        (member, lambda found: found > 0.6),
        (coins(n_models, n_rows, 3)[0], lambda found: found < 0.54),
    ):
        words = np.where(moved[:, :, None], latent, without) + 0.1 * rng.normal(size=(n_models, n_rows, 3))
        assert holds(auc(codebook_attack(latent, words, member, without), member))
