import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.aggregation import AggregationError, FixedPointCodec

CODEC = FixedPointCodec(clip=2.0, bits=16)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=50))
def test_rounding_error_is_at_most_half_a_step(values):
    array = np.array(values)
    assert np.abs(CODEC.decode(CODEC.encode(array)) - array).max() <= 2.0 / 2**17 + 1e-12


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_encoded_values_stay_in_range(values):
    assert np.abs(CODEC.encode(np.array(values))).max() <= 2**16


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(AggregationError, match="1 of 2 values are not finite"):
        CODEC.encode(np.array([1.0, bad]))
