import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.aggregation import (
    AggregationError,
    Binding,
    CKKSKey,
    CKKSMarket,
    CKKSParameters,
    CKKSServer,
    PlaintextMarket,
    PlaintextServer,
)
from privacy.aggregation import seal as seal_module
from privacy.aggregation.packing import pack_values, pack_words, unpack_values, unpack_words
from privacy.aggregation.parameters import ERROR_BOUND, ERROR_STD, MAX_MODULUS_BITS
from privacy.aggregation.seal import Ring

BINDING = Binding("run", "s", 0, 0, ("a", "b", "c"))
BOUND = 2**20


def parties(**requirements):
    parameters = CKKSParameters.derive(**requirements)
    key = CKKSKey.generate(parameters)
    return parameters, key, CKKSMarket(parameters, key), CKKSServer(parameters)


@pytest.fixture(scope="module")
def ckks():
    return parties(length=300, cohort=7, value_bound=BOUND)


def draw(rng, n, length=300, limit=BOUND):
    return [rng.integers(-limit, limit, length, endpoint=True) for _ in range(n)]


def random_requirements(rng):
    """Lengths, cohorts and ranges from tiny to what is barely admissible."""
    length = int(2 ** rng.uniform(0, 13))
    cohort = int(2 ** rng.uniform(1, 7))
    return {"length": length, "cohort": cohort, "value_bound": int(2 ** rng.uniform(0, 31))}


@pytest.mark.long
@pytest.mark.parametrize("enough", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_vectors_under_random_parameters_sum_exactly(enough):
    rng, vectors, packings = np.random.default_rng(0), 0, set()
    while vectors < enough:
        try:
            parameters, _, market, server = parties(**random_requirements(rng))
        except AggregationError:
            continue  # not admissible
        n = int(rng.integers(1, parameters.cohort, endpoint=True))
        values = draw(rng, n, parameters.length, parameters.value_bound)
        if rng.random() < 0.2:
            values = [np.full(parameters.length, parameters.value_bound)] * n
        total = market.reveal(server.aggregate([market.protect(one, BINDING) for one in values]))
        np.testing.assert_array_equal(total, np.sum(values, axis=0), err_msg=str(parameters))
        vectors += n
        packings.add((parameters.degree, parameters.values_per_coefficient))
    assert len(packings) >= 6  # several degrees, several packings


def test_the_extreme_sum_does_not_wrap(ckks):
    _, _, market, server = ckks
    for sign in (1, -1):
        extreme = np.full(300, sign * BOUND)
        total = market.reveal(server.aggregate([market.protect(extreme, BINDING) for _ in range(7)]))
        np.testing.assert_array_equal(total, 7 * extreme)


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 5000, 20000])
def test_vectors_longer_than_a_ciphertext_are_chunked_and_sizes_are_as_stated(length):
    parameters, _, market, server = parties(length=length, cohort=3, value_bound=2**16)
    vectors = draw(np.random.default_rng(length), 3, length, 2**16)
    updates = [market.protect(v, BINDING) for v in vectors]
    aggregate = server.aggregate(updates)
    np.testing.assert_array_equal(market.reveal(aggregate), np.sum(vectors, axis=0))
    assert {len(update) for update in updates} == {parameters.update_bytes} == {server.update_bytes}
    assert len(aggregate) == parameters.aggregate_bytes == server.aggregate_bytes


@pytest.mark.parametrize(("bits", "goal"), [(16, 16.0), (12, 12.0)])
def test_a_value_takes_few_bytes_both_ways(bits, goal):
    """The default codebooks (64 x 16) of seven markets."""
    parameters = CKKSParameters.derive(length=1024, cohort=7, value_bound=2**bits)
    assert parameters.update_bytes / 1024 < 5
    assert parameters.aggregate_bytes / 1024 < goal / 2


