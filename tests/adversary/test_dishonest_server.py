"""A server that lies: each thing that it tries against the real market service, and what becomes of it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.deploy.homes import prepare_homes
from experiments.deploy.market import open_service
from fedmm_secure.federation.lobby import FOLDER, MOST
from fedmm_secure.federation.messages import Hello, unpack
from fedmm_secure.federation.orders import Order, Statement
from fedmm_secure.federation.requests import Reply
from fedmm_secure.service.market_service import run_directories
from privacy.aggregation import AggregationError, Binding
from privacy.aggregation.keys import KeyDirectory
from tests.conftest import STATE
from tests.dishonest import REFUSAL, STAGE, DishonestServer, resigned
from tests.faults import configuration
from tests.parties import acquainted

KINDS = ("ckks", "masked-ckks")
DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
REFUSED, STOPPED, VIEW = "refused", "stopped", "sees only its view"


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """By kind, four markets that were never asked anything, and the same after one honest round."""
    found = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp(kind)
        prepare_homes(configuration(kind, federation={"rounds": 3}), root / "fresh")
        fresh = DishonestServer(root / "fresh")
        begun = DishonestServer.copy(fresh, root / "begun")
        _, begun.payloads, begun.first = begun.round(0, hellos=begun.hellos())
        found[kind] = fresh, begun
    return found


@pytest.fixture
def begun(templates, tmp_path, monkeypatch):
    """A federation of a kind whose markets have sent their updates of round 0; each copy on a machine of its own."""
    count = itertools.count()

    def make(kind="masked-ckks"):
        template, number = templates[kind][1], next(count)
        monkeypatch.setenv(STATE, str(tmp_path / f"machine-{number}"))
        server = DishonestServer.copy(template, tmp_path / f"begun-{number}", max_runs=2)
        server.payloads, server.first = template.payloads, template.first
        return server

    return make


@pytest.fixture
def fresh(templates, tmp_path):
    return lambda kind="masked-ckks", **options: DishonestServer.copy(
        templates[kind][0], tmp_path / f"fresh-{kind}", **options
    )


def in_round_one(server):
    """Take the honest sum of round 0 to all; statements of round 1."""
    return server.state(server.order(1), aggregate=server.first)


def deliver(server, aggregate, **fields):
    """A sum of round 0 to all markets, with the question that follows it."""
    return [server.ask(m, "state", order=server.order(1), aggregate=aggregate, **fields) for m in server.markets]


# -- what it tries: the replies to what no honest server asks -------------------------------------------------------


def other_cohorts(server):
    """Each of two honest markets is told another cohort, with the same two colluders."""
    in_round_one(server)
    left, right = server.order(1, 1, ("m0", "m2", "m3")), server.order(1, 1, ("m1", "m2", "m3"))
    replies = []
    for victim, order in (("m0", left), ("m1", right)):
        statements = server.state(order)
        replies += [server.ask(victim, "update", order=order, statements=statements)]
    return replies


def restart(server):
    """All have sent; then it says that m3 has dropped out, and asks again."""
    statements = in_round_one(server)
    server.updates(server.order(1), statements)
    order = server.order(1, 1, ("m0", "m1", "m2"))
    return [server.ask("m0", "update", order=order, statements=server.state(order))]


def replayed_sum(server):
    statements = in_round_one(server)
    server.updates(server.order(1), statements)
    replay = server.aggregate(server.order(1), server.adder.aggregate(list(server.payloads.values())))
    return [server.ask(m, "state", order=server.order(2), aggregate=replay) for m in server.markets]


def subset(server):
    """A header that names all, over one market's ciphertext alone."""
    return deliver(server, server.aggregate(server.order(0), [server.payloads["m0"]]))


def multiple(server):
    return deliver(server, server.aggregate(server.order(0), [server.payloads["m0"]] * 3))


def offset(server):
    honest = server.adder.aggregate(list(server.payloads.values()))
    return deliver(server, server.aggregate(server.order(0), server.offset(honest)))


def decryption_questions(server):
    """As many ciphertexts of its choice as it can ask about: the first version answered 11,331 of them."""
    rng, replies = np.random.default_rng(0), []
    for _ in range(20):
        payload = rng.bytes(server.adder.aggregate_bytes)
        replies.append(
            server.ask("m0", "state", order=server.order(1), aggregate=server.aggregate(server.order(0), payload))
        )
    return replies


