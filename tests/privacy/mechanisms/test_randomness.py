"""Private randomness: exact draws from a stream cipher, one key for each purpose."""

import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.mechanisms import randomness
from privacy.mechanisms.randomness import NoiseSource


def source(seed=0):
    return NoiseSource.from_seed(seed)


class Scripted(NoiseSource):
    """Words as the test wants them."""

    def __init__(self, words):
        super().__init__(bytes(32), seeded=True)
        self.given = list(words)

    def words(self, count):
        found, self.given = self.given[:count], self.given[count:]
        return np.array(found, dtype=np.uint64)


def test_the_stream_is_chacha20_of_the_key():
    key = bytes(range(32))
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(80))
    own = NoiseSource(key, seeded=True)
    assert np.concatenate([own.words(3), own.words(7)]).tobytes() == stream


def test_rfc_8439_test_vector():
    """Appendix A.1, vector 1: an all-zero key, nonce and counter."""
    wanted = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert NoiseSource(bytes(32), seeded=True).words(4).tobytes().hex() == wanted


def test_purposes_have_streams_of_their_own_and_order_does_not_matter():
    root = source()
    names = [(), ("noise",), ("sampling",), ("noise", 0), ("noise", 1), ("noise0",), ("no", "ise"), ("negatives", 0)]
    streams = [root.derive(*name).words(4).tobytes() for name in names]
    assert len(set(streams)) == len(names)
    root.words(100)  # what was drawn before changes no derived stream
    assert [root.derive(*name).words(4).tobytes() for name in names] == streams


def test_a_key_is_of_the_operating_system_and_all_of_it_counts():
    left, right = NoiseSource.from_entropy(), NoiseSource.from_entropy()
    assert not left.seeded
    assert not left.derive("noise").seeded
    assert source().derive("noise").seeded
    assert left.words(4).tolist() != right.words(4).tolist()
    # a seed of more than 32 bits, and every bit of a key, changes the stream
    assert source(1).words(2).tolist() != source(1 + 2**32).words(2).tolist()
    base = bytes(32)
    flipped = [bytes(base[:i]) + bytes([1 << b]) + base[i + 1 :] for i in range(32) for b in (0, 7)]
    assert len({NoiseSource(key, seeded=True).words(2).tobytes() for key in [base, *flipped]}) == 65


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_keys_of_another_length_are_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseSource(bytes(length), seeded=False)


def test_a_source_is_neither_copied_nor_sent_nor_shown():
    with pytest.raises(TypeError, match="neither copied nor sent"):
        pickle.dumps(source())
    assert "key" not in repr(source()).lower()


def test_one_key_serves_a_bounded_stream(monkeypatch):
    monkeypatch.setattr(randomness, "_MOST_BYTES", 80)
    own = source()
    own.words(10)
    with pytest.raises(RuntimeError, match="derive another"):
        own.words(1)


@pytest.mark.parametrize("probability", [0.0, 2.0**-64, 0.2, 0.5, 1 - 2.0**-53, 1.0])
def test_coins_are_true_below_the_exact_threshold(probability):
    threshold = int(probability * 2**64)
    words = [w for w in (0, threshold - 1, threshold, threshold + 1, 2**64 - 1) if 0 <= w < 2**64]
    assert Scripted(words).coins(probability, len(words)).tolist() == [w < threshold for w in words]
    assert threshold <= probability * 2**64


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match="not a probability"):
        source().coins(probability, 1)


@given(st.integers(1, 2**62), st.lists(st.integers(0, 2**64 - 1), min_size=30, max_size=30))
@settings(max_examples=200, deadline=None)
def test_integers_take_words_below_a_multiple_of_the_bound_and_redraw_the_rest(bound, words):
    """Exactly uniform: as many words lead to each value."""
    limit = 2**64 // bound * bound
    accepted = [w for w in words if w < limit]
    if not accepted:
        return
    found = Scripted([*words, *([0] * 100)]).integers(bound, 1)
    assert found[0] == accepted[0] % bound
    assert limit % bound == 0


def test_integers_redraw_in_place():
    bound = 2**62
    high = 3 * 2**62 + 2**61  # 2^64 is a multiple of 2^62: nothing is late
    assert Scripted([high]).integers(bound, 1)[0] == high % bound
    late = 2**64 - 1  # of 3, one word is left over
    assert Scripted([late, 7, late, 5]).integers(3, 2).tolist() == [5 % 3, 7 % 3]


@pytest.mark.parametrize("bound", [0, -1, 2**62 + 1])
def test_bounds_out_of_range_are_refused(bound):
    with pytest.raises(ValueError, match="bound"):
        source().integers(bound, 1)


def test_uniforms_are_multiples_of_two_to_the_minus_53_below_one():
    values = source().uniforms(10_000)
    assert ((values * 2**53) % 1 == 0).all()
    assert 0 <= values.min() < values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    assert Scripted([2**64 - 1]).uniforms(1)[0] == 1 - 2.0**-53


def test_noise_and_spare_are_one_draw():
    values, spare = source(3).gaussian_with_spare(5, 4)
    np.testing.assert_array_equal(np.concatenate([values, spare]), source(3).discrete_gaussian(9))
