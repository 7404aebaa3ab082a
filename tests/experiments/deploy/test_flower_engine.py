"""The Flower engine and the market process, without the network: rounds, faults, hostile requests."""

import itertools
import json
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import yaml
from flwr.app import Error
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.deploy import server
from experiments.deploy.alone import alone
from experiments.deploy.in_process import compare_with_in_process
from experiments.deploy.processes import HOME_VARIABLE
from experiments.deploy.server import LOCK, RECORD, Engine, serve
from experiments.verification import verify_run
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.messages import hello_header, pack, unpack
from fedmm_secure.federation.orders import Absence, Order
from fedmm_secure.federation.requests import Reply
from fedmm_secure.federation.server import CohortTooSmallError
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.service.market_run import MarketRun
from fedmm_secure.service.market_service import run_directories
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.keys import KeyDirectory
from privacy.files import KeyFileError
from tests import faults
from tests.command_line import fedmm
from tests.conftest import TINY, tiny
from tests.experiments.deploy.fleet import make_fleet
from tests.faults import AGAIN, COUNTED, FAULTS, KINDS, ONCE, STOPPED, WAITS, configuration

FAULTY, FAULTY_ROUND, STAGE = "m3", 1, "quantizer/0"


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return lambda config, name="federation", **options: make_fleet(config, tmp_path / name, monkeypatch, **options)


@pytest.fixture
def home(founded, tmp_path, monkeypatch):
    """A server's home."""
    monkeypatch.setenv(HOME_VARIABLE, str(shutil.copytree(founded.homes.server, tmp_path / "server")))
    return tmp_path / "server"


def test_one_process_at_a_time_serves_a_run(home):
    """Two that go on with one would write two transcripts into one file."""
    state = RunDirectory(home / "runs" / ("a" * 32)).state
    state.mkdir(parents=True)
    with alone(state / LOCK, "run"), pytest.raises(RunDirectoryError, match="another process answers for this run"):
        serve(None, {"run": "a" * 32})


@pytest.mark.parametrize("run", ["../../elsewhere", "a", "A" * 32, "a" * 32 + "\n"])
def test_a_run_goes_on_by_its_id_alone(home, capsys, run):
    before = sorted(home.parent.rglob("*"))
    with pytest.raises(ConfigError, match="is not the id of a run"):
        serve(None, {"run": run})
    status, _, err = fedmm(capsys, "deploy", "submit", home, "--run", run)
    assert (status, "is not the id of a run" in err) == (2, True)
    assert sorted(home.parent.rglob("*")) == before


def test_a_market_that_joins_from_two_nodes_is_said(home, monkeypatch):
    """A market that repeats another's hello stands in its place; it can ask and answer nothing there."""
    heard = []
    engine = Engine(None, Mock(), "a" * 32, None, [], 1.0, lambda event, fields: heard.append((event, fields)))
    engine.server.welcome = lambda hellos: (hellos, ())
    message = pack(hello_header("a" * 32, "m0", "p"), b"", lambda data: bytes(64))
    for node in (1, 1, 2):
        engine._welcome(node, message)
    assert engine.nodes == {"m0": 1}
    assert [event for event, _ in heard] == ["joined", "joined", "refused"]


class Stalling:
    """A market that takes nearly all of its time for each answer, and says each time that it lacks another round."""

    def __init__(self, schedule):
        self.now, self._lacks = 0.0, itertools.cycle(schedule)

    def push_messages(self, messages):
        return ["0"]

    def pull_messages(self, awaited):
        self.now += 90.0
        content = {RECORD: {"reply": Reply(behind=next(self._lacks)).to_bytes()}}
        metadata = SimpleNamespace(src_node_id=1, reply_to_message_id="0")
        return [SimpleNamespace(metadata=metadata, content=content, has_error=lambda: False)]


class WithoutEnd(Engine):
    """As it was: each question had all of the time."""

    def _catch_up(self, asked, question, deadline):
        return super()._catch_up(asked, question, float("inf"))


