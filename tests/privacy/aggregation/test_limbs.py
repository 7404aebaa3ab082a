"""Values in limbs: sums are read back exactly, and under masks a limb says nothing of what is masked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.aggregation.base import AggregationError, Binding
from privacy.aggregation.limbs import LimbCarrier

BINDING = Binding("run", "shared-counts", 0, 0, ("a", "b"))


class Clear:
    """A carrier without protection, which keeps what it was given."""

    def protect(self, values, binding):
        self.sent = values
        return values.astype("<i8").tobytes()

    def reveal(self, aggregate):
        return np.frombuffer(aggregate, "<i8").astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-(2**40), 2**40 - 1), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([(1, 41), (2, 21), (3, 14)]),
)
def test_sums_of_limbs_are_the_sums(vectors, shape):
    limbs, bits = shape
    carrier = LimbCarrier(Clear(), 3, limbs, bits)
    sent = [np.frombuffer(carrier.protect(np.array(one), BINDING), "<i8") for one in vectors]
    total = np.sum(sent, axis=0).astype("<i8").tobytes()
    assert carrier.reveal(total).tolist() == np.sum(np.array(vectors), axis=0).tolist()


def test_each_limb_is_small():
    inner = Clear()
    LimbCarrier(inner, 2, 2, 21).protect(np.array([2**40 - 1, -(2**40)]), BINDING)
    low, high = inner.sent[:2], inner.sent[2:]
    assert (low >= 0).all()
    assert (low < 2**21).all()
    assert (np.abs(high) <= 2**19).all()


def test_another_length_is_refused():
    with pytest.raises(AggregationError, match=r"shape \(3,\)"):
        LimbCarrier(Clear(), 2, 2, 21).protect(np.zeros(3, np.int64), BINDING)
