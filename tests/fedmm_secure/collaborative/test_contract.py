"""The contract of an embedding, which every kind meets: alone or shared, private or not."""

import numpy as np
import pytest
from scipy import sparse

from fedmm_secure.collaborative.lightgcn import LightGCNEmbedding
from fedmm_secure.collaborative.shared import SharedStatistics, own_gram, square
from fedmm_secure.collaborative.shared_dp_svd import NoisySums, SharedDPSVDEmbedding, private_factors
from fedmm_secure.collaborative.shared_svd import SharedSVDEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config import PrivateEmbeddingConfig
from fedmm_secure.data.market import history_matrix
from tests.fedmm_secure.collaborative import test_dp_svd

DIM = 4
CHOICES = PrivateEmbeddingConfig(dim=DIM, max_items=20)


def histories(prepared):
    return history_matrix(prepared.market, prepared.split.train)


def svd(prepared):
    return SVDEmbedding(DIM).fit(histories(prepared))


def lightgcn(prepared):
    return LightGCNEmbedding(DIM, epochs=3).fit(histories(prepared))


def dp_svd(prepared):
    return test_dp_svd.embedding(prepared)


def catalogue(prepared):
    """All but the first items are in the shared catalogue, half of those in the Gram matrix; another market's sums."""
    n = prepared.market.n_items
    position = np.arange(n) - 2
    position[:2] = -1
    items = np.arange(0, n - 2, 2)
    other = (np.random.default_rng(0).random((50, len(items))) < 0.2).astype(float)
    return position, items, square(own_gram(sparse.csr_array(other)), len(items))


def shared_svd(prepared):
    position, items, gram = catalogue(prepared)
    size = prepared.market.n_items - 2
    shared = SharedStatistics(position, np.ones(size), np.zeros(size), items, gram)
    return SharedSVDEmbedding(shared, DIM).fit(histories(prepared))


def shared_dp_svd(prepared):
    position, items, gram = catalogue(prepared)
    size = prepared.market.n_items - 2
    sums = NoisySums(np.linspace(1.0, 30.0, size), np.zeros(size), 0.5)
    found = SharedDPSVDEmbedding(test_dp_svd.embedding(prepared).counts, CHOICES, sums, items, position)
    found.set_factors(private_factors(sums, items, gram, 0.5, CHOICES), histories(prepared))
    return found


KINDS = {maker.__name__: maker for maker in (svd, lightgcn, dp_svd, shared_svd, shared_dp_svd)}


@pytest.fixture(scope="module", params=KINDS)
def embedded(request, tiny_markets):
    prepared = tiny_markets["m0"]
    return KINDS[request.param](prepared), prepared


def test_users_and_items_have_vectors_of_one_space(embedded):
    found, prepared = embedded
    assert found.user_factors_.shape == (prepared.market.n_users, DIM)
    assert found.item_factors_.shape == (prepared.market.n_items, DIM)
    assert found.user_factors_.dtype == found.item_factors_.dtype == np.float64
    assert np.isfinite(found.user_factors_).all()
    assert np.isfinite(found.item_factors_).all()


def test_a_user_who_was_fitted_is_embedded_as_then(embedded):
    found, prepared = embedded
    np.testing.assert_allclose(found.transform(histories(prepared)), found.user_factors_, atol=1e-12)


def test_a_user_is_embedded_by_one_row_whoever_else_is_asked_about(embedded):
    """What the guarantee of a code rests on: a user's vector is a function of that user's row."""
    found, prepared = embedded
    rows = histories(prepared)
    order = np.random.default_rng(1).permutation(rows.shape[0])[:17]
    np.testing.assert_allclose(found.transform(sparse.csr_array(rows[order])), found.user_factors_[order], atol=1e-12)


def test_nobody_and_an_empty_history_are_embedded_too(embedded):
    found, prepared = embedded
    n_items = prepared.market.n_items
    assert found.transform(sparse.csr_array((0, n_items))).shape == (0, DIM)
    np.testing.assert_array_equal(found.transform(sparse.csr_array((1, n_items))), np.zeros((1, DIM)))


def test_embedding_changes_nothing_that_was_fitted(embedded):
    found, prepared = embedded
    before = found.user_factors_.copy(), found.item_factors_.copy()
    found.transform(sparse.csr_array(histories(prepared)[:3]))
    np.testing.assert_array_equal(found.user_factors_, before[0])
    np.testing.assert_array_equal(found.item_factors_, before[1])


def test_the_same_again(embedded, tiny_markets):
    found, prepared = embedded
    maker = next(maker for maker in KINDS.values() if type(maker(prepared)) is type(found))
    np.testing.assert_array_equal(maker(prepared).item_factors_, found.item_factors_)