@pytest.mark.parametrize(("kind", "most"), [(Engine, 180), (WithoutEnd, 31 * 90)])
def test_a_market_stalls_a_round_for_its_time_and_no_longer(kind, most, monkeypatch):
    schedule = [(STAGE, number) for number in range(30)]
    market, transcript = Stalling(schedule), Mock(find=lambda **named: None)
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: market.now, sleep=lambda seconds: None))
    engine = kind(market, Mock(hellos={}), "a" * 32, transcript, schedule, 100.0, Mock(), nodes={"m0": 1})
    assert engine.state(Order(STAGE, 0, 0, ("m0",))) == {"m0": Absence("lacks earlier rounds")}
    assert market.now == most


def conclude(fleet):
    for service in fleet.services.values():
        service.conclude_finished()


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_bit_identical_to_those_of_the_in_process_engine(kind, fleet, tmp_path):
    running = fleet(configuration(kind, 3, seed=[0, 1]))
    running.serve()
    conclude(running)
    same = compare_with_in_process(running.homes, tmp_path / "in-process")
    assert len(same) == 3 * 2 * 4  # markets, seeds, and encoder, decoder and two codebooks each
    assert all(same.values())


SHARED = {"synthetic": {**TINY["data"]["synthetic"], "shared_items": 30}, "shared_items": True}
PUBLIC = {"epsilon": 8.0, "protect": "release", "noise_seed": 5, "contribution": {"reference_date": "2022-01-01"}}


@pytest.mark.parametrize(
    ("kind", "embedding", "privacy"),
    [
        ("ckks", {"dim": 8}, {}),
        ("masked-ckks", {"kind": "dp-svd", "private": {"dim": 4}}, {**PUBLIC, "ctr": {"steps": 5}}),
    ],
    ids=["exact", "private"],
)
def test_models_on_sums_over_a_shared_catalogue_are_bit_identical_too(kind, embedding, privacy, fleet, tmp_path):
    sections = {"data": SHARED, "embedding": {"shared_items": 25, **embedding}, "ctr": {"baselines": ["popularity"]}}
    running = fleet(tiny(aggregation={"kind": kind}, privacy=privacy, **sections))
    running.serve()
    conclude(running)
    same = compare_with_in_process(running.homes, tmp_path / "in-process")
    assert len(same) == 3 * 4
    assert all(same.values())


def test_private_models_are_bit_identical_too(fleet, tmp_path):
    """With noise from a seed, as only tests have it."""
    running = fleet(configuration(markets=3, privacy={"epsilon": 8.0, "noise_seed": 5}))
    running.serve()
    conclude(running)
    assert all(compare_with_in_process(running.homes, tmp_path / "in-process").values())
    for market in running.homes.markets:
        (directory,) = run_directories(running.homes.market(market) / "runs")
        assert verify_run(directory) == []


def test_a_head_grows_through_services_as_it_does_in_process(fleet, tmp_path):
    head = {"trees": 1, "depth": 2, "shares": [1.0]}
    running = fleet(configuration(markets=3, head=head, federation={"rounds": 1}))
    running.serve()
    conclude(running)
    assert all(compare_with_in_process(running.homes, tmp_path / "in-process").values())
    wanted = RunDirectory(tmp_path / "in-process").head("m0").read_bytes()
    for market in running.homes.markets:
        (directory,) = run_directories(running.homes.market(market) / "runs")
        assert RunDirectory(directory).head(market).read_bytes() == wanted
        assert verify_run(directory) == []


def test_a_file_that_the_servers_transcript_lacks_is_a_finding(fleet):
    running = fleet(configuration(markets=3))
    running.serve()
    conclude(running)
    server = running.homes.server / "runs" / running.run
    (server / "transcript" / STAGE / "0001-update-m1.bin").unlink()
    (directory,) = run_directories(running.homes.market("m0") / "runs")
    found = {finding.where.rsplit("/", 1)[-1]: finding.what for finding in verify_run(directory, server)}
    assert found["0001-update-m1.bin"] == "missing, or its bytes do not match the index"


