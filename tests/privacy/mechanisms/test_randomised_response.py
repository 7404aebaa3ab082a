import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting.events import event_from_data, event_to_data, randomised_response_epsilon
from privacy.mechanisms.events import randomised_response_event
from privacy.mechanisms.randomised_response import randomise, truth_probability
from privacy.mechanisms.randomness import NoiseSource


@given(st.floats(0.05, 8), st.integers(2, 2000))
def test_the_largest_ratio_of_probabilities_is_e_to_the_epsilon(epsilon, k):
    truth = truth_probability(epsilon, k)
    other = (1 - truth) / (k - 1)
    assert truth / other == pytest.approx(math.exp(epsilon), rel=1e-9)


@given(st.floats(0.05, 8), st.integers(2, 2000))
def test_the_ledger_event_gives_the_same_epsilon_back(epsilon, k):
    event = event_from_data(event_to_data(randomised_response_event(epsilon, k)))
    assert randomised_response_epsilon(event) == pytest.approx(epsilon, rel=1e-9)


def test_answers_have_the_stated_frequencies():
    n, k, epsilon = 60_000, 5, 1.0
    answers = randomise(np.full(n, 3), k, epsilon, NoiseSource.from_seed(0)).values
    share = np.bincount(answers, minlength=k) / n
    truth = truth_probability(epsilon, k)
    expected = np.full(k, (1 - truth) / (k - 1))
    expected[3] = truth
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / n**0.5)  # four standard errors


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="values must lie in 0 … 3"):
        randomise(np.array([4]), 4, 1.0, NoiseSource.from_seed(0))
