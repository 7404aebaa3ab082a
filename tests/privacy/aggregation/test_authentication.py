"""Tags: exact, linear, unforgeable without the key, silent about single vectors. Small primes are counted out."""

import itertools
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from privacy.aggregation import (
    AggregationError,
    AuthenticatedMarket,
    Binding,
    ForgedSumError,
    MaskReuseError,
    PairwiseMasks,
    PlaintextMarket,
    PlaintextServer,
    SumTags,
)
from privacy.aggregation.authentication import TAG_PRIME, limb_count
from privacy.aggregation.mersenne import MersennePrime
from tests.parties import acquainted, plaintext_markets

P = 2**61 - 1
NAMES = ("a", "b", "c", "d")
BINDING = Binding("run", "quantizer/0", 3, 0, NAMES)
KEY, RUN_KEYS = bytes(range(32)), bytes(32)
SMALL = MersennePrime(7)


class Known(SumTags):
    """Tags whose expansion is given: to count over all of them."""

    def __init__(self, r, pads, limb_bits=4, prime=SMALL):
        super().__init__(KEY, len(r), limb_bits, prime)
        object.__setattr__(self, "expanded", (np.array(r, dtype=np.uint64), list(pads)))

    def _expand(self, binding, run_keys):
        return self.expanded


def reference(values, pad, share, r):
    """A tag by Python's integers."""
    return (sum(int(a) * int(b) for a, b in zip(r, values, strict=True)) + pad + share) % P


@given(
    st.lists(st.integers(-(2**40), 2**40) | st.sampled_from([-(2**40), 2**40]), min_size=1, max_size=30),
    st.integers(0, P - 1),
    st.integers(4, 30),
)
def test_tags_are_those_of_python_integers(values, share, bits):
    tags = SumTags(KEY, len(values), bits)
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedmm-secure tag\0" + RUN_KEYS + BINDING.context)
    drawn = (
        Cipher(algorithms.ChaCha20(key.derive(KEY), bytes(16)), None).encryptor().update(bytes(128 + 8 * len(values)))
    )
    pads = [int.from_bytes(drawn[32 * at : 32 * at + 32], "big") % P for at in range(4)]
    r = [int.from_bytes(drawn[128 + 8 * at : 136 + 8 * at], "little") % P for at in range(len(values))]
    vector = np.array(values, dtype=np.int64)
    tag = tags.tag(vector, BINDING, "c", RUN_KEYS, share)
    assert tag == reference(values, pads[2], share, r)
    assert tags.of_sum(vector, BINDING, RUN_KEYS) == reference(values, sum(pads), 0, r)
    limbs = tags.split(tag)
    assert limbs.min() >= 0
    assert limbs.max() < 2**bits
    assert tags.join(limbs) == tag


@given(st.lists(st.integers(0, P - 1), min_size=1, max_size=8), st.integers(4, 30))
def test_limbs_add_up_to_the_tag_of_the_sum(found, bits):
    tags = SumTags(KEY, 1, bits)
    assert tags.join(np.sum([tags.split(tag) for tag in found], axis=0)) == sum(found) % P


def test_twenty_bits_take_four_values():
    assert [limb_count(bits) for bits in (4, 8, 16, 20, 21, 30)] == [16, 8, 4, 4, 3, 3]


@pytest.mark.parametrize(
    "other",
    [
        {"run": "next"},
        {"stage": "quantizer/1"},
        {"round": 4},
        {"attempt": 1},
        {"cohort": NAMES[:3]},
        {"cohort": (*NAMES, "e")},
    ],
)
def test_whatever_a_tag_is_bound_to_changes_all_of_it(other):
    tags = SumTags(KEY, 50, 20)
    r, pads = tags._expand(BINDING, RUN_KEYS)
    for changed in (tags._expand(replace(BINDING, **other), RUN_KEYS), tags._expand(BINDING, sha256().digest())):
        assert not set(r.tolist()) & set(changed[0].tolist())
        assert not set(pads) & set(changed[1])


