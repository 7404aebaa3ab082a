"""Noisy counts and DP-SVD: sensitivity against an adversary who chooses the data, noise against its claimed scale."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from privacy.mechanisms import counts, dp_svd
from privacy.mechanisms.counts import integer_rows, noisy_counts
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_svd import (
    factors_by_gram,
    factors_by_subspace_iteration,
    integer_products,
    noisy_gram,
)
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource
from tests.noise import silent

N_ITEMS = 6


def source(seed=0):
    return NoiseSource.from_seed(seed)


# rows an adversary might choose: single items, everything at once, huge weights, negative ones, duplicates of another
entries = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e9, 1e200, np.nan, np.inf]), st.floats(-100, 100))
row = st.lists(entries, min_size=N_ITEMS, max_size=N_ITEMS)
data = st.tuples(st.lists(row, min_size=0, max_size=4), row)
multipliers = st.sampled_from([0.31, 1.0, 2.7, 40.0])


def counts_sum(rows, multiplier=1.0):
    with silent():
        return noisy_counts(sparse.csr_array(rows), multiplier, source()).values


def gram_sum(rows, multiplier=1.0):
    with silent():
        return noisy_gram(sparse.csr_array(rows), multiplier, source())[0]


BASIS, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(N_ITEMS, 3)))


def subspace_product(rows, multiplier=1.0):
    """One noiseless iterate on an orthonormal basis that does not depend on the data."""
    grid = Grid.of(multiplier)
    return grid.real(integer_products(sparse.csr_array(rows), BASIS, grid))


def influence(statistic, others, user, multiplier=1.0):
    """How far one user moves a statistic."""
    base = np.array(others, dtype=float).reshape(-1, N_ITEMS)
    whole, without = np.vstack([base, user]), np.vstack([base, np.zeros(N_ITEMS)])
    return float(np.linalg.norm(statistic(whole, multiplier) - statistic(without, multiplier)))


STATISTICS = [counts_sum, gram_sum, subspace_product]


@pytest.mark.parametrize("statistic", STATISTICS)
@given(case=data, multiplier=multipliers)
@settings(max_examples=300, deadline=None)
def test_no_user_moves_a_release_by_more_than_one(statistic, case, multiplier):
    assert influence(statistic, *case, multiplier) <= 1.0 + 1e-12


@pytest.mark.parametrize("statistic", [counts_sum, gram_sum])
def test_the_bound_is_reached(statistic):
    assert influence(statistic, [], [1.0, 0, 0, 0, 0, 0]) == pytest.approx(1.0, rel=1e-3)


@given(case=data, multiplier=multipliers)
@settings(max_examples=200, deadline=None)
def test_integers_of_one_user_are_never_longer_than_the_noise_admits(case, multiplier):
    """Exactly, with Python's integers: sums against S/σ, products z zᵀ against that of their own grid."""
    rows = sparse.csr_array(np.array([case[1]], dtype=float))
    vector = [int(value) for value in integer_rows(rows, Grid.of(multiplier)).toarray()[0]]
    assert sum(value**2 for value in vector) <= (scale(2) / multiplier) ** 2
    product = integer_products(rows, BASIS, Grid.of(multiplier))
    assert sum(int(value) ** 2 for value in product.ravel()) <= (scale(2) / multiplier) ** 2
    root = [int(value) for value in integer_rows(rows, Grid.of(multiplier, levels=3).of_products()).toarray()[0]]
    assert sum((left * right) ** 2 for left in root for right in root) <= (scale(3) / multiplier) ** 2


@pytest.mark.parametrize("statistic", STATISTICS)
def test_releases_are_sums_of_clipped_rows(statistic):
    """Against the textbook's floating-point form, to the resolution of the grid."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, N_ITEMS)) * rng.uniform(0.01, 3, size=(200, 1))
    rows[rng.random(rows.shape) < 0.5] = 0.0
    clipped = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    expected = {
        counts_sum: clipped.sum(axis=0),
        gram_sum: clipped.T @ clipped,
        subspace_product: clipped.T @ (clipped @ BASIS),
    }[statistic]
    np.testing.assert_allclose(statistic(rows), expected, atol=0.05)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_whoever_leaves_takes_exactly_the_own_part_along(statistic):
    """Sums do not depend on order or neighbours: in grid units, a difference is one user's own contribution."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(300, N_ITEMS))
    unit = Grid.of(1.0, levels=3 if statistic is gram_sum else 2).step

    def integers(part):
        return np.rint(statistic(part) / unit).astype(np.int64)

    whole = integers(rows)
    np.testing.assert_array_equal(whole - integers(rows[1:]), integers(rows[:1]))
    np.testing.assert_array_equal(integers(rng.permutation(rows)), whole)


def test_blocks_of_users_change_nothing(monkeypatch):
    rows = sparse.csr_array(np.random.default_rng(5).normal(size=(50, N_ITEMS)))
    whole = integer_products(rows, BASIS, Grid.of(1.0))
    monkeypatch.setattr(dp_svd, "_BLOCK_ENTRIES", 40)
    np.testing.assert_array_equal(integer_products(rows, BASIS, Grid.of(1.0)), whole)


