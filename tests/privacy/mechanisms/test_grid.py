import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.grid import Grid

vectors = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12)
multipliers = st.floats(0.05, 100)


@given(vectors, multipliers, st.sampled_from([1, 2, 3]))
@settings(max_examples=300, deadline=None)
def test_a_cut_vector_is_shorter_and_within_a_unit(values, multiplier, levels):
    vector = np.array(values) / max(1.0, float(np.linalg.norm(values)))  # of norm 1, as rounding gives it
    if levels == 3 and multiplier < 0.1:
        return
    grid = Grid.of(multiplier, levels=levels)
    cut = grid.cut(vector)
    assert sum(int(part) ** 2 for part in cut) <= grid.squared_bound
    assert (np.abs(grid.real(cut)) <= np.abs(vector)).all()
    assert (np.abs(grid.real(cut) - vector) <= grid.step * (1 + 1e-6)).all()


@given(multipliers, st.floats(1e-3, 1e3))
def test_noise_of_the_samplers_scale_is_what_was_asked_for(multiplier, sensitivity):
    grid = Grid.of(multiplier, sensitivity)
    assert scale(2) * grid.step == pytest.approx(multiplier * sensitivity)
    assert multiplier * (1 - 1e-12) <= grid.noise_multiplier <= multiplier * 1.01


def test_products_lie_on_the_grid_that_they_were_made_for():
    grid = Grid.of(1.3, levels=3)
    roots = grid.of_products()
    assert roots.step**2 == pytest.approx(grid.step)
    assert roots.squared_bound**2 <= grid.squared_bound < (roots.squared_bound + 1) ** 2


def test_what_is_not_a_number_or_far_beyond_any_bound_is_cut_to_nothing():
    found = Grid.of(1.0).cut(np.array([math.nan, math.inf, -math.inf, 1e300, 0.5]))
    assert found[:4].tolist() == [0, 0, 0, 0]
    assert found[4] > 0


def test_rows_fit_or_not_by_exact_arithmetic():
    """At the bound itself and one above, where double precision sees no difference."""
    bound = (2**30 - 1) ** 2
    grid = Grid(1.0, bound, 3)
    most, far = 2**30 - 1, 2**31 - 1
    rows = sparse.csr_array(np.array([[most, 0, 0], [most, 1, 0], [far, far, far], [0, 0, 0], [-most, 0, 0]]))
    assert grid.fits(rows).tolist() == [True, False, False, True, True]


def test_a_row_fits_whoever_else_is_there():
    rows = sparse.csr_array(np.random.default_rng(0).integers(-5, 6, (40, 7)))
    grid = Grid(1.0, 60)
    alone = [bool(grid.fits(rows[[index]])[0]) for index in range(40)]
    assert grid.fits(rows).tolist() == alone


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1e-9, 1.0)])
def test_a_grid_needs_noise(arguments):
    with pytest.raises(ValueError, match="grid"):
        Grid.of(*arguments)
