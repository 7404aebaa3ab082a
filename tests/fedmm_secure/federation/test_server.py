import numpy as np
import pytest

from fedmm_secure.federation.messages import Header, Hello, hello_header, pack, unpack, verify
from fedmm_secure.federation.orders import Absence, Order, Statement
from fedmm_secure.federation.server import AggregationServer, CohortTooSmallError
from fedmm_secure.federation.transcript import Transcript
from privacy.aggregation import Binding, FixedPointCodec, PlaintextMarket, PlaintextServer
from privacy.aggregation.bundle import SERVER
from tests.parties import MARKETS, START, Agreeing, bundle, identity

CODEC = FixedPointCodec()


def make_server(directory, min_cohort=3):
    server = AggregationServer(
        run="run",
        start=START,
        bundle=bundle(),
        identity=identity(SERVER),
        min_cohort=min_cohort,
        aggregator=PlaintextServer(2, 2**20),
        transcript=Transcript(directory / "transcript"),
        state=directory / "state",
    )
    server.welcome({market: hello(market) for market in MARKETS})
    return server


@pytest.fixture
def server(tmp_path):
    return make_server(tmp_path)


def update(market, values, *, round=0, run="run", parameters=None, attempt=0, cohort=MARKETS, signer=None, raw=None):
    integers = CODEC.encode(np.asarray(values, dtype=float)) if raw is None else raw
    payload = PlaintextMarket(2).protect(integers, Binding(run, "s", round, attempt, cohort))
    header = Header("update", run, "s", round, attempt, market, parameters or bundle().digest, cohort)
    return pack(header, payload, identity(signer or market).sign)


def four(**options):
    return {market: update(market, [0.1 * i, 0.5], **options) for i, market in enumerate(MARKETS)}


def answer(server, replies):
    """Honest replies to every attempt, but for what is given of the first."""

    def update(order):
        honest = four(attempt=order.attempt, cohort=order.cohort)
        return {market: honest[market] for market in order.cohort} | (replies if order.attempt == 0 else {})

    return Agreeing(server, update)


OUT_OF_RANGE = np.array([2**20 + 1, 0])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update("d", [0, 0], round=7), "round is 7"),
        (update("d", [0, 0], run="other"), "run is 'other'"),
        (update("d", [0, 0], parameters="q"), "parameters"),
        (update("d", [0, 0], attempt=1), "attempt is 1"),
        (update("d", [0, 0], cohort=MARKETS[1:]), "cohort is"),
        (update("a", [0, 0]), "sender is 'a'"),
        (update("d", [0, 0], signer="a"), "not signed by d"),
        (update("d", [0, 0], raw=OUT_OF_RANGE), "outside ±1048576"),
        (b"", "truncated"),
        (update("d", [0, 0])[:-1], "not signed by d"),
        (update("d", [0.0, 0.5]), "the same payload as another market's"),  # what market a sends
        (Absence("no answer in time"), "no answer in time"),
    ],
)
def test_a_bad_update_is_left_out_and_named_and_the_round_goes_on(server, bad, reason):
    result = server.run_round("s", 0, MARKETS, answer(server, {"d": bad}))
    assert result.cohort == ("a", "b", "c")
    (rejection,) = result.rejections
    assert (rejection.market, rejection.round) == ("d", 0)
    assert reason in rejection.reason
    header, payload = verify(result.message, identity(SERVER).card)
    assert header.cohort == ("a", "b", "c")
    expected = sum(CODEC.encode(np.array([0.1 * i, 0.5])) for i in range(3))
    np.testing.assert_array_equal(PlaintextMarket(2).reveal(payload), expected)


def test_a_stranger_is_left_out(server):
    result = server.run_round("s", 0, MARKETS, answer(server, {"mallory": update("a", [1, 1])}))
    assert result.cohort == MARKETS
    assert [found.market for found in result.rejections] == ["mallory"]


def test_below_the_minimum_cohort_the_round_stops_and_nothing_is_recorded(server, tmp_path):
    with pytest.raises(CohortTooSmallError, match=r"2 valid updates, 3 are needed .*c: .*d: "):
        server.run_round("s", 0, MARKETS, answer(server, {"c": b"junk", "d": b""}))
    kinds = {record.kind for record in Transcript(tmp_path / "transcript").records}
    assert kinds == {"start", "hello", "statement", "update"}


