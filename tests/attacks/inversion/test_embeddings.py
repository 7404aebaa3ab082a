import numpy as np

from attacks.inversion.embeddings import invert_embeddings
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.data.market import history_matrix


def recovered(tiny_markets, embeddings=None):
    prepared = tiny_markets["m0"]
    history = history_matrix(prepared.market, prepared.split.train)
    if embeddings is None:
        embeddings = SVDEmbedding(16).fit(history).user_factors_
    popularity = np.asarray(history.sum(axis=0)).ravel()
    return invert_embeddings(embeddings, history.toarray() > 0, popularity, np.random.default_rng(0))


def test_embeddings_give_histories_away(tiny_markets):
    found = recovered(tiny_markets)
    assert found.users == 40
    assert found.advantage.low > 0.1


def test_embeddings_that_know_nothing_do_no_better_than_popularity(tiny_markets):
    n = tiny_markets["m0"].market.n_users
    assert recovered(tiny_markets, np.random.default_rng(1).normal(size=(n, 8))).advantage.high < 0.05
