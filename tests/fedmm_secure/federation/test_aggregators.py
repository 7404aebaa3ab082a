"""The contract of an aggregator: every kind of aggregation meets it, a new one as soon as it stands in the table."""

import numpy as np
import pytest

from fedmm_secure.federation.aggregation_plan import AggregationPlan
from privacy.aggregation import AggregationError, Binding, FixedPointCodec, ForgedSumError
from privacy.aggregation.kinds import TRAITS
from tests.parties import acquainted

NAMES = ("a", "b", "c")
LENGTH = 24


class Federation:
    """Markets and a server of one kind; each binding is used once."""

    def __init__(self, kind):
        self.plan = AggregationPlan(kind, LENGTH, len(NAMES), FixedPointCodec(1.0, 16))
        key, masks = self.plan.generate_key(), acquainted(NAMES)
        self.markets = {name: self.plan.market(key, masks[name]) for name in NAMES}
        self.server = self.plan.server()
        self.round = 0

    def binding(self, cohort=NAMES):
        self.round += 1
        return Binding("run", "quantizer/0", self.round, 0, cohort)

    def protected(self, values, binding):
        return [self.markets[name].protect(own, binding) for name, own in zip(NAMES, values, strict=True)]


@pytest.fixture(scope="module", params=TRAITS)
def federation(request):
    return Federation(request.param)


def vectors(seed, bound=2**16):
    return np.random.default_rng(seed).integers(-bound, bound + 1, (len(NAMES), LENGTH))


@pytest.mark.parametrize(
    "values", [vectors(0), vectors(1, 0), np.full((3, LENGTH), 2**16), np.full((3, LENGTH), -(2**16))]
)
def test_the_sum_is_exact_for_every_market(federation, values):
    binding = federation.binding()
    total = federation.server.aggregate(federation.protected(values, binding))
    for market in federation.markets.values():
        np.testing.assert_array_equal(market.reveal(total, binding), values.sum(axis=0))


def test_sizes_are_what_the_server_says_and_depend_on_no_value(federation):
    for values in (vectors(2), vectors(3, 0)):
        payloads = federation.protected(values, federation.binding())
        assert {len(payload) for payload in payloads} == {federation.server.update_bytes}
        assert len(federation.server.aggregate(payloads)) == federation.server.aggregate_bytes


def test_a_value_out_of_range_is_refused_before_it_travels(federation):
    with pytest.raises(AggregationError):
        federation.markets["a"].protect(np.full(LENGTH, 2**62), federation.binding())


def test_so_is_a_vector_of_another_length(federation):
    with pytest.raises(AggregationError):
        federation.markets["a"].protect(np.zeros(LENGTH + 1, dtype=np.int64), federation.binding())


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_what_is_no_update_is_refused_by_the_server(federation, change):
    payloads = federation.protected(vectors(4), federation.binding())
    federation.server.check(payloads[0])
    with pytest.raises(AggregationError):
        federation.server.check(change(payloads[0]))
    with pytest.raises(AggregationError):
        federation.server.aggregate([change(payloads[0]), *payloads[1:]])


def test_a_sum_of_another_round_is_not_believed(federation):
    one, other = federation.binding(), federation.binding()
    total = federation.server.aggregate(federation.protected(vectors(5), one))
    with pytest.raises(ForgedSumError):
        federation.markets["a"].reveal(total, other)


def test_a_sum_that_lacks_a_market_is_not_believed(federation):
    binding = federation.binding()
    payloads = federation.protected(vectors(6), binding)
    with pytest.raises(AggregationError):
        federation.markets["a"].reveal(federation.server.aggregate(payloads[:-1]), binding)


def test_a_market_counted_twice_is_not_believed(federation):
    binding = federation.binding()
    first, second, _ = federation.protected(vectors(7), binding)
    with pytest.raises(AggregationError):
        federation.markets["a"].reveal(federation.server.aggregate([first, second, second]), binding)


def test_a_changed_bit_is_not_believed(federation):
    binding = federation.binding()
    total = bytearray(federation.server.aggregate(federation.protected(vectors(8), binding)))
    total[-40] ^= 1
    with pytest.raises(ForgedSumError):
        federation.markets["b"].reveal(bytes(total), binding)


def test_what_the_server_can_read_is_what_the_traits_say(federation):
    """Positive control: in the clear, an update holds its values as they are."""
    values = vectors(9)
    payload = federation.protected(values, federation.binding())[0]
    assert (values[0].astype("<i8").tobytes() in payload) == TRAITS[federation.plan.kind].server_reads_updates


def test_a_sum_over_part_of_the_markets_is_exact_too(federation):
    """Whether markets agree to one is for the federation, which asks the traits."""
    part, values = NAMES[:2], vectors(10)[:2]
    markets, binding = federation.markets, federation.binding(part)
    payloads = [markets[name].protect(own, binding) for name, own in zip(part, values, strict=True)]
    np.testing.assert_array_equal(
        markets["b"].reveal(federation.server.aggregate(payloads), binding), values.sum(axis=0)
    )
