import numpy as np
import pytest
from scipy import sparse

from fedmm_secure.collaborative.lightgcn import LightGCNEmbedding
from fedmm_secure.collaborative.neighbours import cosine_weights, ease_weights
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.data.market import interaction_matrix


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    return sparse.csr_array((rng.random((60, 25)) < 0.25).astype(float))


def normalised(matrix):
    dense = matrix.toarray()
    users, items = np.maximum(dense.sum(1), 1), np.maximum(dense.sum(0), 1)
    return dense / np.sqrt(users)[:, None] / np.sqrt(items)[None, :]


def test_svd_equals_a_dense_decomposition_up_to_sign(matrix):
    found = SVDEmbedding(6).fit(matrix)
    _, values, right = np.linalg.svd(normalised(matrix))
    np.testing.assert_allclose(found.singular_values_, values[:6], rtol=1e-8)
    np.testing.assert_allclose(np.abs((found.item_factors_ * right[:6].T).sum(0)), 1, atol=1e-6)


def test_svd_is_ordered_sign_fixed_and_deterministic(matrix):
    first, again = SVDEmbedding(6).fit(matrix), SVDEmbedding(6).fit(matrix)
    np.testing.assert_array_equal(first.item_factors_, again.item_factors_)
    assert (np.diff(first.singular_values_) <= 0).all()
    pivots = np.abs(first.item_factors_).argmax(0)
    assert (first.item_factors_[pivots, np.arange(6)] > 0).all()


def test_svd_pads_small_markets(matrix):
    found = SVDEmbedding(40).fit(matrix)
    assert found.item_factors_.shape == (25, 40)
    assert (found.item_factors_[:, 24:] == 0).all()


@pytest.mark.parametrize("embedding", [SVDEmbedding(6), LightGCNEmbedding(6, epochs=3)])
def test_transform_embeds_known_users_as_fit_did_and_reads_each_row_alone(matrix, embedding):
    embedding.fit(matrix)
    assert embedding.user_factors_.shape == (60, 6)
    assert embedding.item_factors_.shape == (25, 6)
    np.testing.assert_allclose(embedding.transform(matrix), embedding.user_factors_)
    np.testing.assert_allclose(embedding.transform(matrix[:1]), embedding.user_factors_[:1])
    empty = sparse.csr_array((1, 25))
    assert (embedding.transform(empty) == 0).all()


def test_lightgcn_learns_to_rank_and_is_reproducible(tiny_markets):
    prepared = tiny_markets["m0"]
    market, train = prepared.market, prepared.split.train
    matrix = interaction_matrix(market.user[train], market.item[train], (market.n_users, market.n_items))
    found, again = LightGCNEmbedding(8, epochs=150).fit(matrix), LightGCNEmbedding(8, epochs=150).fit(matrix)
    np.testing.assert_array_equal(found.item_factors_, again.item_factors_)
    assert found.loss_[-1] < 0.8 * found.loss_[0]
    scores = found.user_factors_ @ found.item_factors_.T
    seen = matrix.toarray() > 0
    above = (scores[seen][:, None] > scores[~seen][None, :1000]).mean()
    assert above > 0.7


def test_ease_solves_its_constrained_least_squares(matrix):
    """Each column minimises |x_j - X b|^2 + reg |b|^2 with b_j = 0."""
    x, weights = matrix.toarray(), ease_weights(matrix, 10.0)
    for column in (0, 7, 24):
        others = np.delete(np.arange(25), column)
        solution = np.linalg.solve(x[:, others].T @ x[:, others] + 10.0 * np.eye(24), x[:, others].T @ x[:, column])
        np.testing.assert_allclose(weights[others, column], solution, atol=1e-10)
    assert (np.diag(weights) == 0).all()


def test_cosine_weights_are_shrunk_cosines(matrix):
    x = matrix.toarray()
    weights = cosine_weights(matrix, 3.0)
    expected = x[:, 1] @ x[:, 2] / (np.linalg.norm(x[:, 1]) * np.linalg.norm(x[:, 2]) + 3.0)
    assert weights[1, 2] == pytest.approx(expected)
    assert (np.diag(weights) == 0).all()