def other_hellos(server):
    """One market does not hear of another."""
    hellos = server.hellos()
    fewer = {market: hello for market, hello in hellos.items() if market != "m3"}
    order, replies = server.order(0, 0, ("m0", "m1", "m2")), []
    said = {m: server.ask(m, "state", order=order, hellos=fewer if m == "m0" else hellos).message for m in order.cohort}
    for market in order.cohort:
        replies.append(server.ask(market, "update", order=order, statements=said))
    return replies


def start_without_order(server):
    return [
        server.ask("m0", "hello"),
        server.ask("m0", "hello", start=server.start(sign=server.identity_of("m3").sign)),
        server.ask("m0", "hello", start=server.start(run="e" * 32)),
        server.ask("m0", "state", order=server.order(0)),
        server.ask("m0", "update", order=server.order(0)),
    ]


def hello_flood(server):
    replies = []
    for number in range(2 * MOST):
        run = f"{number:032x}"
        replies.append(server.ask("m0", "hello", run=run, start=server.start(run)))
    return replies


def old_statement(server):
    statements = in_round_one(server)
    earlier = server.homes.market("m1") / "runs" / server.run / "transcript" / STAGE / "0000-statement-m1.bin"
    old = {**statements, "m1": earlier.read_bytes()}
    return [server.ask("m0", "update", order=server.order(1), statements=old)]


def forged_statement(server):
    statements = in_round_one(server)
    forged = {**statements, "m1": resigned(statements["m1"], server.identity)}
    return [server.ask("m0", "update", order=server.order(1), statements=forged)]


def two_orders(server):
    in_round_one(server)
    return [server.ask("m0", "state", order=server.order(1, 0, ("m0", "m1", "m2")))]


def skipped_round(server):
    in_round_one(server)
    return [server.ask("m0", step, order=server.order(2)) for step in ("state", "update")]


def sum_never_agreed(server):
    deliver(server, server.first)  # states round 1, and gets no statement of anybody else
    sums = server.aggregate(server.order(1), list(server.payloads.values()))
    return [server.ask("m0", "state", order=server.order(2), aggregate=sums)]


def sum_of_another_signer(server):
    payloads = list(server.payloads.values())
    return deliver(server, server.aggregate(server.order(0), payloads, sign=server.identity_of("m3").sign))


def second_sum(server):
    """Another sum of a round whose sum was taken."""
    in_round_one(server)
    other = server.aggregate(server.order(0), [server.payloads["m0"]])
    return [server.ask("m0", "state", order=server.order(1), aggregate=other)]


def other_configuration(server):
    """A colluding market's hello of no configuration at all."""
    hellos = server.hellos()
    colluder = server.identity_of("m3")
    hellos["m3"] = resigned(hellos["m3"], colluder, payload=Hello(bytes(range(32)), bytes(32)).to_bytes())
    return [server.ask("m0", "state", order=server.order(0), hellos=hellos)]


def other_plan(server):
    from fedmm_secure.federation.parties import start_of

    longer = replace(start_of(server.config), stages=((STAGE, 10**6),))
    return [server.ask("m0", "hello", start=server.start(start=longer))]


def made_up_orders(server):
    """Strangers, a market twice, too few, another order of names, attempts that nothing explains, other places."""
    in_round_one(server)
    everyone, three = server.markets, ("m0", "m1", "m2")
    cohorts = [(*three, "m9"), ("m0", *three), everyone[::-1], ("m0", "m1"), ("m1", "m2", "m3"), ("m0",), ()]
    orders = [Order(STAGE, 1, attempt, cohort) for cohort in cohorts for attempt in (0, 1)]
    orders += [Order(STAGE, 1, attempt, everyone) for attempt in (-1, 1, 2**70)] + [Order(STAGE, 1, 2, three)]
    orders += [
        Order(stage, place, 0, everyone) for stage, place in ((STAGE, -1), (STAGE, 2**70), ("counts", 0), ("", 1))
    ]
    return [server.ask("m0", step, order=order) for order in orders for step in ("state", "update")]