def test_a_round_that_lacks_a_market_starts_again_with_fewer(server):
    orders = []

    def collect(order):
        orders.append(order)
        replies = four(attempt=order.attempt, cohort=order.cohort)
        return {market: replies[market] for market in order.cohort if market != "d"}

    result = server.run_round("s", 0, MARKETS, Agreeing(server, collect))
    assert orders == [Order("s", 0, 0, MARKETS), Order("s", 0, 1, MARKETS[:3])]
    assert result.cohort == MARKETS[:3]
    assert unpack(result.message)[0].attempt == 1


def test_nobody_is_asked_for_an_update_before_all_have_stated_the_same(server):
    asked = []

    class Silent(Agreeing):
        def state(self, order):
            found = super().state(order)
            if "d" in order.cohort:
                other = Statement(order, bytes(32))  # of one who has seen another history
                found["d"] = pack(other.header("run", "d", bundle().digest), bytes(32), identity("d").sign)
            return found

    def update(order):
        asked.append(order)
        sent = four(attempt=order.attempt, cohort=order.cohort)
        return {market: sent[market] for market in order.cohort}

    result = server.run_round("s", 0, MARKETS, Silent(server, update))
    assert [order.cohort for order in asked] == [MARKETS[:3]]
    assert [found.reason for found in result.rejections] == ["market d states another history of the run"]


def test_where_nobody_may_be_missing_the_run_stops_and_says_how_to_go_on(tmp_path):
    server = make_server(tmp_path, min_cohort=4)
    with pytest.raises(CohortTooSmallError, match=r"go on with this run once d is back, or make keys without it"):
        server.run_round("s", 0, MARKETS, answer(server, {"d": Absence("no answer in time")}))
    again = make_server(tmp_path, min_cohort=4)  # the same order, once it is back
    assert again.run_round("s", 0, MARKETS, answer(again, {})).cohort == MARKETS


def test_a_restarted_server_asks_for_the_attempt_that_it_was_at(tmp_path):
    def killed(order):
        if order.attempt == 1:
            raise KeyboardInterrupt
        return {market: message for market, message in four().items() if market != "d"}

    server = make_server(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        server.run_round("s", 0, MARKETS, Agreeing(server, killed))
    orders = []

    def collect(order):
        orders.append(order)
        return four(attempt=order.attempt, cohort=order.cohort)

    again = make_server(tmp_path)
    replies = again.run_round("s", 0, MARKETS, Agreeing(again, collect))
    assert orders == [Order("s", 0, 1, MARKETS[:3])]
    assert replies.cohort == MARKETS[:3]


def test_who_takes_part_is_fixed_when_the_first_round_begins(tmp_path):
    server = make_server(tmp_path)
    server.run_round("s", 0, MARKETS, answer(server, {}))
    again = make_server(tmp_path)
    _, (rejected,) = again.welcome({"d": hello("d", mask_key=b"\2" * 32)})
    assert rejected.reason == "was not there, or was another, when the run began"
    assert again.hellos == server.hellos


def hello(market, configuration=bytes(32), signer=None, run="run", mask_key=bytes(range(32))):
    header = hello_header(run, market, bundle().digest)
    return pack(header, Hello(mask_key, configuration).to_bytes(), identity(signer or market).sign)


def test_only_the_markets_of_the_bundle_with_the_same_configuration_are_welcome(server):
    hellos = {
        "a": hello("a"),
        "b": hello("b", signer="a"),
        "c": hello("c", configuration=b"\1" * 32),
        "d": hello("d", run="other"),
        "mallory": hello("a"),
    }
    welcome, rejections = server.welcome(hellos)
    assert list(welcome) == ["a"]
    reasons = {found.market: found.reason for found in rejections}
    assert reasons["b"] == "not signed by b"
    assert reasons["c"] == "runs another configuration"
    assert "run is 'other'" in reasons["d"]
    assert reasons["mallory"] == "not a market of this federation"
