"""A server that forges sums, under every kind of aggregation; each forgery was believed before sums had tags.

The positive control is the same forgery before a market that believes what it opens: the carrier without its tag.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.federation.aggregation_plan import AggregationPlan
from privacy.aggregation import (
    Binding,
    CKKSKey,
    CKKSMarket,
    FixedPointCodec,
    ForgedSumError,
    MaskedMarket,
    PlaintextMarket,
    SharedKey,
)
from privacy.aggregation.ckks import _read_sum
from privacy.aggregation.packing import pack_words
from privacy.aggregation.seal import modulus
from tests.parties import acquainted

KINDS = ("plaintext", "ckks", "masked-ckks")
NAMES, LENGTH, BITS = ("a", "b", "c", "d"), 40, 20
BINDING = Binding("run", "quantizer/0", 3, 0, NAMES)


@dataclass
class Federation:
    """Four markets, and what a server can do without a key.

    Attributes:
        carriers: what a market would believe that opens sums and checks no tag.
        updates: what each market sent for ``BINDING``.
    """

    plan: AggregationPlan
    key: SharedKey
    markets: dict
    values: dict
    updates: dict

    @property
    def server(self):
        return self.plan.server()

    @property
    def carrier(self):
        return self.plan._carrier(self.key)

    def sent(self, binding, values=None):
        values = values or self.values
        return {name: self.markets[name].protect(values[name], binding) for name in binding.cohort}

    def believed(self, aggregate):
        """What a market without tags makes of a sum."""
        total = self.carrier.reveal(aggregate)[:LENGTH]
        if self.plan.masked:
            half = 2 ** (self.plan.mask_bits - 1)
            total = (total + half) % (2 * half) - half
        return total


def federation(kind):
    plan = AggregationPlan(kind, LENGTH, len(NAMES), FixedPointCodec(bits=BITS))
    key, masks = plan.generate_key(), acquainted(NAMES)
    rng = np.random.default_rng(0)
    values = {name: rng.integers(-(2**BITS), 2**BITS, LENGTH, endpoint=True) for name in NAMES}
    found = Federation(plan, key, {name: plan.market(key, masks[name]) for name in NAMES}, values, {})
    found.updates = found.sent(BINDING)
    return found


@pytest.fixture(scope="module", params=KINDS)
def four(request):
    return federation(request.param)


def plus(four, vector):
    """A payload that adds ``vector``, which any server can make without a key: a ciphertext's first words are a sum."""
    carried = np.zeros(four.plan.carried, dtype=np.int64)
    carried[: len(vector)] = vector
    return four.carrier.protect(carried, BINDING)


def test_the_honest_sum_is_believed_by_all(four):
    aggregate = four.server.aggregate(list(four.updates.values()))
    for market in four.markets.values():
        np.testing.assert_array_equal(market.reveal(aggregate, BINDING), sum(four.values.values()))


def test_one_markets_update_is_no_sum_of_four(four):
    forged = four.server.aggregate([four.updates["a"]])
    if not four.plan.masked:  # positive control: b would have read a's update
        np.testing.assert_array_equal(four.believed(forged), four.values["a"])
    with pytest.raises(ForgedSumError):
        four.markets["b"].reveal(forged, BINDING)


SUMS = {
    "a subset": ["a", "b", "c"],
    "one in place of another": ["a", "b", "c", "c"],
    "three times one": ["a", "a", "a"],
    "four times one": ["a", "a", "a", "a"],
}


@pytest.mark.parametrize("summands", SUMS.values(), ids=SUMS)
def test_other_summands_are_refused(four, summands):
    forged = four.server.aggregate([four.updates[name] for name in summands])
    if not four.plan.masked:
        np.testing.assert_array_equal(four.believed(forged), sum(four.values[name] for name in summands))
    with pytest.raises(ForgedSumError):
        four.markets["b"].reveal(forged, BINDING)


