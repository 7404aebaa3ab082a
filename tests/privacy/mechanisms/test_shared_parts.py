"""Parts of noisy sums: integers of bounded norm, checked by brute force; noise of the stated size in the sum."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from privacy.mechanisms import shared_parts
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import (
    Part,
    gram_of_sum,
    gram_part,
    noise_of_sum,
    norm_of,
    rows_of_sum,
    rows_part,
)

NORM = norm_of(2.0, 2)


@pytest.fixture
def silent(monkeypatch):
    """Parts without their noise: what a user's rows alone add."""
    monkeypatch.setattr(shared_parts, "_with_noise", lambda total, noise, spare: Part(total, np.zeros(spare, np.int64)))


def source():
    return NoiseSource.from_entropy()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_no_user_adds_more_than_the_norm(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_parts, "_with_noise", lambda total, noise, spare: Part(total, total[:0]))
        rows = sparse.csr_array(np.array([values]))
        for part in (rows_part(rows, NORM, source()), gram_part(rows, NORM, source())):
            # exact integers: Python's do not overflow
            assert sum(int(value) ** 2 for value in part.values) <= NORM**2


def test_a_row_of_norm_one_uses_nearly_all_of_it(silent):
    row = sparse.csr_array(np.full((1, 16), 0.25))
    for part, least in ((rows_part(row, NORM, source()), 0.999), (gram_part(row, NORM, source()), 0.95)):
        assert np.linalg.norm(part.values.astype(float)) >= least * NORM


def test_sums_of_parts_are_sums_of_rows(silent):
    rng = np.random.default_rng(0)
    markets = [sparse.csr_array(rng.dirichlet(np.ones(6), 5)) for _ in range(3)]  # norms below 1: nothing is clipped
    dense = np.concatenate([market.toarray() for market in markets])
    counts = np.sum([rows_part(market, NORM, source()).values for market in markets], axis=0)
    gram = np.sum([gram_part(market, NORM, source()).values for market in markets], axis=0)
    assert rows_of_sum(counts, NORM) == pytest.approx(dense.sum(axis=0), abs=1e-3)
    found = gram_of_sum(gram, NORM, 6)
    assert found == pytest.approx(dense.T @ dense, abs=0.05)
    assert (found == found.T).all()


def test_noise_of_the_parts_that_are_left_is_what_was_asked_for():
    """Two honest parts carry a multiplier of 2: within 4 % over 20,000 values with probability above 1 - 1e-8."""
    empty = sparse.csr_array((1, 20_000))
    left = np.sum([rows_part(empty, NORM, source()).values for _ in range(2)], axis=0)
    assert rows_of_sum(left, NORM).std() == pytest.approx(2.0, rel=0.04)
    assert noise_of_sum(NORM, 2) == pytest.approx(2.0)
    matrix = gram_of_sum(
        np.sum([gram_part(sparse.csr_array((1, 200)), NORM, source()).values for _ in range(2)], 0), NORM, 200
    )
    assert matrix[np.triu_indices(200, 1)].std() == pytest.approx(2.0 * 5 / 7, rel=0.04)


def test_epsilon_of_the_plan_by_brute_force():
    """ε(δ) of the integers that are drawn, term by term, is what the accountant states of the multiplier."""
    from dp_accounting.dp_event import GaussianDpEvent

    from privacy.accounting.accountants import pld_epsilon

    delta, multiplier = 1e-4, 2.0
    scale = 400.0  # of the sum's noise in integers; large enough for the continuous law, small enough to add up
    shift = round(scale / multiplier)
    at = np.arange(-int(12 * scale), int(12 * scale) + 1)
    inside = np.exp(-(at**2) / (2 * scale**2))
    inside /= inside.sum()
    losses = (2 * at * shift + shift**2) / (2 * scale**2)  # log P(k) - log P(k + shift)

    def spent(epsilon):
        over = losses > epsilon
        return float((inside[over] * (1.0 - np.exp(epsilon - losses[over]))).sum())

    low, high = 0.0, 20.0
    for _ in itertools.repeat(None, 60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    assert pld_epsilon([GaussianDpEvent(multiplier)], delta) == pytest.approx(high, rel=0.01)