def test_bindings_that_would_read_the_same_have_different_contexts():
    base = Binding("r", "s", 1, 2, ("a", "bc"))
    others = [
        Binding("r", "s", 1, 2, ("ab", "c")),
        Binding("r", "s", 1, 2, ("abc",)),
        Binding("rs", "", 1, 2, ("a", "bc")),
        Binding("r", "s", 12, 0, ("a", "bc")),
        Binding("r", "s", 1, 2, ("a", "bc", "")),
    ]
    assert len({one.context for one in (base, *others)}) == 6


# -- forgery, counted over every r and every pad of a small prime ------------------------------------------------------

PRIME = MersennePrime(3)
R = range(PRIME.value)


def passes(tags, total, found):
    """What ``AuthenticatedMarket.reveal`` asks."""
    return tags.of_sum(np.array(total), BINDING, RUN_KEYS) == found


STRATEGIES = {
    "an offset": lambda v, t: ([v[0][0] + v[1][0] + 1, v[0][1] + v[1][1]], sum(t)),
    "an offset of values and tag": lambda v, t: ([v[0][0] + v[1][0] + 1, v[0][1] + v[1][1] - 2], sum(t) + 7),
    "one market alone": lambda v, t: (v[0], t[0]),
    "one market twice": lambda v, t: ([2 * x for x in v[0]], 2 * t[0]),
    "a multiple": lambda v, t: ([3 * (x + y) for x, y in zip(*v, strict=True)], 3 * sum(t)),
    "nothing": lambda v, t: ([0, 0], 0),
    "a function of the tags": lambda v, t: ([t[0], t[1] % 5 + 3], t[0] * t[1]),  # never the sum itself
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_exactly_one_forgery_in_the_prime_passes(strategy):
    """Whatever the server computes, of all keys that explain what it saw, one in P lets it pass: counted."""
    vectors = ([3, -2], [1, 4])
    passed, seen = 0, Counter()
    for r in itertools.product(R, repeat=2):
        for pads in itertools.product(R, repeat=2):
            tags = Known(r, pads, prime=PRIME)
            plain = [
                tags.prime.dot(tags.expanded[0], PRIME.of_integers(np.array(vector))) + pad
                for vector, pad in zip(vectors, pads, strict=True)
            ]
            sent = [tag % PRIME.value for tag in plain]
            seen[tuple(sent)] += 1
            total, found = strategy(vectors, sent)
            passed += passes(tags, total, found % PRIME.value)
    assert passed * PRIME.value == PRIME.value**4  # exactly one in P
    assert set(seen.values()) == {PRIME.value**2}  # tags are uniform, and every r explains each of them once


def test_the_count_sees_a_check_that_is_broken():
    """Positive control: tags without pads, or a fixed r, let a server pass that uses what it sees."""
    vectors = ([3, -2], [1, 4])
    replayed = multiples = 0
    for r in itertools.product(R, repeat=2):
        tags = Known(r, (0, 0), prime=PRIME)
        sent = [PRIME.dot(tags.expanded[0], PRIME.of_integers(np.array(one))) for one in vectors]
        replayed += passes(tags, vectors[0], sent[0])
        multiples += passes(tags, [2 * x for x in vectors[0]], 2 * sent[0] % PRIME.value)
    assert replayed == multiples == PRIME.value**2  # always, instead of one in P


def test_a_difference_that_is_a_multiple_of_the_prime_is_out_of_range():
    """The tag cannot see it, so the range does: plain 64-bit integers could carry it."""
    markets = plaintext_markets(3, NAMES)
    values = {name: np.array([at, -at, 7]) for at, name in enumerate(NAMES)}
    server = PlaintextServer(7, 2**62)
    sent = [market.protect(values[name], BINDING) for name, market in markets.items()]
    honest = np.frombuffer(server.aggregate(sent), "<i8")
    np.testing.assert_array_equal(markets["a"].reveal(honest.tobytes(), BINDING), sum(values.values()))
    for multiple in (P, -P, 2 * P, -3 * P):
        forged = honest.copy()
        forged[0] += multiple
        tags = markets["a"].tags
        digest = markets["a"].masks.digest(NAMES)
        assert tags.of_sum(forged[:3], BINDING, digest) == tags.join(forged[3:])
        with pytest.raises(ForgedSumError):
            markets["a"].reveal(forged.tobytes(), BINDING)


# -- what the limbs' sums say, counted over every share of a small prime -----------------------------------------------


def limb_sums(vectors, r, pads, shares):
    """Sums of limbs that a market sees."""
    tags = Known(r, pads, limb_bits=4)
    found = [
        tags.split((SMALL.dot(tags.expanded[0], SMALL.of_integers(np.array(vector))) + pad + share) % SMALL.value)
        for vector, pad, share in zip(vectors, pads, shares, strict=True)
    ]
    return tuple(np.sum(found, axis=0).tolist())


def test_sums_of_limbs_depend_on_the_sum_alone():
    """All shares that add up to nothing, for pairs of vectors of the same sum: the same counts of what is seen."""
    r, pads = (5, 100), (17, 90)
    counts = [
        Counter(limb_sums(vectors, r, pads, (share, -share)) for share in range(SMALL.value))
        for vectors in (([3, 4], [6, 0]), ([9, 4], [0, 0]), ([-40, 50], [49, -46]))
    ]
    assert counts[0] == counts[1] == counts[2]
    assert len(counts[0]) > 1


def test_without_shares_that_add_up_to_nothing_the_limbs_would_tell():
    """Positive control: what the shares are for. Another split of the same sum carries elsewhere."""
    r, pads = (5, 100), (17, 90)
    seen = {limb_sums(vectors, r, pads, (0, 0)) for vectors in (([3, 4], [6, 0]), ([9, 4], [0, 0]), ([0, 4], [9, 0]))}
    assert len(seen) > 1


def test_shares_of_a_cohort_add_up_to_nothing_and_those_of_a_part_do_not():
    masks = acquainted(NAMES)
    shares = [masks[name].zero_share(BINDING, TAG_PRIME) for name in NAMES]
    assert sum(shares) % P == 0
    assert len(set(shares)) == 4
    assert sum(shares[:3]) % P != 0
    again = [masks[name].zero_share(replace(BINDING, round=4), TAG_PRIME) for name in NAMES]
    assert sum(again) % P == 0
    assert not set(again) & set(shares)


def test_a_market_alone_has_nothing_to_share():
    assert acquainted("a")["a"].zero_share(replace(BINDING, cohort=("a",)), TAG_PRIME) == 0


# -- markets -----------------------------------------------------------------------------------------------------------


def test_two_vectors_never_have_tags_of_one_binding():
    """Their tags' difference is an equation that r solves: the same vector again is fine, any other is refused."""
    market = plaintext_markets(3, NAMES)["a"]
    first = market.protect(np.array([1, 2, 3]), BINDING)
    assert market.protect(np.array([1, 2, 3]), BINDING) == first
    for values, binding in (([1, 2, 4], BINDING), ([1, 2, 3], replace(BINDING, cohort=NAMES[:3]))):
        with pytest.raises(MaskReuseError, match="this tag has been used"):
            market.protect(np.array(values), binding)
    market.protect(np.array([1, 2, 4]), replace(BINDING, attempt=1))


def test_what_a_ledger_says_was_sent_gets_no_second_tag():
    market = plaintext_markets(3, NAMES)["a"]
    market.masks.sent = frozenset({("run", "quantizer/0", 3, 0)})
    with pytest.raises(MaskReuseError):
        market.protect(np.array([1, 2, 3]), BINDING)


def test_two_tags_of_one_binding_would_be_enough_to_forge():
    """What the refusal prevents: broken on purpose, the server adds the difference of two vectors to a sum."""
    markets = plaintext_markets(3, NAMES)
    sent = {name: np.frombuffer(market.protect(np.arange(3), BINDING), "<i8") for name, market in markets.items()}
    markets["a"].masks._claimed.clear()
    again = np.frombuffer(markets["a"].protect(np.array([9, 9, 9]), BINDING), "<i8")
    tags, honest = markets["a"].tags, sum(sent.values())
    tag = (tags.join(honest[3:]) + 5 * (tags.join(again[3:]) - tags.join(sent["a"][3:]))) % P
    forged = np.concatenate([honest[:3] + 5 * (again[:3] - sent["a"][:3]), tags.split(tag)])
    np.testing.assert_array_equal(markets["b"].reveal(forged.tobytes(), BINDING), forged[:3])


def test_a_copy_that_goes_on_has_tags_of_its_own():
    """Another course of the same run has other mask keys, so its sums are no sums of this one."""
    first, copy = plaintext_markets(3, NAMES), plaintext_markets(3, NAMES)
    server = PlaintextServer(7, 2**20)
    aggregate = server.aggregate([market.protect(np.arange(3), BINDING) for market in first.values()])
    assert first["a"].reveal(aggregate, BINDING).tolist() == [0, 4, 8]
    with pytest.raises(ForgedSumError):
        copy["a"].reveal(aggregate, BINDING)


def test_a_market_that_was_left_out_believes_the_sum_of_the_others():
    markets, binding = plaintext_markets(3, NAMES), replace(BINDING, cohort=NAMES[:3])
    sent = [markets[name].protect(np.arange(3), binding) for name in binding.cohort]
    aggregate = PlaintextServer(7, 2**20).aggregate(sent)
    assert markets["d"].reveal(aggregate, binding).tolist() == [0, 3, 6]
    with pytest.raises(AggregationError, match="cannot be masked"):
        markets["d"].protect(np.arange(3), binding)


def test_every_failure_has_the_same_words_and_does_the_same_work(monkeypatch):
    markets, server = plaintext_markets(3, NAMES), PlaintextServer(7, 2**20)
    aggregate = server.aggregate([market.protect(np.arange(3), BINDING) for market in markets.values()])
    computed = []
    of_sum = SumTags.of_sum
    monkeypatch.setattr(SumTags, "of_sum", lambda *arguments: computed.append(1) or of_sum(*arguments))

    class Broken:
        def reveal(self, aggregate):
            raise MemoryError("a reason that must not be told")

    bad = [b"", aggregate[:-1], aggregate + bytes(8), bytes(len(aggregate)), b"\xff" * len(aggregate)]
    said = set()
    for payload in bad:
        with pytest.raises(ForgedSumError) as caught:
            markets["a"].reveal(payload, BINDING)
        said.add(str(caught.value))
    broken = AuthenticatedMarket(Broken(), markets["a"].tags, markets["a"].masks)
    with pytest.raises(ForgedSumError) as caught:
        broken.reveal(aggregate, BINDING)
    said.add(str(caught.value))
    with pytest.raises(ForgedSumError) as caught:
        markets["a"].reveal(aggregate, replace(BINDING, cohort=("a", "nobody")))
    said.add(str(caught.value))
    assert len(said) == 1
    assert len(computed) == len(bad) + 2


def test_values_out_of_the_tags_range_are_refused():
    market = plaintext_markets(3, NAMES)["a"]
    for values in ([2**60, 0, 0], [0, -(2**60), 0], [1, 2], [1, 2, 3, 4]):
        with pytest.raises(AggregationError, match="were expected"):
            market.protect(np.array(values), BINDING)
    market.protect(np.array([2**60 - 1, 0, 1 - 2**60]), BINDING)


def test_a_norm_bound_leaves_the_tag_out():
    server = PlaintextServer(7, 2**20, norm_bound=5.0, tag_values=4)
    markets = plaintext_markets(3, NAMES)
    server.check(markets["a"].protect(np.array([3, 4, 0]), BINDING))
    with pytest.raises(AggregationError, match="norm of"):
        server.check(markets["b"].protect(np.array([3, 4, 5]), BINDING))


def test_no_tag_key_is_shown():
    tags = SumTags(KEY, 3, 20)
    assert KEY.hex() not in repr(tags)
    assert "key" not in repr(tags)


def test_strangers_cannot_be_tagged_for():
    masks = PairwiseMasks("a", X25519PrivateKey.generate())
    market = AuthenticatedMarket(PlaintextMarket(7), SumTags(KEY, 3, 20), masks)
    with pytest.raises(AggregationError, match="cohort a, b, c, d: cannot be masked by market a"):
        market.ready(NAMES)
    market.ready(("a",))