@given(length=st.integers(1, 10**5), cohort=st.integers(1, 2000), bits=st.integers(0, 40))
def test_admitted_parameters_are_secure_and_cannot_wrap(length, cohort, bits):
    """The proof's inequalities again, in exact integers."""
    try:
        found = CKKSParameters.derive(length=length, cohort=cohort, value_bound=2**bits)
    except AggregationError:
        return
    assert found.prime_bits <= MAX_MODULUS_BITS[found.degree]
    assert found.degree != 2048 or found.prime_bits <= 53
    per, base = found.values_per_coefficient, 2 * cohort * 2**bits + 1
    largest_sum = sum(cohort * 2**bits * base**power for power in range(per))
    assert (largest_sum * 2**found.scale_bits + 22 * cohort) * 4 < 2**found.prime_bits
    assert 22 * cohort * 8 <= 3 * 2**found.scale_bits  # noise at most 3/8, transforms at most 1/8
    assert 0.5 * 2**found.scale_bits >= 2**10 * 3.24 * math.sqrt(cohort)
    assert found.coefficients * per >= length


@pytest.mark.parametrize("field", ["prime_bits", "scale_bits", "degree", "values_per_coefficient"])
def test_parameters_that_are_less_than_needed_are_refused(ckks, field):
    parameters = ckks[0]
    worse = {"prime_bits": -1, "scale_bits": -1, "degree": -1024, "values_per_coefficient": 1}
    weakened = replace(parameters, **{field: getattr(parameters, field) + worse[field]})
    assert weakened.problems()
    assert not parameters.problems()


def test_below_the_bound_sums_do_go_wrong():
    """What the margin is for: without it the noise reaches the integers."""
    parameters = CKKSParameters.derive(length=1000, cohort=7, value_bound=2**12)
    weak = replace(parameters, scale_bits=3)
    assert weak.worst_error > 0.5
    key = CKKSKey.generate(weak)
    market, server = CKKSMarket(weak, key), CKKSServer(weak)
    vectors = draw(np.random.default_rng(0), 7, 1000, 2**12)
    with pytest.raises(AggregationError, match="large error"):
        market.reveal(server.aggregate([market.protect(v, BINDING) for v in vectors]))


def test_the_noise_is_what_the_proof_says():
    parameters = CKKSParameters.derive(length=2048, cohort=2, value_bound=2**10)
    ring = Ring(parameters)
    key = ring.load_key(ring.generate_key())
    values = np.random.default_rng(0).integers(-(2**10), 2**10, 2048)
    errors = []
    for _ in range(50):
        fresh = ring.encrypt(key, values)
        errors.append((ring.decrypt(key, fresh.coefficients, [fresh.seed]) - values) * ring.scale)
    found = np.concatenate(errors)
    # 102,400 draws: the standard deviation is known to 0.3 %, false alarm below 1e-9 at 2 %
    assert found.std() == pytest.approx(ERROR_STD, rel=0.02)
    assert np.abs(found).max() <= ERROR_BOUND


def test_seal_refuses_what_the_table_refuses():
    parameters = CKKSParameters.derive(length=10, cohort=3, value_bound=2**20)
    assert parameters.degree > 1024
    small = replace(parameters, degree=1024)
    assert any("128-bit" in problem for problem in small.problems())
    with pytest.raises(AggregationError, match="SEAL refuses"):
        Ring(small)


def test_two_encryptions_of_a_vector_have_nothing_in_common(ckks):
    _, _, market, server = ckks
    values = np.arange(300)
    first, second = (server._read(market.protect(values, BINDING))[0] for _ in range(2))
    assert first.seed != second.seed
    assert np.mean(first.coefficients == second.coefficients) < 0.01


def test_the_server_takes_no_key_of_any_kind():
    assert set(inspect.signature(CKKSServer.__init__).parameters) == {"self", "parameters"}


def test_a_key_that_is_none_is_refused(ckks):
    parameters, key, _, _ = ckks
    for bad in (b"", b"junk" * 10, key.secret[:-1]):
        with pytest.raises(AggregationError, match="not a CKKS secret key"):
            CKKSMarket(parameters, CKKSKey(bad))
    other = CKKSParameters.derive(length=300, cohort=7, value_bound=2**24)
    with pytest.raises(AggregationError, match="not a CKKS secret key"):
        CKKSMarket(other, key)


def test_a_key_shows_its_fingerprint_and_nothing_else(ckks):
    key = ckks[1]
    assert "secret" not in repr(key)


