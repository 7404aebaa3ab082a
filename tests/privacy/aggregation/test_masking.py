from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from privacy.aggregation import (
    AggregationError,
    Binding,
    CKKSKey,
    CKKSMarket,
    CKKSServer,
    ForgedSumError,
    MaskedMarket,
    MaskReuseError,
    PairwiseMasks,
    masked_parameters,
)
from privacy.aggregation.authentication import limb_count
from privacy.aggregation.masking import mask_bits
from tests.parties import LIMB_BITS, acquainted, authenticated

NAMES = ("a", "b", "c", "d", "e")
BOUND, LENGTH = 2**LIMB_BITS, 1500
BITS = mask_bits(len(NAMES), BOUND)


def binding(attempt=0, cohort=NAMES, round=0, run="run", stage="quantizer/0"):
    return Binding(run, stage, round, attempt, cohort)


@pytest.fixture
def federation():
    """Markets, the server, and what the shared encryption key opens: masked values and, behind them, tags."""
    parameters = masked_parameters(length=LENGTH + limb_count(LIMB_BITS), cohort=len(NAMES), bits=BITS)
    carrier, masks = CKKSMarket(parameters, CKKSKey.generate(parameters)), acquainted(NAMES)
    markets = {
        name: MaskedMarket(inner, masks[name], bits=BITS, value_bound=BOUND)
        for name, inner in authenticated(dict.fromkeys(NAMES, carrier), LENGTH, masks).items()
    }
    return markets, CKKSServer(parameters), carrier


def vectors(seed=0, names=NAMES):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-BOUND, BOUND, LENGTH, endpoint=True) for name in names}


def test_the_masks_of_a_cohort_add_up_to_nothing():
    masks = acquainted(NAMES)
    total = sum(own.draw(binding(), LENGTH, BITS) for own in masks.values())
    assert not (total % np.uint64(2**BITS)).any()


def test_the_sum_is_exact(federation):
    markets, server, _ = federation
    for sign in (0, 1, -1):
        values = vectors() if sign == 0 else {name: np.full(LENGTH, sign * BOUND) for name in NAMES}
        updates = [market.protect(values[name], binding(round=2 + sign)) for name, market in markets.items()]
        aggregate = server.aggregate(updates)
        for market in markets.values():
            np.testing.assert_array_equal(market.reveal(aggregate, binding(round=2 + sign)), sum(values.values()))


def test_without_one_of_its_cohort_a_sum_is_noise(federation):
    markets, server, carrier = federation
    values = vectors()
    updates = [markets[name].protect(values[name], binding()) for name in NAMES]
    revealed = carrier.reveal(server.aggregate(updates[:-1]))[:LENGTH]
    part = sum(values[name] for name in NAMES[:-1])
    assert np.mean((revealed - part) % 2**BITS == 0) < 0.01
    with pytest.raises(ForgedSumError):
        markets["a"].reveal(server.aggregate(updates[:-1]), binding())


def test_after_a_dropout_the_others_start_again_with_other_masks(federation):
    markets, server, _ = federation
    values, left = vectors(), NAMES[:-1]
    for name in NAMES:
        markets[name].protect(values[name], binding())
    again = [markets[name].protect(values[name], binding(attempt=1, cohort=left)) for name in left]
    total = markets["a"].reveal(server.aggregate(again), binding(attempt=1, cohort=left))
    np.testing.assert_array_equal(total, sum(values[name] for name in left))


def test_a_mask_is_never_used_twice(federation):
    market, values = federation[0]["a"], vectors()
    market.protect(values["a"], binding())
    for cohort in (NAMES, NAMES[:-1]):
        with pytest.raises(MaskReuseError, match=r"market a, quantizer/0, round 0, attempt 0: this mask has been used"):
            market.protect(values["b"], binding(cohort=cohort))


def test_what_a_ledger_says_was_sent_is_not_masked_again():
    masks = PairwiseMasks("a", X25519PrivateKey.generate(), sent=frozenset({("run", "quantizer/0", 0, 0)}))
    with pytest.raises(MaskReuseError):
        masks.draw(binding(), LENGTH, BITS)


@pytest.mark.parametrize(
    "other", [{"attempt": 1}, {"round": 1}, {"run": "next"}, {"stage": "quantizer/1"}, {"cohort": NAMES[:3]}]
)
def test_whatever_a_mask_is_bound_to_changes_all_of_it(other):
    masks = acquainted(NAMES)["a"]
    fresh = replace(masks, _claimed={})
    first, second = masks.draw(binding(), LENGTH, BITS), fresh.draw(binding(**other), LENGTH, BITS)
    assert np.mean(first == second) < 0.01


