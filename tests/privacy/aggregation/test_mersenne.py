import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.aggregation.mersenne import MersennePrime

EXPONENTS = (3, 5, 7, 13, 17, 19, 31, 61)
INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.data(), st.sampled_from(EXPONENTS))
def test_an_inner_product_is_that_of_python_integers(data, exponent):
    prime = MersennePrime(exponent)
    words = st.integers(0, prime.value - 1) | st.sampled_from([0, 1, prime.value - 1])
    pairs = data.draw(st.lists(st.tuples(words, words), max_size=50))
    left, right = (np.array(column, dtype=np.uint64) for column in (zip(*pairs, strict=True) if pairs else ([], [])))
    assert prime.dot(left, right) == sum(a * b for a, b in pairs) % prime.value


@given(st.lists(INT64 | st.integers(-(2**40), 2**40), min_size=1, max_size=50), st.sampled_from(EXPONENTS))
def test_residues_are_those_of_python_integers(values, exponent):
    prime = MersennePrime(exponent)
    assert prime.of_integers(np.array(values, dtype=np.int64)).tolist() == [value % prime.value for value in values]
    words = [value % 2**64 for value in values]
    assert prime.of_words(np.array(words, dtype=np.uint64)).tolist() == [word % prime.value for word in words]


def test_a_million_largest_factors_do_not_overflow():
    prime = MersennePrime(61)
    largest = np.full(10**6, prime.value - 1, dtype=np.uint64)  # each is -1
    assert prime.dot(largest, largest) == 10**6 % prime.value
    assert prime.dot(largest, np.ones(10**6, np.uint64)) == -(10**6) % prime.value


def test_a_table_of_all_products_of_a_small_prime():
    prime = MersennePrime(5)
    for a in range(31):
        for b in range(31):
            assert prime.dot(np.array([a], np.uint64), np.array([b], np.uint64)) == a * b % 31


@pytest.mark.parametrize("exponent", [2, 4, 11, 61.5, 62, 89, 127])
def test_other_exponents_are_refused(exponent):
    with pytest.raises(ValueError, match="no odd Mersenne prime"):
        MersennePrime(exponent)