def test_two_entries_of_one_item_are_one_coordinate():
    twice = sparse.csr_array((np.ones(2), np.array([3, 3]), np.array([0, 2])), shape=(1, N_ITEMS))
    assert counts_sum(twice)[3] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("module", "statistic"), [(counts, counts_sum), (dp_svd, gram_sum)])
def test_the_search_catches_a_user_with_unbounded_rows(module, statistic, monkeypatch):
    """The fault: rows enter unclipped and unchecked, so that a user with many rows moves the sum by more than one."""

    def unbounded(rows, grid):
        return sparse.csr_array((grid.cut(rows.data), rows.indices, rows.indptr), shape=rows.shape)

    monkeypatch.setattr(module, "integer_rows", unbounded)
    assert influence(statistic, [], [1.0] * N_ITEMS) > 1.0


def test_rows_that_clipping_missed_are_taken_out_by_the_exact_check(monkeypatch):
    monkeypatch.setattr(counts, "clip_rows", lambda rows, norm=1.0: rows)
    rows = np.array([[1.0] * N_ITEMS, [0.5, 0, 0, 0, 0, 0]])
    assert counts_sum(rows).round(3).tolist() == [0.5, 0, 0, 0, 0, 0]


def test_the_search_catches_clipping_after_summing(monkeypatch):
    """The fault: the sum is clipped instead of each user; one user then moves it by more than one."""

    def cut_sum(rows, grid):
        total = np.asarray(rows.sum(axis=0)).ravel()
        return sparse.csr_array(grid.cut(total * min(1.0, 10 / max(np.linalg.norm(total), 1e-300)))[None, :])

    monkeypatch.setattr(counts, "integer_rows", cut_sum)
    assert influence(counts_sum, [], [5.0, 0, 0, 0, 0, 0]) > 1.0


def test_more_users_than_an_exact_gram_matrix_holds_are_refused():
    with pytest.raises(ValueError, match="leave 62 bits"):
        noisy_gram(SimpleNamespace(shape=(2**40, 2)), 1.0, source())


@pytest.mark.parametrize("multiplier", [0.0, -1.0, 1e-6])
def test_no_noise_or_too_little_is_refused(multiplier):
    with pytest.raises(ValueError, match="grid"):
        noisy_counts(EMPTY, multiplier, source())


def chi_square_p(values, scale):
    """Two-sided p-value of the standard deviation being ``scale``."""
    total, freedom = float((values**2).sum()) / scale**2, values.size
    return 2 * min(stats.chi2.cdf(total, freedom), stats.chi2.sf(total, freedom))


EMPTY = sparse.csr_array((3, 60))


def count_noise(multiplier):
    return noisy_counts(EMPTY, multiplier, source(1)).values


def gram_diagonal(multiplier):
    return np.diag(noisy_gram(EMPTY, multiplier, source(2))[0])


def gram_off_diagonal(multiplier):
    """Released symmetric: off the diagonal, two independent draws were averaged."""
    return noisy_gram(EMPTY, multiplier, source(3))[0][np.triu_indices(60, 1)] * np.sqrt(2.0)


def spare_counts(multiplier):
    return noisy_counts(EMPTY, multiplier, source(4), spare=500).spare * (multiplier / scale(2))


def spare_gram(multiplier):
    return noisy_gram(EMPTY, multiplier, source(5), spare=500)[1] * (multiplier / scale(3))


@pytest.mark.parametrize("noise", [count_noise, gram_diagonal, gram_off_diagonal, spare_counts, spare_gram])
def test_noise_has_the_claimed_scale(noise):
    # false alarm once in 1,000 runs; the seeds are fixed
    assert chi_square_p(noise(1.7), 1.7) > 1e-3


@pytest.mark.parametrize("noise", [count_noise, gram_diagonal, gram_off_diagonal])
def test_the_scale_test_catches_noise_that_was_halved_or_left_out(noise):
    assert chi_square_p(noise(1.7 * 0.5), 1.7) < 1e-3
    with silent():
        assert chi_square_p(noise(1.7), 1.7) < 1e-3


def test_released_counts_are_multiples_of_the_public_step():
    values = noisy_counts(sparse.csr_array(np.eye(5)), 1.3, source()).values
    units = values / Grid.of(1.3).step
    np.testing.assert_array_equal(np.rint(units) * Grid.of(1.3).step, values)


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


def test_both_methods_agree_at_next_to_no_noise():
    rows = planted()
    left = factors_by_gram(rows, 3, 0.05, source())
    right = factors_by_subspace_iteration(rows, 3, 0.05, 200, source())
    np.testing.assert_allclose(left.eigenvalues, right.eigenvalues, rtol=2e-3)
    assert np.linalg.svd(left.factors.T @ right.factors, compute_uv=False).min() > 0.999


def test_each_release_leaves_its_spare_values():
    assert factors_by_gram(EMPTY, 3, 1.0, source(), spare=7).spare.shape == (1, 7)
    found = factors_by_subspace_iteration(EMPTY, 3, 1.0, 4, source(), spare=7).spare
    assert found.shape == (4, 7)
    assert len(np.unique(found)) == 28


def test_pure_noise_stays_at_its_edge():
    found = factors_by_gram(sparse.csr_array((5, 200)), 3, 2.0, source(8))
    assert found.eigenvalues[0] == pytest.approx(found.noise_edge, rel=0.1)