def test_a_reused_mask_would_show_the_difference():
    """What the refusal prevents: broken on purpose, the difference of two vectors shows."""
    masks = acquainted(NAMES)["a"]
    values, sent = vectors(), []
    for name in ("a", "b"):
        reused = replace(masks, _claimed={})
        sent.append(values[name].astype(np.uint64) + reused.draw(binding(), LENGTH, BITS))
    difference = (sent[0] - sent[1]) % np.uint64(2**BITS)
    np.testing.assert_array_equal(difference, (values["a"] - values["b"]) % 2**BITS)


def opened_by_colluders(federation, honest, values):
    """What the server and all but two markets make of the two honest ones' ciphertexts: they hold the CKKS key."""
    markets, server, key_holder = federation
    updates = {name: market.protect(values[name], binding()) for name, market in markets.items()}
    return {name: key_holder.reveal(server.aggregate([updates[name]]))[:LENGTH] for name in honest}


def uniform(words, bits=BITS):
    """p-value of uniformity modulo ``2**bits``, and of each of the lowest bits being fair."""
    continuous = (words % 2**bits + 0.5) / 2**bits
    low = [stats.binomtest(int(((words >> bit) & 1).sum()), len(words)).pvalue for bit in range(8)]
    return min(stats.kstest(continuous, "uniform").pvalue, *low)


def test_all_but_two_colluding_markets_learn_the_sum_of_the_two_and_nothing_else(federation):
    """Values that are anything but uniform: zeros and a constant. False alarm 9 x 1e-6 a vector."""
    markets = federation[0]
    values = vectors() | {"b": np.zeros(LENGTH, dtype=np.int64), "d": np.full(LENGTH, 12345)}
    opened = opened_by_colluders(federation, ("b", "d"), values)
    # the colluders subtract the masks that they share with the honest two
    colluders = [name for name in NAMES if name not in opened]
    rest = {}
    for name, words in opened.items():
        left = words.astype(np.uint64)
        for colluder in colluders:
            shared = markets[colluder].masks._expand(name, binding(), LENGTH)
            left = left + shared if colluder < name else left - shared
        rest[name] = (left % np.uint64(2**BITS)).astype(np.int64)
        assert uniform(rest[name]) > 1e-6
        assert uniform(words) > 1e-6
    total = (rest["b"] + rest["d"]) % 2**BITS
    np.testing.assert_array_equal(total, np.full(LENGTH, 12345))


def test_the_uniformity_test_sees_masks_that_are_not_there(federation, monkeypatch):
    monkeypatch.setattr(PairwiseMasks, "_expand", lambda self, other, binding, length: np.zeros(length, np.uint64))
    values = vectors() | {"b": np.zeros(LENGTH, dtype=np.int64)}
    opened = opened_by_colluders(federation, ("b",), values)
    assert uniform(opened["b"]) < 1e-6


def test_with_one_honest_market_there_is_nothing_to_hide_behind(federation):
    """M - 1 colluders: the sum minus their own values is the value; no aggregator prevents that."""
    markets, server, _ = federation
    values = vectors()
    aggregate = server.aggregate([market.protect(values[name], binding()) for name, market in markets.items()])
    found = markets["a"].reveal(aggregate, binding()) - sum(values[name] for name in NAMES if name != "c")
    np.testing.assert_array_equal(found, values["c"])


@pytest.mark.parametrize("cohort", [("a",), ("b", "c"), ("a", "z")])
def test_cohorts_that_cannot_be_masked_are_refused(cohort):
    with pytest.raises(AggregationError, match="cannot be masked"):
        acquainted(NAMES)["a"].draw(binding(cohort=cohort), LENGTH, BITS)


def test_a_public_key_of_low_order_is_refused():
    masks = PairwiseMasks("a", X25519PrivateKey.generate())
    honest = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(AggregationError, match="market b: its mask key"):
        masks.meet({"b": bytes(32), "c": honest})
    masks.meet({"b": honest})


def test_values_out_of_range_are_refused_before_a_mask_is_spent(federation):
    market = federation[0]["a"]
    with pytest.raises(AggregationError, match="exceeds"):
        market.protect(np.full(LENGTH, BOUND + 1), binding())
    market.protect(np.zeros(LENGTH, dtype=np.int64), binding())


def test_a_mask_key_is_not_shown():
    secret = X25519PrivateKey.generate()
    assert "secret" not in repr(PairwiseMasks("a", secret))


def test_the_same_vector_may_be_masked_again_and_no_other():
    """After a failure between masking and sending: the same mask again; another would show the difference."""
    masks = acquainted(NAMES)["a"]
    drawn = masks.draw(binding(), LENGTH, BITS, b"one vector")
    np.testing.assert_array_equal(masks.draw(binding(), LENGTH, BITS, b"one vector"), drawn)
    for another in ((binding(), b"another vector"), (binding(cohort=NAMES[:3]), b"one vector"), (binding(), b"")):
        with pytest.raises(MaskReuseError):
            masks.draw(another[0], LENGTH, BITS, another[1])