class Unfaithful:
    """A market whose process commits a fault in each of some rounds, and is honest before, between and after."""

    def __init__(self, fault_of):
        self.fault_of, self.committed, self.over = fault_of, set(), set()

    def __call__(self, fleet, market, request):
        fields = json.loads(request)
        ordered = fields["step"] == "update" and market in fields["order"]["cohort"]
        round = fields["order"]["round"] if ordered else None
        service = fleet.services[market]
        fault = None if round in self.over else self.fault_of.get(round)
        if fault is None:
            return service.answer(request)
        first = round not in self.committed
        self.committed.add(round)
        if fault == "hangs":
            return None
        if fault == "sends late":
            service.answer(request)  # computed, ledgered, too late
            return None
        if fault == "crashes":
            fleet.restart(market)
            return Error(code=1, reason="process gone")
        (run,) = service._runs.values()
        if first:
            honest = run.update

            def update(order, send):
                run.update = honest
                FAULTS[fault](run.client(order.stage), order, send)

            run.update = update
        return service.answer(request)


# one request has one reply: the second message has nowhere to go
EXPECTED = faults.EXPECTED | {("sends twice", kind): ONCE for kind in KINDS}


IMPATIENT = {"round_timeout": 0.05}  # nobody is slow here: who does not answer at once is not going to


@pytest.mark.parametrize("kind", KINDS)
def test_a_market_that_fails(kind, fleet):
    """In every other round in another way: of each but those that stop a run."""
    fault_of = dict(zip(itertools.count(1, 2), [f for f in FAULTS if EXPECTED[f, kind] != STOPPED], strict=False))
    rounds = 2 * len(fault_of) + 1
    running = fleet(configuration(kind, federation={**IMPATIENT, "rounds": rounds}))
    faulty = running.faults[FAULTY] = Unfaithful(fault_of)
    waits = {}
    for _ in range(rounds):
        try:
            running.serve(running.run if waits else "")
            break
        except CohortTooSmallError as error:
            faulty.over = faulty.committed.copy()
            waits[max(faulty.over)] = str(error)
    server, everyone = running.homes.server / "runs" / running.run, tuple(running.homes.markets)
    transcript = Transcript(server / "transcript")
    headers = [
        unpack(transcript.find(kind="aggregate", stage=STAGE, round=round, sender="server"))[0]
        for round in range(rounds)
    ]
    assert {header.cohort for header in headers[::2]} == {everyone}  # back in the next round
    found = {}
    for round, fault in fault_of.items():
        counted = headers[round].cohort == everyone
        assert headers[round].attempt == (0 if counted else 1)
        if round in waits:
            assert f"go on with this run once {FAULTY} is back" in waits[round]
            found[fault] = WAITS
        elif counted:
            found[fault] = ONCE if fault == "sends twice" else COUNTED
        else:
            assert headers[round].cohort == everyone[:-1]
            found[fault] = AGAIN
    assert found == {fault: EXPECTED[fault, kind] for fault in fault_of.values()}
    assert faulty.committed == set(fault_of)
    rejected = json.loads((server / "summary.json").read_text())["rejections"]
    again = {round for round, fault in fault_of.items() if found[fault] == AGAIN}
    assert {(one["market"], one["round"]) for one in rejected} == {(FAULTY, round) for round in again}
    assert torch.equal(running.codebook(FAULTY), running.codebook("m0"))
    conclude(running)
    beyond = [
        fault for fault in fault_of.values() if kind == "plaintext" and "the range" in fault
    ]  # readable by anybody
    for market in everyone:
        (directory,) = run_directories(running.homes.market(market) / "runs")
        findings = [finding.what for finding in verify_run(directory, server)]
        assert len(findings) == (len(beyond) if market == FAULTY else 0)
        assert all("a value is outside" in what for what in findings)


