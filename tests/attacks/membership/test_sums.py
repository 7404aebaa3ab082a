"""What published sums say of who is in them, beside brute force, and in pipelines that are trained."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from attacks.membership.queries import Queries, fair_coins, halve
from attacks.membership.refutation import refute
from attacks.membership.sums import COIN, Sums, exact_sums, noised_sums
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, release_counts
from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.ctr.histories import History
from fedmm_secure.data.market import history_matrix
from privacy.mechanisms.randomness import NoiseSource
from tests.curves import gaussian_curve

GROUPS = ("scores", "counts", "recency")


@pytest.fixture(scope="module")
def queries(tiny_markets):
    return Queries.of(tiny_markets["m0"])


def test_the_estimate_is_the_posterior_mean_of_gaussian_coins():
    """Beside the formula with matrices that are inverted."""
    rng = np.random.default_rng(0)
    design, noise = rng.random((7, 4)) * (rng.random((7, 4)) < 0.6), rng.uniform(0.1, 2.0, 7)
    values = rng.normal(size=7)
    covariance = COIN**2 * design @ design.T + np.diag(noise**2)
    expected = 0.5 + COIN**2 * design.T @ np.linalg.solve(covariance, values)
    found = Sums(values, sparse.csr_array(design), noise).members()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nobody_hides_in_exact_sums_of_few_users():
    """Three users and three items: each world gives other sums, and the estimate names it."""
    design = sparse.csr_array(np.array([[1.0, 1, 0], [0, 1, 1], [1, 1, 1]]))
    for world in np.ndindex(2, 2, 2):
        values = design @ (np.array(world) - 0.5)
        np.testing.assert_allclose(Sums(values, design, np.full(3, 0.01)).members(), world, atol=0.01)


@pytest.mark.parametrize("unit", ["user", "interaction"])
def test_exact_sums_are_those_of_the_rows_that_are_in(tiny_markets, queries, unit):
    """Counts, times and pairs that are read out of the weights of a model fit whoever is in; of rows a pair is a
    product, whose part that no single row explains has the variance that is stated.
    """
    prepared, whole = tiny_markets["m0"], queries.units(unit)
    n = prepared.market.n_users if unit == "user" else len(prepared.split.train)
    gaps = []
    for member in fair_coins(12, n, np.random.default_rng(0)):
        half = halve(prepared, unit, member)
        history = History(half.market, half.split.train, half.pool)
        found = exact_sums(history, GROUPS, prepared, queries, whole)
        asked = np.unique(queries.user) if unit == "user" else np.isin(prepared.split.train, queries.rows)
        inside = member[asked]
        gaps.append((found.values - found.design @ (inside - 0.5)) / found.noise)
        assert roc_auc_score(inside, found.members()) > (0.99 if unit == "user" else 0.8)
    gaps = np.stack(gaps)
    products = gaps[:, found.noise > 0.1]
    np.testing.assert_allclose(gaps[:, found.noise < 0.1], 0.0, atol=1e-6)
    assert bool(products.size) is (unit == "interaction")
    assert not products.size or abs((products**2).mean() - 1.0) < 0.1


def test_a_model_without_counts_and_weights_holds_no_sums(tiny_markets, queries):
    prepared = tiny_markets["m0"]
    history = History(prepared.market, prepared.split.train, prepared.pool)
    assert exact_sums(history, ("item_codes",), prepared, queries, queries.units("user")) is None
    counts = exact_sums(history, ("counts",), prepared, queries, queries.units("user"))
    assert len(counts.values) == len(prepared.pool.items)


def noised(prepared, queries, sigma, member, seed=0):
    half = halve(prepared, "user", member)
    noise, choices = NoiseSource.from_seed(seed), ContributionConfig(reference_date=None)
    rows = half.split.train
    counts = release_counts(half.market, rows, choices, sigma, noise.derive("counts"))
    embedding = DPSVDEmbedding(counts, PrivateEmbeddingConfig(dim=4))
    matrix = history_matrix(half.market, rows)
    embedding.set_factors(embedding.release(matrix, sigma, noise.derive("factors")), matrix)
    users = np.unique(queries.user)
    return noised_sums(embedding, prepared, users, choices), member[users]


def test_noise_takes_the_sums_away(tiny_markets, queries):
    """Noised sums differ from what those who are in add by noise of the stated size; the more of it, the less is
    told.
    """
    prepared, areas = tiny_markets["m0"], []
    member = fair_coins(1, prepared.market.n_users, np.random.default_rng(1))[0]
    for sigma in (0.05, 20.0):
        found, inside = noised(prepared, queries, sigma, member)
        gaps = (found.values - found.design @ (inside - 0.5)) / found.noise
        assert abs(gaps.mean()) < 4.0 / np.sqrt(len(gaps))
        assert abs((gaps**2).mean() - 1.0) < 6.0 / np.sqrt(len(gaps))
        areas.append(roc_auc_score(inside, found.members()))
    assert areas[0] > 0.99
    assert areas[1] < 0.65


def test_others_are_not_taken_for_noise(tiny_markets, queries):
    """The likelihood ratio of one user alone, which is linear in what that user adds, tells far less."""
    prepared = tiny_markets["m0"]
    member = fair_coins(1, prepared.market.n_users, np.random.default_rng(2))[0]
    found, inside = noised(prepared, queries, 0.3, member)
    lengths = np.sqrt(np.asarray((found.design.multiply(found.design)).sum(axis=0)))
    alone = (found.design.T @ found.values) / np.maximum(lengths, 1e-9)
    assert roc_auc_score(inside, found.members()) > roc_auc_score(inside, alone) + 0.1


@pytest.mark.parametrize(("sigma", "refuted"), [(3.0, False), (0.3, True)])
def test_natural_users_refute_a_claim_whose_noise_was_left_out(tiny_markets, queries, sigma, refuted):
    """Two mechanisms that are said to have a noise multiplier of 3, and have it, or a tenth; 16 releases of each."""
    prepared = tiny_markets["m0"]
    members = fair_coins(16, prepared.market.n_users, np.random.default_rng(4))
    made = [noised(prepared, queries, sigma, member, seed) for seed, member in enumerate(members)]
    scores, inside = np.stack([found.members() for found, _ in made]), np.stack([own for _, own in made])
    found = refute(scores, inside, gaussian_curve(np.sqrt(2.0) / 3.0), 1e-3, attacks=1)
    assert found.refuted is refuted