def test_out_of_range_values_are_refused(ckks):
    _, _, market, _ = ckks
    with pytest.raises(AggregationError, match="exceeds"):
        market.protect(np.full(300, BOUND + 1), BINDING)
    with pytest.raises(AggregationError, match="shape"):
        market.protect(np.zeros(299, dtype=np.int64), BINDING)


def test_more_payloads_than_the_cohort_are_refused(ckks):
    _, _, market, server = ckks
    payload = market.protect(np.zeros(300, dtype=np.int64), BINDING)
    with pytest.raises(AggregationError, match="8 payloads"):
        server.aggregate([payload] * 8)


def test_malformed_payloads_are_refused(ckks):
    _, _, market, server = ckks
    good = market.protect(np.arange(300), BINDING)
    shorter, *_ = parties(length=299, cohort=7, value_bound=BOUND)
    too_large = good[:64] + b"\xff" * (len(good) - 64)
    for payload in (b"", b"xx", good[:-1], good + b"\0", good[: shorter.update_bytes], too_large):
        with pytest.raises(AggregationError):
            server.check(payload)
    server.check(good)
    aggregate = server.aggregate([good])
    for bad in (b"", aggregate[:-1], aggregate + b"\0", aggregate[64:], b"\xff" * len(aggregate)):
        with pytest.raises(AggregationError):
            market.reveal(bad)


def test_the_wrong_key_does_not_decrypt(ckks):
    parameters, _, market, server = ckks
    stranger = CKKSMarket(parameters, CKKSKey.generate(parameters))
    aggregate = server.aggregate([market.protect(np.arange(300), BINDING)])
    with pytest.raises(AggregationError, match="wrong key"):
        stranger.reveal(aggregate)


@given(st.data(), st.integers(1, 60))
def test_words_survive_packing_and_only_one_byte_string_stands_for_them(data, bits):
    words = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=20)), dtype=np.uint64)
    packed = pack_words(words, bits)
    np.testing.assert_array_equal(unpack_words(packed, len(words), bits), words)
    spare = 8 * len(packed) - bits * len(words)
    if spare:
        with pytest.raises(AggregationError, match="behind the last word"):
            unpack_words(packed[:-1] + bytes([packed[-1] | 1]), len(words), bits)


@given(st.data())
def test_packed_digits_are_read_back_from_any_sum(data):
    length, cohort = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5))
    per = data.draw(st.integers(1, 3))
    parameters = CKKSParameters(length, cohort, 100, 2048, 53, 15, per)
    values = st.lists(st.integers(-100, 100), min_size=length, max_size=length)
    vectors = [np.array(data.draw(values)) for _ in range(cohort)]
    total = np.sum([pack_values(one, parameters) for one in vectors], axis=0)
    unpacked, exact = unpack_values(total, parameters)
    assert exact
    np.testing.assert_array_equal(unpacked, np.sum(vectors, axis=0))
    assert np.abs(total).max() <= parameters.packed_bound


def test_plaintext_sums_and_rejects_what_is_out_of_range():
    market, server = PlaintextMarket(4), PlaintextServer(4, 2**41)
    left, right = np.array([1, -2, 3, 2**40]), np.array([5, 6, -7, 1])
    both = [market.protect(left, BINDING), market.protect(right, BINDING)]
    np.testing.assert_array_equal(market.reveal(server.aggregate(both)), left + right)
    least = np.full(4, np.iinfo(np.int64).min)
    for bad in (b"123", market.protect(np.full(4, 2**41 + 1), BINDING), market.protect(least, BINDING)):
        with pytest.raises(AggregationError):
            server.check(bad)


@pytest.mark.parametrize("written", [b"", b"\x5e\xa1\x10\x04\x02\x02", b"\x5e\xa1\x10\x04\x03\x01", b"PK\x03\x04zz"])
def test_another_version_of_seal_is_named(written):
    seal_module.refuse_other_versions(b"\x5e\xa1\x10\x04\x03\x02" + bytes(10))
    with pytest.raises(ImportError, match=r"5ea1100403 and 00 or 02 are expected \(SEAL 4.3"):
        seal_module.refuse_other_versions(written)