OTHERS = {
    "round": {"round": 4},
    "attempt": {"attempt": 1},
    "run": {"run": "another"},
    "stage": {"stage": "quantizer/1"},
    "cohort": {"attempt": 1, "cohort": NAMES[:3]},  # no market sends for two cohorts in one attempt
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_an_honest_sum_of_something_else_is_refused(other):
    for kind in KINDS:
        four = federation(kind)
        elsewhere = replace(BINDING, **other)
        replayed = four.server.aggregate(list(four.sent(elsewhere).values()))
        expected = sum(four.values[name] for name in elsewhere.cohort)
        np.testing.assert_array_equal(four.believed(replayed), expected)  # positive control
        np.testing.assert_array_equal(four.markets["b"].reveal(replayed, elsewhere), expected)
        with pytest.raises(ForgedSumError):
            four.markets["b"].reveal(replayed, BINDING)
        honest = four.server.aggregate(list(four.updates.values()))
        with pytest.raises(ForgedSumError):
            four.markets["b"].reveal(honest, elsewhere)


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, LENGTH + 3), by=st.integers(-(2**BITS), 2**BITS).filter(bool))
def test_an_offset_is_refused(four, at, by):
    """Anywhere in the values or in the limbs of the tag."""
    vector = np.zeros(four.plan.carried, dtype=np.int64)
    vector[at] = by
    opened = four.carrier.reveal(four.server.aggregate(list(four.updates.values())))

    class Shifted:
        """A server's influence on what the carrier opens: homomorphic, so any offset is possible."""

        def reveal(self, aggregate):
            return opened + vector

    market = four.markets["b"]
    inner = market._inner if isinstance(market, MaskedMarket) else market
    honest, inner.carrier = inner.carrier, Shifted()
    try:
        with pytest.raises(ForgedSumError):
            market.reveal(b"", BINDING)
    finally:
        inner.carrier = honest


def test_an_offset_that_the_server_adds_to_the_bytes_is_refused(four):
    """No key is needed: the scale is public. The opened sum moves by one, and nobody would know."""
    honest = four.server.aggregate(list(four.updates.values()))
    if four.plan.parameters is None:
        words = np.frombuffer(honest, "<i8").copy()
        words[0] += 1
        forged = words.tobytes()
    else:
        forged = moved_by_one(four, honest)
    expected = sum(four.values.values())
    np.testing.assert_array_equal(four.believed(forged), expected + (np.arange(LENGTH) == 0))  # positive control
    with pytest.raises(ForgedSumError):
        four.markets["b"].reveal(forged, BINDING)


def moved_by_one(four, aggregate):
    parameters, q = four.plan.parameters, modulus(four.plan.parameters)
    ((first, seeds),) = _read_sum(aggregate, parameters, q)
    first = first.copy()
    first[0] = (int(first[0]) + 2**parameters.scale_bits) % q
    return b"".join(seeds) + pack_words(first, parameters.prime_bits)


def test_a_strangers_ciphertext_is_refused(four):
    if four.plan.parameters is None:
        stranger = PlaintextMarket(four.plan.carried)
    else:
        stranger = CKKSMarket(four.plan.parameters, CKKSKey.generate(four.plan.parameters))
    payload = stranger.protect(np.arange(four.plan.carried), BINDING)
    for forged in (
        four.server.aggregate([payload]),
        four.server.aggregate([payload, *list(four.updates.values())[1:]]),
    ):
        with pytest.raises(ForgedSumError):
            four.markets["b"].reveal(forged, BINDING)


def test_a_stranger_with_the_encryption_key_alone_is_refused(four):
    """Whoever took the encryption key encrypts what he likes, and has no tag for it."""
    four_of_it = four.server.aggregate([plus(four, [at, 2, 3]) for at in range(1, 5)])
    assert four.believed(four_of_it)[:3].tolist() == [10, 8, 12]  # positive control
    with pytest.raises(ForgedSumError):
        four.markets["b"].reveal(four_of_it, BINDING)


