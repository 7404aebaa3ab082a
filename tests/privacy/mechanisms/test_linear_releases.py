"""Noisy counts and DP-SVD: sensitivity against an adversary who chooses the data, noise against its claimed scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from privacy.mechanisms import counts, dp_svd
from privacy.mechanisms.counts import clip_rows, noisy_counts
from privacy.mechanisms.dp_svd import factors_by_gram, factors_by_subspace_iteration, noisy_gram
from privacy.mechanisms.noise import NoiseSource

N_ITEMS = 6


def source(seed=0):
    return NoiseSource.from_seed(seed)


# rows an adversary might choose: single items, everything at once, huge weights, negative ones, duplicates of another
entries = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e9]), st.floats(-100, 100, allow_nan=False))
row = st.lists(entries, min_size=N_ITEMS, max_size=N_ITEMS)
data = st.tuples(st.lists(row, min_size=0, max_size=4), row)


def counts_sum(rows):
    return noisy_counts(sparse.csr_array(rows), 0.0, source())


def gram_sum(rows):
    return noisy_gram(sparse.csr_array(rows), 0.0, source())


def subspace_product(rows):
    """One noiseless iterate on an orthonormal basis that does not depend on the data."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(N_ITEMS, 3)))
    clipped = clip_rows(sparse.csr_array(rows))
    return clipped.T @ (clipped @ basis)


def influence(statistic, others, user):
    """How far one user moves a statistic."""
    base = np.array(others, dtype=float).reshape(-1, N_ITEMS)
    return float(np.linalg.norm(statistic(np.vstack([base, user])) - statistic(np.vstack([base, np.zeros(N_ITEMS)]))))


@pytest.mark.parametrize("statistic", [counts_sum, gram_sum, subspace_product])
@given(case=data)
@settings(max_examples=300, deadline=None)
def test_no_user_moves_a_release_by_more_than_one(statistic, case):
    assert influence(statistic, *case) <= 1.0 + 1e-6


@pytest.mark.parametrize("statistic", [counts_sum, gram_sum])
def test_the_bound_is_reached(statistic):
    assert influence(statistic, [], [1.0, 0, 0, 0, 0, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("module", "statistic"), [(counts, counts_sum), (dp_svd, gram_sum)])
def test_the_search_catches_a_user_with_unbounded_rows(module, statistic, monkeypatch):
    """The fault: rows enter unclipped, so that a user with many rows moves the sum by more than one."""
    monkeypatch.setattr(module, "clip_rows", lambda rows, norm=1.0: rows)
    assert influence(statistic, [], [1.0] * N_ITEMS) > 1.0


def test_the_search_catches_clipping_after_summing(monkeypatch):
    """The fault: the sum is clipped instead of each user; one user then moves it by more than one."""

    def clip_sum(rows, norm=1.0):
        total = np.asarray(rows.sum(axis=0)).ravel()
        return sparse.csr_array((total * min(1.0, 10 / max(np.linalg.norm(total), 1e-300)))[None, :])

    monkeypatch.setattr(counts, "clip_rows", clip_sum)
    assert influence(counts_sum, [], [5.0, 0, 0, 0, 0, 0]) > 1.0


def chi_square_p(values, scale):
    """Two-sided p-value of the standard deviation being ``scale``."""
    total, freedom = float((values**2).sum()) / scale**2, values.size
    return 2 * min(stats.chi2.cdf(total, freedom), stats.chi2.sf(total, freedom))


EMPTY = sparse.csr_array((3, 60))


def count_noise(multiplier):
    return noisy_counts(EMPTY, multiplier, source(1))


def gram_diagonal(multiplier):
    return np.diag(noisy_gram(EMPTY, multiplier, source(2)))


def gram_off_diagonal(multiplier):
    """Released symmetric: off the diagonal, two independent draws were averaged."""
    return noisy_gram(EMPTY, multiplier, source(3))[np.triu_indices(60, 1)] * np.sqrt(2.0)


@pytest.mark.parametrize("noise", [count_noise, gram_diagonal, gram_off_diagonal])
def test_noise_has_the_claimed_scale(noise):
    # false alarm once in 1,000 runs; the seeds are fixed
    assert chi_square_p(noise(1.7), 1.7) > 1e-3


@pytest.mark.parametrize("noise", [count_noise, gram_diagonal, gram_off_diagonal])
@pytest.mark.parametrize("factor", [0.5, 0.0])
def test_the_scale_test_catches_noise_that_was_halved_or_left_out(noise, factor):
    assert chi_square_p(noise(1.7 * factor) if factor else np.zeros(60), 1.7) < 1e-3


def planted(n_users=3000, n_items=40, seed=0):
    """Users of three groups, each with items of its own."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n_users, n_items))
    for user in range(n_users):
        group = user % 3
        rows[user, group * 12 + rng.choice(12, 4, replace=False)] = 1.0
    return sparse.csr_array(rows)


@pytest.mark.parametrize(
    "factorise",
    [
        lambda rows: factors_by_gram(rows, 3, 1.0, source(5)),
        lambda rows: factors_by_subspace_iteration(rows, 3, 1.0, 6, source(5)),
    ],
)
def test_private_factors_find_the_planted_groups(factorise):
    found = factorise(planted())
    np.testing.assert_allclose(found.factors.T @ found.factors, np.eye(3), atol=1e-9)
    assert (found.eigenvalues > 5 * found.noise_edge).all()
    truth = np.zeros((40, 3))
    for group in range(3):
        truth[group * 12 : group * 12 + 12, group] = 12**-0.5
    cosines = np.linalg.svd(truth.T @ found.factors, compute_uv=False)
    assert cosines.min() > 0.98


def test_both_methods_agree_without_noise():
    rows = planted()
    left = factors_by_gram(rows, 3, 0.0, source())
    right = factors_by_subspace_iteration(rows, 3, 0.0, 200, source())
    np.testing.assert_allclose(left.eigenvalues, right.eigenvalues, rtol=1e-3)
    assert np.linalg.svd(left.factors.T @ right.factors, compute_uv=False).min() > 0.999


def test_pure_noise_stays_at_its_edge():
    found = factors_by_gram(sparse.csr_array((5, 200)), 3, 2.0, source(8))
    assert found.eigenvalues[0] == pytest.approx(found.noise_edge, rel=0.1)
