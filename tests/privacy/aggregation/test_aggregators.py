import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.aggregation import (
    AggregationError,
    CKKSKeys,
    CKKSMarket,
    CKKSParameters,
    CKKSServer,
    PlaintextMarket,
    PlaintextServer,
)
from privacy.aggregation.ckks import MAX_MODULUS_BITS


@pytest.fixture(scope="module")
def ckks():
    parameters = CKKSParameters.derive(length=300, cohort=7, value_bits=20)
    keys = CKKSKeys.generate(parameters)
    return parameters, keys, CKKSMarket(parameters, keys.secret), CKKSServer(parameters, keys.public)


def draw(rng, n, length=300, limit=2**20):
    return [rng.integers(-limit, limit, length, endpoint=True) for _ in range(n)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 7))
def test_the_decrypted_sum_equals_the_integer_sum(ckks, seed, n):
    _, _, market, server = ckks
    vectors = draw(np.random.default_rng(seed), n)
    total = market.reveal(server.aggregate([market.protect(vector) for vector in vectors]))
    np.testing.assert_array_equal(total, np.sum(vectors, axis=0))


def test_the_extreme_sum_does_not_wrap(ckks):
    _, _, market, server = ckks
    for sign in (1, -1):
        extreme = np.full(300, sign * 2**20)
        total = market.reveal(server.aggregate([market.protect(extreme)] * 7))
        np.testing.assert_array_equal(total, 7 * extreme)


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 5000])
def test_vectors_longer_than_a_ciphertext_are_chunked(length):
    parameters = CKKSParameters.derive(length=length, cohort=3, value_bits=16)
    keys = CKKSKeys.generate(parameters)
    market, server = CKKSMarket(parameters, keys.secret), CKKSServer(parameters, keys.public)
    vectors = draw(np.random.default_rng(length), 3, length, 2**16)
    total = market.reveal(server.aggregate([market.protect(v) for v in vectors]))
    np.testing.assert_array_equal(total, np.sum(vectors, axis=0))


@given(cohort=st.integers(1, 2000), bits=st.integers(1, 40))
def test_derived_parameters_are_secure_and_cannot_wrap(cohort, bits):
    try:
        found = CKKSParameters.derive(length=10, cohort=cohort, value_bits=bits)
    except AggregationError:
        return
    assert sum(found.modulus_bits) <= MAX_MODULUS_BITS[found.degree]
    # a prime of b bits is at least 2^(b-1); the sum times the scale must stay below half of it
    assert cohort * 2**bits * 2**found.scale_bits <= 2 ** (found.modulus_bits[0] - 2)


def test_the_server_refuses_a_secret_key(ckks):
    parameters, keys, _, _ = ckks
    with pytest.raises(AggregationError, match="secret key"):
        CKKSServer(parameters, keys.secret)


def test_a_market_needs_the_secret_key(ckks):
    parameters, keys, _, _ = ckks
    with pytest.raises(AggregationError, match="secret context"):
        CKKSMarket(parameters, keys.public)


def test_out_of_range_values_are_refused(ckks):
    _, _, market, _ = ckks
    with pytest.raises(AggregationError, match="exceeds"):
        market.protect(np.full(300, 2**20 + 1))


def test_more_payloads_than_the_cohort_are_refused(ckks):
    _, _, market, server = ckks
    payload = market.protect(np.zeros(300, dtype=np.int64))
    with pytest.raises(AggregationError, match="8 payloads"):
        server.aggregate([payload] * 8)


def test_malformed_payloads_are_refused(ckks):
    _, keys, market, server = ckks
    good = market.protect(np.arange(300))
    other = CKKSParameters.derive(length=299, cohort=7, value_bits=20)
    shorter = CKKSMarket(other, keys.secret).protect(np.arange(299))
    wider = CKKSParameters.derive(length=300, cohort=7, value_bits=18)  # another scale
    rescaled = CKKSMarket(wider, keys.secret).protect(np.arange(300))
    bad = [b"", b"xx", good[:-1], good + b"\0", good[:200], shorter, rescaled, b"\0" * len(good), good[:4] + b"junk"]
    for payload in bad:
        with pytest.raises(AggregationError):
            server.check(payload)
    server.check(good)


def test_the_wrong_key_does_not_decrypt(ckks):
    parameters, _, market, _ = ckks
    stranger = CKKSMarket(parameters, CKKSKeys.generate(parameters).secret)
    payload = market.protect(np.arange(300))
    with pytest.raises(AggregationError):
        stranger.reveal(payload)


def test_plaintext_sums_and_rejects():
    market, server = PlaintextMarket(4), PlaintextServer(4)
    left, right = np.array([1, -2, 3, 2**40]), np.array([5, 6, -7, 1])
    np.testing.assert_array_equal(
        market.reveal(server.aggregate([market.protect(left), market.protect(right)])), left + right
    )
    with pytest.raises(AggregationError):
        server.check(b"123")