def test_limbs_that_carry_into_each_other_change_no_sum(four):
    """The tag modulo P stays the same, and so does the sum: what passes is the sum, never another one."""
    opened = four.carrier.reveal(four.server.aggregate(list(four.updates.values())))
    opened[LENGTH] += 2**BITS
    opened[LENGTH + 1] -= 1

    class Carried:
        def reveal(self, aggregate):
            return opened

    market = four.markets["b"]
    inner = market._inner if isinstance(market, MaskedMarket) else market
    honest, inner.carrier = inner.carrier, Carried()
    try:
        np.testing.assert_array_equal(market.reveal(b"", BINDING), sum(four.values.values()))
        opened[LENGTH - 1] += 2**BITS  # a digit that carries out of the values is another sum
        opened[LENGTH] -= 1
        with pytest.raises(ForgedSumError):
            market.reveal(b"", BINDING)
    finally:
        inner.carrier = honest


def test_every_refusal_reads_the_same(four):
    honest = four.server.aggregate(list(four.updates.values()))
    said = set()
    for forged in (
        b"",
        honest[:-1],
        honest + b"\0",
        b"\xff" * len(honest),
        bytes(len(honest)),
        four.server.aggregate([four.updates["a"]]),
    ):
        with pytest.raises(ForgedSumError) as caught:
            four.markets["b"].reveal(forged, BINDING)
        said.add((type(caught.value), str(caught.value)))
    assert len(said) == 1


# -- with a market inside ----------------------------------------------------------------------------------------------


def forged_by_insider(four, wanted):
    """A server with market a: a knows the tag key, so the tag of any sum, and the encryption key."""
    market = four.markets["a"]
    inner = market._inner if isinstance(market, MaskedMarket) else market
    tag = inner.tags.of_sum(wanted, BINDING, inner.masks.digest(NAMES))
    payload = four.carrier.protect(np.concatenate([wanted, inner.tags.split(tag)]), BINDING)
    return four.server.aggregate([payload])


def test_with_a_colluding_market_a_tag_binds_nothing(four):
    wanted = np.arange(LENGTH)
    np.testing.assert_array_equal(four.markets["b"].reveal(forged_by_insider(four, wanted), BINDING), wanted)


def test_with_a_colluding_market_masks_leave_the_sum_of_the_honest_alone():
    """Server and market a open each ciphertext, tag included. Under ``ckks`` that is each update; under masks, noise.

    They are given every other secret of a: its masks with the honest, the tag key, and so the honest markets' tags up
    to their shares. What is left of two honest markets' values are residues that are uniform but for their sum.
    """
    opened = {}
    for kind in ("ckks", "masked-ckks"):
        four = federation(kind)
        carried = {name: four.carrier.reveal(four.server.aggregate([four.updates[name]])) for name in NAMES}
        opened[kind] = four, carried
    four, carried = opened["ckks"]
    for name in NAMES:  # positive control
        np.testing.assert_array_equal(carried[name][:LENGTH], four.values[name])
    four, carried = opened["masked-ckks"]
    bits, colluder = four.plan.mask_bits, four.markets["a"]
    rest = {}
    for name in NAMES[1:]:
        shared = colluder.masks._expand(name, BINDING, LENGTH).astype(np.int64)  # a < name: a adds, the other subtracts
        rest[name] = (carried[name][:LENGTH] + shared) % 2**bits
        assert np.mean(rest[name] == four.values[name] % 2**bits) < 0.1
    for honest in (("b", "c"), ("c", "d"), ("b", "d")):  # no two of three honest ones show through either
        part = sum(rest[name] for name in honest) % 2**bits
        assert np.mean(part == sum(four.values[name] for name in honest) % 2**bits) < 0.1
    total = sum(rest.values()) % 2**bits
    np.testing.assert_array_equal(total, sum(four.values[name] for name in NAMES[1:]) % 2**bits)


def test_under_masks_a_tag_says_nothing_that_the_masked_values_do_not():
    """What the insider finds behind the masked values follows from them, its keys, and a share that is used once."""
    four = federation("masked-ckks")
    carried = four.carrier.reveal(four.server.aggregate([four.updates["b"]]))
    insider = four.markets["a"]._inner
    without_share = insider.tags.tag(carried[:LENGTH], BINDING, "b", insider.masks.digest(NAMES), 0)
    share = (insider.tags.join(carried[LENGTH:]) - without_share) % insider.tags.prime.value
    assert share == four.markets["b"].masks.zero_share(BINDING, insider.tags.prime)
