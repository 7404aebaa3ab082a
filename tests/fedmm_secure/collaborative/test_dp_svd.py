from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from scipy import sparse

from fedmm_secure.collaborative import dp_svd
from fedmm_secure.collaborative.dp_svd import (
    DPSVDEmbedding,
    ItemCounts,
    contributions,
    release_counts,
    timed,
    when_met,
)
from fedmm_secure.collaborative.pseudo_users import draw_pseudo_users
from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.data.market import interaction_matrix
from fedmm_secure.errors import DataError
from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.randomness import NoiseSource
from tests.noise import silent

CHOICES = [
    ContributionConfig(),
    ContributionConfig(rank_decay=1.0),
    ContributionConfig(rows_per_user=2),
    ContributionConfig(reference_date=date(2022, 1, 1), time_constant_days=90, largest_scale=10),
]


def matrix(prepared):
    market, train = prepared.market, prepared.split.train
    return interaction_matrix(market.user[train], market.item[train], (market.n_users, market.n_items))


def embedding(prepared, *, sigma=0.5, seed=0, dated=None, **choices):
    market, train, source = prepared.market, prepared.split.train, NoiseSource.from_seed(seed)
    counts = release_counts(market, train, dated or ContributionConfig(), sigma, source, times=dated is not None)
    found = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4, max_items=20, **choices))
    factors = found.release(matrix(prepared), sigma, NoiseSource.from_seed(seed + 1))
    return found.set_factors(factors, matrix(prepared))


@pytest.mark.parametrize("choices", CHOICES)
def test_every_user_contributes_a_row_of_norm_at_most_one(tiny_markets, choices):
    prepared = tiny_markets["m0"]
    rows = contributions(prepared.market, prepared.split.train, choices)
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    assert norms.max() <= 1 + 1e-9
    assert norms.max() > 0.5


@pytest.mark.parametrize("choices", CHOICES)
def test_a_users_weights_depend_on_no_other_user(tiny_markets, choices):
    market, train = tiny_markets["m0"].market, tiny_markets["m0"].split.train
    whole = contributions(market, train, choices).toarray()
    alone = contributions(market, train[market.user[train] == 7], choices).toarray()
    np.testing.assert_array_equal(whole[7], alone[7])


def moved_by(prepared, user, release):
    """How far a release without noise moves, in the Euclidean norm, when a user leaves."""
    market, train = prepared.market, prepared.split.train
    whole, less = release(market, train), release(market, train[market.user[train] != user])
    return float(np.linalg.norm(whole - less))


def test_counts_and_times_are_one_vector_that_a_user_moves_by_one_at_most(tiny_markets):
    prepared, choices = tiny_markets["m0"], CHOICES[3].model_copy(update={"time_weight": 1.0})

    def together(market, rows):
        found = release_counts(market, rows, choices, 0.5, NoiseSource.from_seed(0), times=True)
        return np.concatenate([found.values, found.moments])

    def apart(market, rows):  # each clipped by itself: a user then has two contributions of norm 1
        parts = timed(contributions(market, rows, choices, 0.5), market, rows, choices)
        return np.concatenate([noisy_counts(part, 0.5, NoiseSource.from_seed(0)).values for part in parts])

    users = range(prepared.market.n_users)
    with silent():
        assert max(moved_by(prepared, user, together) for user in users) <= 1.0
        assert max(moved_by(prepared, user, apart) for user in users) > 1.05


def test_times_of_items_are_found_where_counts_stand_clear_of_the_noise(tiny_markets):
    market, train = tiny_markets["m0"].market, tiny_markets["m0"].split.train
    choices = CHOICES[3].model_copy(update={"time_constant_days": 400.0})
    found = release_counts(market, train, choices, 1e-3, NoiseSource.from_seed(0), times=True)
    when, weights = when_met(market, train, choices), contributions(market, train, choices, 1e-3).toarray()
    weight = weights[market.user[train], market.item[train]]
    total = np.bincount(market.item[train], weight, minlength=market.n_items)
    mean = np.bincount(market.item[train], weight * when, minlength=market.n_items) / np.maximum(total, 1e-9)
    clear = total > 0.5
    assert clear.sum() > 10
    np.testing.assert_allclose(found.when[clear], mean[clear], atol=0.02)
    lost = release_counts(market, train, choices, 100.0, NoiseSource.from_seed(0), times=True)
    assert np.abs(lost.when).mean() < 0.5


def test_later_rows_weigh_more_and_only_the_last_ones_count_where_asked(tiny_markets):
    market, train = tiny_markets["m0"].market, tiny_markets["m0"].split.train
    items = market.item[train][market.user[train] == 3]
    weight = contributions(market, train, ContributionConfig(rank_decay=0.5)).toarray()[3, items]
    assert (np.diff(weight) > 0).all()
    weight = contributions(market, train, ContributionConfig(rows_per_user=2)).toarray()[3, items]
    assert (weight > 0).sum() == 2


def test_a_reference_date_needs_dates(tiny_markets):
    market = replace(tiny_markets["m0"].market, calendar=False)
    with pytest.raises(DataError, match="reference_date needs ISO 8601"):
        contributions(market, tiny_markets["m0"].split.train, CHOICES[3])