def messages_of_another_run(server):
    """Of one that the same markets, with the same keys, have begun: hellos, statements, and a sum that it signs."""
    other, own = "e" * 32, server.run
    hellos, order = server.hellos(other), server.order(0)
    asked = {m: server.ask(m, "state", run=other, order=order, hellos=hellos) for m in server.markets}
    statements = {market: reply.message for market, reply in asked.items()}
    assert all(statements.values())
    in_round_one(server)
    server.run = other
    sums = server.aggregate(server.order(1), list(server.payloads.values()))
    server.run = own
    now = server.order(1)
    return [
        server.ask("m0", "update", order=now, statements=statements),
        server.ask("m0", "state", order=now, hellos=hellos),
        server.ask("m0", "state", order=server.order(2), aggregate=sums),
        server.ask("m0", "hello", start=server.start(other)),
    ]


FROM_THE_START = {
    "a start that it did not sign, or none": start_without_order,
    "a start of another configuration or plan": other_plan,
    "starts without number": hello_flood,
    "other hellos to each market": other_hellos,
    "a hello of another configuration": other_configuration,
}
IN_A_RUN = {
    "another cohort to each market": other_cohorts,
    "an old statement": old_statement,
    "a forged statement": forged_statement,
    "two orders for one round": two_orders,
    "a round skipped": skipped_round,
    "a round again without a market that has sent": restart,
    "a sum that nobody agreed on": sum_never_agreed,
    "a sum that somebody else signed": sum_of_another_signer,
    "a second sum for a round": second_sum,
    "orders that no honest server gives": made_up_orders,
    "messages of another run": messages_of_another_run,
    "a sum of one market's update alone": subset,
    "a multiple of one market's update": multiple,
    "a sum plus an offset": offset,
    "the sum of an earlier round": replayed_sum,
    "questions to the shared key": decryption_questions,
}
FORGED = (subset, multiple, offset, replayed_sum, decryption_questions)
EXPECTED = {
    (name, kind): STOPPED if tries in FORGED else REFUSED
    for name, tries in (FROM_THE_START | IN_A_RUN).items()
    for kind in KINDS
} | {
    ("starts without number", "ckks"): VIEW,
    ("starts without number", "masked-ckks"): VIEW,
    # each update of ckks carries its own noise, so that key holders may open it alone
    ("another cohort to each market", "ckks"): VIEW,
    ("a round again without a market that has sent", "ckks"): VIEW,
}


def outcome(server, tries):
    before = {market: server.charges(market) for market in server.markets}
    replies = tries(server)
    ended = [market for market in server.markets if server.over(market)]
    if ended:
        if tries is not decryption_questions:
            assert ended == list(server.markets)  # whoever was asked
        return STOPPED
    if any(reply.message or reply.done for reply in replies):
        return VIEW
    assert all(server.charges(market) <= before[market] + 1 for market in server.markets)
    return REFUSED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IN_A_RUN)
def test_what_a_server_tries_in_a_run(name, kind, begun):
    assert outcome(begun(kind), IN_A_RUN[name]) == EXPECTED[name, kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FROM_THE_START)
def test_what_a_server_tries_from_the_start(name, kind, fresh):
    server = fresh(kind)
    assert outcome(server, FROM_THE_START[name]) == EXPECTED[name, kind]
    for market in server.markets:  # nothing that happened counts as a run, or was charged
        assert run_directories(server.homes.market(market) / "runs") == []
        account = server.homes.market(market) / "runs" / "privacy.account"
        assert len(account.read_text().splitlines()) == 1  # that it is one
    announced = server.homes.market("m0") / "runs" / FOLDER
    assert not announced.exists() or len(list(announced.iterdir())) <= MOST


def table() -> str:
    """Rows of what a server tries, columns of aggregators."""
    lines = ["| a server tries … | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |", "|---|---|---|"]
    for name in FROM_THE_START | IN_A_RUN:
        lines.append(f"| {name} | " + " | ".join(EXPECTED[name, kind] for kind in KINDS) + " |")
    return "\n".join(lines)


def test_the_documented_table_is_the_tested_one():
    assert table() in DOCUMENT.read_text(encoding="utf-8"), table()


# -- one answer ------------------------------------------------------------------------------------------------------