@pytest.mark.parametrize(("fault", "kind"), [pair for pair, what in EXPECTED.items() if what == STOPPED])
def test_a_market_that_fails_so_that_markets_refuse_the_sum(fault, kind, fleet):
    running = fleet(configuration(kind, federation=IMPATIENT))
    running.faults[FAULTY] = Unfaithful({FAULTY_ROUND: fault})
    with pytest.raises(CohortTooSmallError) as stopped:
        running.serve()
    assert str(stopped.value).count("this run is over at this market") == len(running.homes.markets)


def test_markets_that_start_again_in_every_round_change_nothing(fleet):
    config = configuration("masked-ckks", 3)
    undisturbed = fleet(config)
    undisturbed.serve()
    forgetful = fleet(config, "other")
    for market in forgetful.homes.markets:
        forgetful.faults[market] = lambda fleet, market, request: fleet.restart(market).answer(request)
    forgetful.serve()
    assert torch.equal(forgetful.codebook("m1"), undisturbed.codebook("m1"))


def test_a_server_that_is_killed_in_the_middle_of_a_round_goes_on(fleet):
    config = configuration("masked-ckks", 3)
    undisturbed = fleet(config)
    undisturbed.serve()
    running = fleet(config, "other")

    def kill(fleet, market, request):
        fields = json.loads(request)
        if fields["step"] == "update" and fields["order"]["round"] == FAULTY_ROUND:
            raise KeyboardInterrupt
        return fleet.services[market].answer(request)

    running.faults["m2"] = kill  # m0 and m1 have sent theirs
    with pytest.raises(KeyboardInterrupt):
        running.serve()
    running.faults.clear()
    running.serve(running.run)
    assert torch.equal(running.codebook("m1"), undisturbed.codebook("m1"))
    sent = [
        a for m, r, a in running.seen if m == "m0" and r["step"] == "update" and r["order"]["round"] == FAULTY_ROUND
    ]
    assert len(sent) == 2
    assert sent[0] == sent[1]
    stated = [answer for market, request, answer in running.seen if market == "m0" and request["step"] == "state"]
    assert len(set(stated)) == len(stated) - 1  # and the same statement


def test_too_few_markets_stop_the_run_with_a_reason_and_nothing_is_released(fleet, capsys):
    running = fleet(configuration(markets=3))
    running.faults["m2"] = lambda fleet, market, request: None
    with pytest.raises(CohortTooSmallError, match="2 valid updates, 3 are needed"):
        running.serve()
    assert "stopped" in capsys.readouterr().out
    records = Transcript(running.homes.server / "runs" / running.run / "transcript").records
    assert {record.kind for record in records} <= {"start", "hello", "statement", "update"}


def test_a_market_with_another_configuration_is_not_taken_in(fleet):
    running = fleet(configuration())
    path = running.homes.market("m3") / "config.yaml"
    fields = yaml.safe_load(path.read_text())
    fields["federation"]["local_epochs"] = 7
    path.write_text(yaml.safe_dump(fields))
    running.restart("m3")
    running.serve()
    log = (running.homes.server / "runs" / running.run / "log.jsonl").read_text()
    assert "the server starts a run of another configuration or plan" in log
    assert json.loads((running.homes.server / "runs" / running.run / "summary.json").read_text())["markets"] == [
        "m0",
        "m1",
        "m2",
    ]


def test_a_market_takes_part_in_as_many_runs_as_its_operator_agreed_to(fleet):
    running = fleet(configuration(markets=3))
    running.serve()
    with pytest.raises(CohortTooSmallError):
        running.serve()
    refused = [json.loads(answer) for _, _, answer in running.seen[-3:]]
    assert {reply["absent"] for reply in refused} == {"its operator agreed to 1 runs, and 1 were made"}