def changed_rows(prepared):
    """The same market with every interaction replaced: raw counts and raw history differ everywhere."""
    market = prepared.market
    items = (market.item + market.n_items // 2) % market.n_items
    return replace(prepared, market=replace(market, item=items))


def weights_given_the_releases(prepared, counts):
    """What the item weights and the choice of items are, with the noisy counts held fixed."""
    found = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4, max_items=20))
    found.release(matrix(prepared), 1.0, NoiseSource.from_seed(0))
    return found._weight, found.items_


def same_for_any_rows(prepared, build):
    counts = ItemCounts(np.random.default_rng(0).uniform(0, 9, prepared.market.n_items), 0.5)
    left, right = build(prepared, counts), build(changed_rows(prepared), counts)
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_weights_and_the_choice_of_items_come_from_noisy_counts_alone(tiny_markets):
    assert same_for_any_rows(tiny_markets["m0"], weights_given_the_releases)


def test_the_check_catches_weights_from_raw_counts(tiny_markets, monkeypatch):
    def leaky(self, train, noise_multiplier, noise):
        self._weight = 1.0 / np.sqrt(np.maximum(np.asarray(train.sum(axis=0)).ravel(), 1.0))

    monkeypatch.setattr(dp_svd.DPSVDEmbedding, "release", leaky)
    assert not same_for_any_rows(tiny_markets["m0"], weights_given_the_releases)


@pytest.mark.parametrize("method", ["gram", "subspace"])
def test_a_user_is_embedded_from_the_own_row_alone(tiny_markets, method):
    found = embedding(tiny_markets["m0"], method=method)
    rows = matrix(tiny_markets["m0"])
    np.testing.assert_allclose(found.user_factors_[5], found.transform(rows[[5]])[0], atol=1e-12)
    assert np.linalg.norm(found.user_factors_, axis=1).max() <= 1 + 1e-9  # unit rows on orthonormal factors


def test_embeddings_find_the_planted_prototypes_at_little_noise(tiny_markets):
    """Items of one prototype are closer to each other than to others."""
    from fedmm_secure.config import SyntheticSpec
    from fedmm_secure.data.synthetic import synthesize

    planted = synthesize(SyntheticSpec(markets=1, users=2000, items=60, shared_prototypes=3, seed=1))[0]
    market = planted.market
    rows = np.arange(market.n_rows)
    counts = release_counts(market, rows, ContributionConfig(), 0.5, NoiseSource.from_seed(0))
    found = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4, max_items=60))
    whole = interaction_matrix(market.user, market.item, (market.n_users, market.n_items))
    found.set_factors(found.release(whole, 0.5, NoiseSource.from_seed(1)), whole)
    unit = found.item_factors_ / np.maximum(np.linalg.norm(found.item_factors_, axis=1, keepdims=True), 1e-9)
    cosine = unit @ unit.T
    same = planted.shared_prototype[:, None] == planted.shared_prototype[None, :]
    np.fill_diagonal(cosine, np.nan)
    assert np.nanmean(cosine[same]) > np.nanmean(cosine[~same]) + 0.2


def test_items_below_the_noise_are_not_factorised():
    counts = ItemCounts(np.concatenate([np.full(30, 10.0), np.full(200, 0.5)]), 1.0)
    assert len(DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4)).items_) == 30
    assert len(DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=20)).items_) == 40  # twice the rank at least
    assert len(DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4, count_threshold=0)).items_) == 230


def test_pseudo_users_read_releases_only_and_resemble_the_counts(tiny_markets):
    found = embedding(tiny_markets["m0"])
    pseudo = draw_pseudo_users(found, 3000, np.random.default_rng(0))
    assert pseudo.history.shape == (3000, tiny_markets["m0"].market.n_items)
    assert set(np.unique(pseudo.history.data)) == {1.0}
    drawn = np.asarray(pseudo.history.sum(axis=0)).ravel()
    assert np.corrcoef(drawn, np.maximum(found.counts.values, 0))[0, 1] > 0.8
    found.user_factors_ = np.full_like(found.user_factors_, np.nan)  # users' own values must not be touched
    again = draw_pseudo_users(found, 3000, np.random.default_rng(0))
    assert (again.history != pseudo.history).nnz == 0


def test_pseudo_users_can_be_drawn_from_pure_noise():
    counts = ItemCounts(np.full(50, -1.0), 1.0)
    found = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4))
    empty = sparse.csr_array((20, 50))
    found.set_factors(found.release(empty, 1.0, NoiseSource.from_seed(0)), empty)
    assert draw_pseudo_users(found, 100, np.random.default_rng(0)).history.nnz > 200


def test_factors_lost_in_noise_are_dropped_and_the_first_is_kept():
    counts = ItemCounts(np.full(50, 9.0), 1.0)
    found = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4))
    empty = sparse.csr_array((20, 50))
    found.set_factors(found.release(empty, 1.0, NoiseSource.from_seed(0)), empty)
    lengths = np.linalg.norm(found.item_factors_, axis=0)
    np.testing.assert_allclose(lengths, [1, 0, 0, 0], atol=1e-9)
    assert (found.eigenvalues_[1:] == 0).all()
    assert (found.reliability_[1:] == 0).all()