def bad_sums(server):
    honest = list(server.payloads.values())
    return {
        "random bytes": b"\0" * server.adder.aggregate_bytes,
        "another length": b"\1" * 100,
        "words out of range": b"\xff" * server.adder.aggregate_bytes,
        "one market's": server.adder.aggregate(honest[:1]),
        "an offset": server.offset(server.adder.aggregate(honest)),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_tell_good_sums_from_bad_ones(kind, begun, capfd):
    good = begun(kind)
    bad = bad_sums(good)
    honest_answers = [deliver(good, good.first), good.seen["m0"][-1]]
    answers, refusals, logs = [], set(), []
    for payload in bad.values():
        server = begun(kind)
        service = server.services["m0"]
        question = {"order": server.order(1), "aggregate": server.aggregate(server.order(0), payload)}
        answers.append(service.answer(server_request(server, "state", **question)))
        logs.append([event for event, _ in server.logged["m0"] if event == "refused"])
        service.settle()
        statements = {}  # whatever is asked now has one answer
        later = [("update", {"order": server.order(1), "statements": statements}), ("finish", {}), ("state", question)]
        refusals |= {service.answer(server_request(server, step, **fields)) for step, fields in later}
        reasons = [fields for event, fields in server.logged["m0"] if event == "refused"]
        assert reasons[0]["kind"] == "ForgedSumError", reasons[0]  # its owner reads why
    # the statement that answers is of this market's next round and names the message that came, not what is in it
    shapes = {tuple(sorted(json.loads(answer))) for answer in [*answers, honest_answers[1]]}
    assert shapes == {("message",)}
    assert {len(answer) for answer in answers} == {len(honest_answers[1])}
    assert logs == [[]] * len(bad)  # and nothing is written before it has answered
    assert {Reply.from_bytes(refusal).absent for refusal in refusals} == {REFUSAL}
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def server_request(server, step, **fields):
    from fedmm_secure.federation.requests import Request

    return Request(step, server.run, **fields).to_bytes()


def test_a_key_opens_one_bad_sum_and_no_more(begun, monkeypatch):
    server = begun()
    from fedmm_secure.federation.members import MeteredMarket

    opened, honest = [], MeteredMarket.reveal
    monkeypatch.setattr(
        MeteredMarket, "reveal", lambda market, sums, binding: opened.append(sums) or honest(market, sums, binding)
    )
    decryption_questions(server)
    assert len(opened) == 1
    server.restart("m0")  # a new process knows
    decryption_questions(server)
    assert len(opened) == 1
    another = "a" * 32
    again = open_service(server.homes.market("m0"), max_runs=9)
    request = server_request(server, "hello", start=server.start(another)).replace(
        server.run.encode(), another.encode()
    )
    assert Reply.from_bytes(again.answer(request)).absent == REFUSAL  # and so does every run with this key


def test_an_oracle_that_answers_shows_the_difference(begun):
    """As it was: the reason, or the lack of one, comes back."""
    server = begun("ckks")
    carrier = server.carrier()
    answers = set()
    for payload in (server.adder.aggregate(list(server.payloads.values())), b"\1" * server.adder.aggregate_bytes):
        try:
            carrier.reveal(payload)
            answers.add("opened")
        except AggregationError as error:
            answers.add(str(error))
    assert len(answers) == 2


def test_a_process_that_is_killed_between_taking_and_opening_opens_the_same_sum(begun):
    server = begun()
    bad = server.aggregate(server.order(0), [server.payloads["m0"]])
    service = server.services["m0"]
    service.answer(server_request(server, "state", order=server.order(1), aggregate=bad))
    server.restart("m0")  # before it settled
    reply = server.ask("m0", "state", order=server.order(1), aggregate=server.first)
    assert reply.absent == REFUSAL
    assert server.over("m0")


def test_refusals_do_not_fill_the_log(begun):
    server = begun()
    for number in range(2_000):
        server.services["m0"].answer(b"%d" % number)
    entries = [fields for event, fields in server.logged["m0"] if event == "refused"]
    assert len(entries) < 40
    assert sum(len(json.dumps(fields)) for fields in entries) < 100_000
    assert entries[-1]["count"] == 1024


# -- what the first version believed, on the same messages ------------------------------------------------------------


def test_without_tags_a_market_believes_any_sum(begun):
    server = begun("ckks")
    one, everyone = server.payloads["m0"], list(server.payloads.values())
    np.testing.assert_array_equal(server.opened([one]), server.own("m0"))  # "the sum of four"
    np.testing.assert_array_equal(server.opened([one] * 3), 3 * server.own("m0"))
    total = sum(server.own(market) for market in server.markets)
    moved = server.carrier().reveal(server.offset(server.adder.aggregate(everyone)))[: server.plan.length]
    assert (moved != total).any()


def test_two_sums_of_one_round_open_an_update_under_ckks_which_has_noise_of_its_own(begun):
    server = begun("ckks")
    statements = in_round_one(server)
    sent = server.updates(server.order(1), statements)
    order = server.order(1, 1, ("m0", "m1", "m2"))
    again = server.updates(order, server.state(order))
    from fedmm_secure.federation.messages import unpack

    def payloads(messages):
        return [unpack(message)[1] for message in messages.values()]

    difference = server.opened(payloads(sent)) - server.opened(payloads(again))
    np.testing.assert_array_equal(difference, server.own("m3", round=1))


def test_with_smaller_cohorts_masks_open_every_update_to_two_colluders(begun):
    """Colluders sign two cohorts: agreement alone stops nothing, the rule that the cohort is everybody does."""
    server = begun()
    keys = KeyDirectory(server.homes.market("m2") / "keys")
    shared = keys.key(keys.identity(), keys.bundle())
    rng = np.random.default_rng(0)
    for victim in ("m0", "m1"):
        cohort = (victim, "m2", "m3")
        markets = {name: server.plan.market(shared, own) for name, own in acquainted(cohort).items()}
        bound = Binding(server.run, STAGE, 0, 1, cohort)
        values = rng.integers(-(2**10), 2**10, server.plan.length)
        nothing = np.zeros(server.plan.length, np.int64)
        sent = [markets[name].protect(values if name == victim else nothing, bound) for name in cohort]
        np.testing.assert_array_equal(markets["m2"].reveal(server.adder.aggregate(sent), bound), values)
    # and now, with the statements of both colluders over both cohorts
    for victim in ("m0", "m1"):
        order = server.order(1, 1, (victim, "m2", "m3"))
        signed = {}
        for colluder in ("m2", "m3"):
            statement = Statement(order, bytes(32))
            header = statement.header(server.run, colluder, server.bundle.digest)
            signed[colluder] = server.sign(header, statement.history, server.identity_of(colluder).sign)
        server.ask(victim, "state", order=server.order(1), aggregate=server.first)
        assert "3, 4 are needed" in server.ask(victim, "state", order=order).absent
        assert "3, 4 are needed" in server.ask(victim, "update", order=order, statements=signed).absent


# -- one market that lies ----------------------------------------------------------------------------------------------


def test_one_liar_ends_a_run_and_learns_nothing(begun):
    """Under masks nobody can tell whose update was garbage, and nobody's is opened."""
    server = begun()
    honest = list(server.payloads.values())[:3]
    garbage = server.adder.aggregate([*honest, server.payloads["m3"][:-8] + bytes(8)])
    replies = deliver(server, server.aggregate(server.order(0), garbage))
    assert all(reply.message for reply in replies)
    assert all(server.over(market) for market in server.markets)
    for market in server.markets:
        transcript = server.homes.market(market) / "runs" / server.run / "transcript" / STAGE
        assert not list(transcript.glob("*-sum-*"))


def test_a_key_that_one_run_burned_answers_no_question_of_another(tmp_path):
    """Two runs of one bundle at a time: the second held the key in memory, and went on with it."""
    prepare_homes(configuration("masked-ckks", federation={"rounds": 3}), tmp_path / "f")
    server = DishonestServer(tmp_path / "f", "a" * 32, max_runs=2)
    sums = {}
    for run in ("a" * 32, "b" * 32):
        server.run = run
        _, _, sums[run] = server.round(0, hellos=server.hellos())
    market, server.run = server.markets[0], "a" * 32
    forged = server.aggregate(server.order(0), server.offset(unpack(sums[server.run])[1]))
    server.ask(market, "state", order=server.order(1), aggregate=forged)
    server.run = "b" * 32
    server.ask(market, "state", order=server.order(1), aggregate=sums[server.run])
    opened = (server.homes.market(market) / "runs" / server.run / "transcript").rglob("*-sum-*")
    assert not list(opened)
    assert server.ask(market, "finish").absent == REFUSAL