def test_a_key_that_is_used_up_stops_the_next_run_until_it_is_rotated(fleet, capsys):
    limited = tiny(aggregation={"kind": "ckks", "rotate_after": 5})  # a run has 3 rounds
    running = fleet(limited, max_runs=3)
    running.serve()
    with pytest.raises(CohortTooSmallError):
        running.serve()
    refused = [json.loads(answer) for _, _, answer in running.seen[-3:]]
    assert {reply["absent"] for reply in refused} == {"its key must be rotated"}
    keys = {name: running.homes.market(name) / "keys" for name in running.homes.markets}
    assert fedmm(capsys, "keys", "rotate", "--keys", keys["m0"])[0] == 0
    for name in ("m1", "m2"):
        invitation = keys["m0"] / "invitations" / f"{name}.json"
        assert fedmm(capsys, "keys", "join", name, "--keys", keys[name], "--invitation", invitation)[0] == 0
    server = running.homes.server / "keys"
    assert (
        fedmm(capsys, "keys", "join", "server", "--keys", server, "--invitation", keys["m0"] / "federation.json")[0]
        == 0
    )
    for name in running.homes.markets:
        running.restart(name)
    running.serve()
    assert (one := KeyDirectory(keys["m1"])).used_rounds(one.bundle()) == 3
    assert torch.equal(running.codebook("m1"), running.codebook("m2"))


def test_a_server_with_a_file_that_it_should_not_have_does_not_start(fleet):
    running = fleet(configuration(markets=3))
    stolen = running.homes.market("m0") / "keys" / "federation.key"
    (running.homes.server / "keys" / "federation.key").write_bytes(stolen.read_bytes())
    with pytest.raises(KeyFileError, match="does not belong on the server"):
        running.serve()


# -- requests that no honest server sends -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        running = make_fleet(configuration(markets=3), tmp_path_factory.mktemp("hostile") / "f", patch)
        running.serve()
        real = [json.dumps(request).encode() for market, request, _ in running.seen if market == "m0"]
        yield running, real


def assert_says_nothing(running, answer, honest):
    """A refusal, or the very answer that an honest server got."""
    reply = json.loads(answer)
    if answer in honest:
        return
    assert set(reply) <= {"absent", "behind", "done"}
    data = (running.homes.market("m0") / "data").glob("*.csv")
    words = {word for path in data for line in path.read_text().splitlines()[1:] for word in line.split(",")[:2]}
    assert not any(word in str(reply.get("absent", "")) for word in words)


HOSTILE = [
    b"",
    b"[" * 100_000,
    b"{}",
    b'{"step": "update", "run": "../../etc"}',
    b'{"step": "finish", "run": "' + b"0" * 32 + b'", "aggregates": ["!"]}',
    b'{"step": "hello", "run": "' + b"f" * 32 + b'"}',
    b'{"step": "hello", "run": 1e999}',
]


@pytest.mark.parametrize("request_", HOSTILE)
def test_hostile_requests_get_a_refusal(service, request_):
    running, _ = service
    before = run_directories(running.homes.market("m0") / "runs")
    assert "absent" in json.loads(running.services["m0"].answer(request_))
    assert run_directories(running.homes.market("m0") / "runs") == before


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_requests_get_nothing_that_an_honest_server_did_not_get(service, data):
    running, real = service
    honest = {answer for market, _, answer in running.seen if market == "m0"}
    request = bytearray(data.draw(st.sampled_from(real)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(request) - 1))
        request[position] ^= data.draw(st.integers(1, 255))
    assert_says_nothing(running, running.services["m0"].answer(bytes(request)), honest)


def test_a_failure_inside_a_market_says_nothing_of_its_data(fleet, monkeypatch, logged):
    running = fleet(configuration(markets=3))

    def fail(self, order, send):
        raise RuntimeError("user u17 bought item i3")

    monkeypatch.setattr(MarketRun, "update", fail)
    with pytest.raises(CohortTooSmallError) as caught:
        running.serve()
    assert "bought" not in str(caught.value)
    assert "bought" not in "".join(str(answer) for _, _, answer in running.seen) + logged()
