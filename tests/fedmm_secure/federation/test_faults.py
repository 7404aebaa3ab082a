"""What comes of a market that fails or cheats, and of a server that is killed, with the in-process engine."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.in_process import MarketLostError, connect, run_rounds
from fedmm_secure.federation.messages import MessageError, pack, unpack
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.parties import make_clients, open_federation
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.server import CohortTooSmallError
from fedmm_secure.federation.transcript import Transcript
from privacy.accounting.ledger import read_ledger
from privacy.aggregation import AggregationError, ForgedSumError
from tests import faults
from tests.faults import AGAIN, COUNTED, EXPECTED, FAULTS, KINDS, STOPPED, WAITS
from tests.parties import agree

STAGE, ROUNDS, FAULTY_ROUND, FAULTY = "quantizer/0", 3, 1, "m3"
TIMEOUT = 1.0  # what others take is a tenth of it


def configuration(kind, markets=4):
    return faults.configuration(kind, markets, federation={"round_timeout": TIMEOUT})


@cache
def four_markets():
    return prepare_markets(configuration("ckks").data)


@cache
def embedding_of(market):
    return fit_embedding(four_markets()[market], configuration("ckks").embedding)


@pytest.fixture
def markets():
    return dict(four_markets())


@pytest.fixture(autouse=True)
def nobody_hangs_for_ever():
    yield
    faults.let_go()


@dataclass
class Run:
    federation: object
    clients: list
    server: object
    rejections: dict

    @classmethod
    def open(cls, config, markets, directory):
        federation = open_federation(config, markets, directory)
        embeddings = {name: embedding_of(name) for name in markets}
        clients = make_clients(federation, 0, embeddings, {})
        return cls(federation, clients, connect(federation), {})

    def rounds(self):
        def on_round(round, rejections):
            self.rejections[round] = rejections

        timeout = self.federation.config.federation.round_timeout
        run_rounds(STAGE, ROUNDS, self.clients, self.server, self.federation.transcript, on_round, timeout)

    def codebook(self, market="m0"):
        client = next(client for client in self.clients if client.plan.market == market)
        return client.trainer.model.global_codebook.codewords.detach().clone()


def inject(run, fault):
    """One market fails in one round, and is honest again afterwards."""
    client = next(client for client in run.clients if client.plan.market == FAULTY)

    def local_update(order, send):
        if order.round == FAULTY_ROUND and FAULTY in order.cohort:
            FAULTS[fault](client, order, send)
        else:
            type(client).local_update(client, order, send)

    client.local_update = local_update


def check_invariants(directory):
    """No wrong aggregate, and no message that the ledger lacks; the cohorts of the rounds that were released."""
    transcript = Transcript(directory / "transcript")
    own = {}
    for kept in (PrivateRecord(directory, path.stem).transcript for path in (directory / "ledger").iterdir()):
        for record in kept.records:
            own[record.round, record.attempt, record.sender] = np.frombuffer(kept.read(record), "<i8")
    for record in transcript.records:
        data = (transcript.directory / record.file).read_bytes()
        if record.kind == "update":
            ledger = read_ledger(directory / "ledger" / f"{record.sender}.jsonl")
            assert hashlib.sha256(data).hexdigest() in ledger.released
    cohorts = []
    for round in range(ROUNDS):
        message = transcript.find(kind="aggregate", stage=STAGE, round=round, sender="server")
        if message is None:
            continue
        header, _ = unpack(message)
        cohorts.append((header.cohort, header.attempt))
        revealed = np.frombuffer(transcript.find(kind="sum", stage=STAGE, round=round, sender="server"), "<i8")
        expected = sum(own[round, header.attempt, market] for market in header.cohort)
        np.testing.assert_array_equal(revealed, expected)
    return cohorts


def outcome(kind, fault, config, markets, directory):
    """What became of a run of four markets, one of which fails in round 1."""
    run = Run.open(config, markets, directory)
    inject(run, fault)
    lost, waits = False, ""
    try:
        run.rounds()
    except MarketLostError:
        lost = True
    except CohortTooSmallError as error:
        waits = str(error)
    except AggregationError as error:
        return STOPPED if isinstance(error, ForgedSumError) else str(error)
    everyone = tuple(markets)
    if waits:
        assert f"go on with this run once {FAULTY} is back" in waits
        assert check_invariants(directory) == [(everyone, 0)]
        faults.let_go()
        again = Run.open(config, markets, directory)
        again.rounds()
        assert check_invariants(directory) == [(everyone, 0)] * ROUNDS
        assert torch.equal(again.codebook(FAULTY), again.codebook())
        return WAITS
    cohorts = check_invariants(directory)
    assert cohorts[0] == (everyone, 0)
    assert len(cohorts) == ROUNDS
    cohort, attempt = cohorts[FAULTY_ROUND]
    if cohort == everyone:
        return COUNTED
    assert cohort == everyone[:-1]
    assert FAULTY in {found.market for found in run.rejections[FAULTY_ROUND]}
    if lost:  # it catches up
        faults.let_go()
        again = Run.open(config, markets, directory)
        again.rounds()
        assert torch.equal(again.codebook(FAULTY), again.codebook())
    else:
        assert cohorts[-1][0] == everyone  # back in the next round
        assert torch.equal(run.codebook(FAULTY), run.codebook())
    assert attempt == 1
    return AGAIN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_market_that_fails(fault, kind, markets, tmp_path):
    assert outcome(kind, fault, configuration(kind), markets, tmp_path) == EXPECTED[fault, kind]


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_minimum_cohort_a_failing_market_stops_the_run(kind, markets, tmp_path):
    three = {name: markets[name] for name in ("m1", "m2", "m3")}
    run = Run.open(configuration(kind, 3), three, tmp_path)
    inject(run, "crashes")
    with pytest.raises(CohortTooSmallError, match=r"round 1: 2 valid updates, 3 are needed \(m3: failed: disk full\)"):
        run.rounds()
    assert len(check_invariants(tmp_path)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_killed_goes_on_with_the_same_round(kind, markets, tmp_path):
    config = configuration(kind)
    undisturbed = Run.open(config, markets, tmp_path / "a")
    undisturbed.rounds()

    killed = Run.open(config, markets, tmp_path / "b")
    honest, client = type(killed.clients[0]).local_update, killed.clients[2]

    def kill(order, send):
        if order.round == FAULTY_ROUND:
            raise KeyboardInterrupt  # two markets have sent theirs
        honest(client, order, send)

    client.local_update = kill
    with pytest.raises(KeyboardInterrupt):
        # without the engine's thread, so that the signal reaches it
        run_rounds(STAGE, ROUNDS, killed.clients, killed.server, killed.federation.transcript)
    again = Run.open(config, markets, tmp_path / "b")
    again.rounds()
    assert torch.equal(again.codebook(), undisturbed.codebook())
    assert [cohort for cohort, _ in check_invariants(tmp_path / "b")] == [tuple(markets)] * ROUNDS
    lines = read_ledger(tmp_path / "b" / "ledger" / "m0.jsonl").entries
    assert len([line for line in lines if line.round == FAULTY_ROUND]) == 1  # sent again, not drawn again


def test_a_second_attempt_charges_nothing_and_sends_the_same_update(markets, tmp_path):
    run = Run.open(configuration("ckks"), markets, tmp_path)
    inject(run, "crashes")
    run.rounds()
    lines = read_ledger(tmp_path / "ledger" / "m0.jsonl").entries
    first, second = (line for line in lines if line.round == FAULTY_ROUND)
    assert (first.attempt, second.attempt) == (0, 1)
    assert type(second.event).__name__ == "NoOpDpEvent"
    assert "smaller cohort" in second.mechanism
    own = PrivateRecord(tmp_path, "m0").transcript
    records = [record for record in own.records if record.round == FAULTY_ROUND]
    assert len({own.read(record) for record in records}) == 1
    assert len(records) == 2


STOPPED_BY_ORDERS = {
    "another round": {"round": 2},
    "another stage": {"stage": "quantizer/1"},
    "a cohort without the market": {"cohort": ("m1", "m2", "m3")},
    "a stranger in the cohort": {"cohort": ("m0", "m1", "mallory")},
    "a cohort that is too small": {"cohort": ("m0", "m1")},
    "a market twice": {"cohort": ("m0", "m0", "m1")},
    "an attempt below 0": {"attempt": -1},
    "an attempt that no missing market explains": {"attempt": 1},
    "an attempt without bound": {"attempt": 4},
}


def honest_order(**changed):
    return Order(**{"stage": STAGE, "round": 0, "attempt": 0, "cohort": tuple(four_markets())} | changed)


@pytest.fixture(scope="module")
def new_runs(tmp_path_factory):
    """Runs in which nobody was asked anything yet."""
    return {kind: Run.open(configuration(kind), four_markets(), tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", STOPPED_BY_ORDERS.values(), ids=STOPPED_BY_ORDERS)
def test_a_market_refuses_orders_that_no_honest_server_gives(order, kind, new_runs):
    client = new_runs[kind].clients[0]
    with pytest.raises(OrderError):
        client.state(honest_order(**order))
    with pytest.raises(OrderError, match="has not agreed"):
        client.local_update(honest_order(), pytest.fail)
    assert client.door.ledger.charges == []


@pytest.mark.parametrize("kind", KINDS)
def test_after_them_it_answers_an_honest_order_and_none_that_contradicts_it(kind, markets, tmp_path):
    run, sent = Run.open(configuration(kind), markets, tmp_path), []
    client = run.clients[0]
    for order in STOPPED_BY_ORDERS.values():
        with pytest.raises(OrderError):
            client.state(honest_order(**order))
    with pytest.raises(OrderError, match="has not agreed"):
        client.local_update(honest_order(), sent.append)
    assert client.door.ledger.charges == []
    agree(run.clients, honest_order())
    client.local_update(honest_order(), sent.append)
    for contradiction in ({"cohort": ("m0", "m1", "m2")}, {"attempt": 1}):  # same attempt, other cohort; no fewer
        with pytest.raises(OrderError):
            client.state(honest_order(**contradiction))
    assert len(sent) == 1


def test_under_masks_the_cohort_is_the_whole_federation(markets, tmp_path):
    run = Run.open(configuration("masked-ckks"), markets, tmp_path)
    with pytest.raises(OrderError, match="a cohort of 3, 4 are needed"):
        run.clients[0].state(Order(STAGE, 0, 1, ("m0", "m1", "m2")))


def test_a_market_takes_no_aggregate_that_is_not_the_servers(markets, tmp_path):
    run = Run.open(configuration("ckks"), markets, tmp_path)
    client, server = run.clients[0], run.federation.server
    run_rounds(STAGE, 1, run.clients, run.server, run.federation.transcript)
    aggregates = Transcript(tmp_path / "transcript")
    header, payload = unpack(aggregates.find(kind="aggregate", stage=STAGE, round=0, sender="server"))
    following = replace(header, round=1)
    other = run.federation.doors["m1"].channel.identity
    bad = {
        "round": pack(header, payload, server.sign),
        "not signed by server": pack(following, payload, other.sign),
        "another run": pack(replace(following, run="x"), payload, server.sign),
        "are needed": pack(replace(following, cohort=("m0", "m1")), payload, server.sign),
        "did not send": pack(following, payload, server.sign),  # counts m0, which sent nothing in round 1
    }
    for message in bad.values():
        with pytest.raises(MessageError):
            client.apply(message)
    agree(run.clients, Order(STAGE, 1, 0, tuple(markets)))
    with pytest.raises(MessageError, match="did not send"):
        client.apply(bad["did not send"])
    assert client.next_round == 1
