"""What exists once in a run: order to start, hellos, statements, sums, conclusion. A second one changes nothing.

A dishonest server, or a market beside it, signs the same thing in two ways: Ed25519 lets a signer choose. The first
version kept the last that came, so a market's history moved under it.
"""

import errno
import hashlib
import itertools
import os
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedmm_secure.federation import transcript as transcripts
from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.lobby import FORGOTTEN, MOST, ForgottenRunError, Lobby
from fedmm_secure.federation.messages import HELLO_STAGE, Hello, MessageError, pack, unpack
from fedmm_secure.federation.orders import Order, start_header
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.requests import Request
from fedmm_secure.federation.transcript import (
    INDEX,
    START,
    RepeatedRecordError,
    Transcript,
    read_index,
    record_file,
)
from fedmm_secure.service.market_run import MarketRun
from fedmm_secure.storage.layout import PRIVATE, RunDirectory
from privacy.aggregation.bundle import found_federation
from privacy.aggregation.exchange import is_usable
from privacy.aggregation.identities import Card, _card_text
from privacy.aggregation.keys import BURNED_FILE, KEY_FILE, KeyBurnedError, KeyDirectory
from privacy.files import write_atomic, write_secret
from privacy.foreign import ForeignFileError
from tests import parties
from tests.conftest import STATE
from tests.dishonest import REFUSAL, STAGE, DishonestServer, resigned
from tests.parties import agreement, bundle, identity

ORDER_TO_START = {"kind": START, "stage": HELLO_STAGE, "round": 0, "sender": "server", "visible_to": ("markets",)}


@pytest.fixture
def federation(founded, tmp_path, monkeypatch):
    count = itertools.count()

    def make(**options):
        number = next(count)
        monkeypatch.setenv(STATE, str(tmp_path / f"machine-{number}"))
        return DishonestServer.copy(founded, tmp_path / f"f-{number}", **options)

    return make


# -- records -----------------------------------------------------------------------------------------------------------


def test_the_first_record_of_a_name_stays(tmp_path):
    transcript = Transcript(tmp_path / "transcript")
    first = transcript.add(b"one", receivers=1, **ORDER_TO_START)
    for _ in range(3):
        assert transcript.add(b"one", receivers=1, **ORDER_TO_START) == first
        with pytest.raises(RepeatedRecordError, match="another start of server"):
            transcript.add(b"two", receivers=1, **ORDER_TO_START)
    again = Transcript(tmp_path / "transcript")
    with pytest.raises(RepeatedRecordError):
        again.add(b"two", receivers=1, **ORDER_TO_START)
    assert again.read(first) == b"one"
    assert len((tmp_path / "transcript" / INDEX).read_text().splitlines()) == 1


def test_a_record_that_a_kill_cut_short_is_written_again(tmp_path):
    transcript = Transcript(tmp_path / "transcript")
    write_atomic(transcript.directory / record_file(HELLO_STAGE, 0, 0, START, "server"), b"half")  # not in the index
    assert transcript.read(transcript.add(b"whole", receivers=1, **ORDER_TO_START)) == b"whole"


def torn(directory, add):
    """A record, and the power goes while the next line is written."""
    add(b"one")
    with (directory / INDEX).open("ab") as file:
        file.write(b'{"attempt": 0, "fi')


def test_a_line_that_a_power_cut_tore_joins_no_other(tmp_path, monkeypatch):
    def add(directory, data, kind):
        where = {**ORDER_TO_START, "kind": kind}
        return Transcript(directory).add(data, receivers=1, **where)

    with monkeypatch.context() as patch:
        patch.setattr(transcripts, "drop_torn_tail", lambda path: None)  # as it was
        torn(tmp_path / "first", lambda data: add(tmp_path / "first", data, START))
        add(tmp_path / "first", b"two", "hello")
        with pytest.raises(ForeignFileError, match=r"index.jsonl:2: "):
            Transcript(tmp_path / "first")
    torn(tmp_path / "now", lambda data: add(tmp_path / "now", data, START))
    before = (tmp_path / "now" / INDEX).read_bytes()
    assert [record.kind for record in read_index(tmp_path / "now")] == [START]
    assert (tmp_path / "now" / INDEX).read_bytes() == before  # whoever only reads changes nothing
    add(tmp_path / "now", b"two", "hello")
    assert [record.kind for record in Transcript(tmp_path / "now").records] == [START, "hello"]


def test_a_torn_line_of_a_private_record(tmp_path):
    folder = tmp_path / PRIVATE / "m"
    first, second = (SimpleNamespace(stage=STAGE, round=round, attempt=0) for round in range(2))
    torn(folder, lambda data: PrivateRecord(tmp_path, "m").add(first, "own-update", data, "owner:m"))
    PrivateRecord(tmp_path, "m").add(second, "own-update", b"two", "owner:m")
    assert [record.round for record in PrivateRecord(tmp_path, "m").transcript.records] == [0, 1]


def signed_otherwise(server, message):
    """The same header and payload, as a signer signs who makes up another nonce: what counts is that it verifies."""
    header, payload = unpack(message)
    return server.sign(header, payload, sign=lambda text: nonce_of_ones_choice(server.identity._signing, text))


def nonce_of_ones_choice(key, text, nonce=12345):
    """RFC 8032, 5.1.6, with r chosen instead of derived."""
    scalar = int.from_bytes(clamped(hashlib.sha512(key.private_bytes_raw()).digest()[:32]), "little")
    point = encoded(times(nonce, BASE))
    public = key.public_key().public_bytes_raw()
    challenge = int.from_bytes(hashlib.sha512(point + public + text).digest(), "little") % ORDER
    return point + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


PRIME, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME
BASE = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)


def plus(one, other):
    (a, b), (c, d) = one, other
    product = CURVE * a * b * c * d % PRIME
    x = (a * d + b * c) * pow(1 + product, -1, PRIME) % PRIME
    return x, (b * d + a * c) * pow(1 - product, -1, PRIME) % PRIME


def times(number, point):
    found = (0, 1)
    while number:
        if number & 1:
            found = plus(found, point)
        point, number = plus(point, point), number >> 1
    return found


def encoded(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def clamped(secret):
    found = bytearray(secret)
    found[0] &= 248
    found[31] = found[31] & 127 | 64
    return bytes(found)


def test_an_order_to_start_that_is_signed_twice(federation):
    """It verifies, says the same, and has another hash: the first version took it, and its history was another one."""
    server = federation()
    hellos = server.hellos()
    other = signed_otherwise(server, server.start())
    assert other != server.start()
    assert server.bundle.cards["server"].verify(other[-64:], other[:-64]) is None
    assert "another start" in server.ask("m0", "hello", start=other).absent  # announced
    _, _, first = server.round(0, hellos=hellos)
    market = server.services["m0"]._runs[server.run].agreement
    index = market.transcript.directory / INDEX
    before = market.history((STAGE, 0)), index.read_bytes()
    for _ in range(5):
        assert "another start" in server.ask("m0", "hello", start=other).absent
        assert server.ask("m0", "hello", start=server.start()).message == hellos["m0"]
    assert (market.history((STAGE, 0)), index.read_bytes()) == before
    assert all(server.state(server.order(1), aggregate=first).values())  # and the run goes on


def test_a_statement_that_a_colluder_signs_twice(tmp_path):
    market = agreement("a", tmp_path)
    others = {name: agreement(name, tmp_path / name) for name in ("b", "c")}
    start = pack(start_header("run", bundle()), parties.START.to_bytes(), identity("server").sign)
    key = {name: X25519PrivateKey.generate().public_key().public_bytes_raw() for name in ("a", "b", "c")}
    everyone = {"a": market, **others}
    hellos = {name: one.hello(start, key[name]) for name, one in everyone.items()}
    order = Order("s", 0, 0, ("a", "b", "c"))
    for one in everyone.values():
        one.meet(hellos)
    statements = {name: one.state(order) for name, one in everyone.items()}
    market.agree(order, statements)
    index = (tmp_path / "transcript" / INDEX).read_bytes()
    header, payload = unpack(statements["b"])
    second = pack(header, payload, lambda text: nonce_of_ones_choice(identity("b")._signing, text))
    with pytest.raises(MessageError, match="another statement of b"):
        market.agree(order, {**statements, "b": second})
    market.agree(order, statements)
    assert (tmp_path / "transcript" / INDEX).read_bytes() == index


# -- announced runs ----------------------------------------------------------------------------------------------------


class OpenLobby(Lobby):
    """As it was: a run that was pushed out may be announced again."""

    def _forgotten(self):
        return set()


def push_out(server, market="m0"):
    for number in range(MOST + 1):
        run = f"{number:032x}"
        assert server.ask(market, "hello", run=run, start=server.start(run)).message


def with_open_lobby(server):
    for market, service in server.services.items():
        service._lobby = OpenLobby(server.homes.market(market) / "runs")
    return server


def test_a_hello_of_a_mask_key_that_was_forgotten(federation):
    """Announce a run, push it out of the lobby, announce it again: the first version had another mask key, and its
    first hello was still signed. Whoever believed that one masked against a key that nobody had."""
    server = with_open_lobby(federation())
    old = server.hellos()
    push_out(server)
    new = server.ask("m0", "hello", start=server.start()).message
    header, payload = unpack(old["m0"])
    assert header == unpack(new)[0]
    assert payload != unpack(new)[1]
    assert "not the hello that it sent" in server.ask("m0", "state", order=server.order(0), hellos=old).absent
    mixed = {**old, "m0": new}
    assert server.ask("m0", "state", order=server.order(0), hellos=mixed).message
    assert server.ask("m1", "state", order=server.order(0), hellos=old).message
    statements = {m: server.ask(m, "state", order=server.order(0), hellos=old).message for m in server.markets[1:]}
    statements["m0"] = server.ask("m0", "state", order=server.order(0)).message
    for market in server.markets:  # they have heard different things: nobody trains
        assert "another history" in server.ask(market, "update", order=server.order(0), statements=statements).absent
        assert server.charges(market) == 0


def lost_mask_key(server):
    """After a round of all, the file of a market's mask key goes; returns the sum, the file, and what was in it."""
    _, _, aggregate = server.round(0, hellos=server.hellos())
    path = RunDirectory(server.homes.market("m0") / "runs" / server.run).mask("m0", 0)
    kept = path.read_bytes()
    path.unlink()
    server.restart("m0")
    return aggregate, path, kept


def test_a_mask_key_that_is_gone_is_not_made_anew_within_a_run(federation, monkeypatch):
    """It was: under another one no tag is right, so that the honest sum passed for a forged one and burned the key."""
    server = federation()
    with monkeypatch.context() as patch:
        patch.setattr(Agreement, "known_mask_key", None)  # as it was
        aggregate, _, _ = lost_mask_key(server)
        server.ask("m0", "state", order=server.order(1), aggregate=aggregate)
    assert server.over("m0")
    server = federation()
    aggregate, path, kept = lost_mask_key(server)
    charged = server.charges("m0")
    for _ in range(2):
        refused = server.ask("m0", "state", order=server.order(1), aggregate=aggregate)
        assert refused.absent == "failed; its operator's log says why"
        server.restart("m0")
    assert server.charges("m0") == charged
    assert f"KeyFileError('{path}: cannot be read" in server.logged["m0"][-1][1]["error"]
    write_secret(path, X25519PrivateKey.generate().private_bytes_raw())
    assert server.ask("m0", "state", order=server.order(1), aggregate=aggregate).absent == refused.absent
    assert "is not the mask key with which market m0 began" in server.logged["m0"][-1][1]["error"]
    path.write_bytes(kept)
    server.restart("m0")
    _, _, second = server.round(1, aggregate=aggregate)
    assert server.ask("m0", "finish", aggregate=second).done


def two_statements(server):
    """Those of one attempt, with the run pushed out between them; None where the second is refused."""
    hellos, order = server.hellos(), server.order(0)
    first = server.ask("m0", "state", order=order, hellos=hellos).message
    push_out(server)
    again = server.ask("m0", "hello", start=server.start())
    if not again.message:
        return first, None, again.absent
    return first, server.ask("m0", "state", order=order, hellos={**hellos, "m0": again.message}).message, ""


def test_one_statement_of_an_attempt_also_of_a_run_that_was_pushed_out(federation):
    first, second, _ = two_statements(with_open_lobby(federation()))
    assert first
    assert second
    assert first != second  # as it was
    server = federation()
    first, second, why = two_statements(server)
    assert (bool(first), second) == (True, None)
    assert "pushed out" in why
    server.restart("m0")
    assert "pushed out" in server.ask("m0", "hello", start=server.start()).absent
    assert "no run of that name" in server.ask("m0", "state", order=server.order(0)).absent
    assert server.ask("m1", "hello", start=server.start()).message  # others have it still


def test_a_lobby_remembers_so_many_and_takes_no_more(tmp_path):
    lobby = Lobby(tmp_path, most=2, most_forgotten=3)
    names = [f"{number:032x}" for number in range(6)]
    for name in names[:5]:
        lobby.enter(name)
    with pytest.raises(ForgottenRunError, match="3 announced runs came to nothing"):
        lobby.enter(names[5])
    for name in names[:3]:
        assert name not in lobby
        with pytest.raises(ForgottenRunError, match="pushed out"):
            lobby.enter(name)
    assert all(name in lobby for name in names[3:5])
    lobby.enter(names[3])


def test_a_crash_while_a_run_is_pushed_out(tmp_path):
    """Its name is there, and its folder still: it is gone, and goes when the next one comes."""
    lobby = Lobby(tmp_path, most=1)
    lobby.enter("a" * 32)
    (tmp_path / FORGOTTEN).write_text("a" * 32 + "\n" + "b" * 7)
    assert "a" * 32 not in lobby
    lobby.enter("c" * 32)
    lobby.enter("d" * 32)
    assert not lobby.path("a" * 32).exists()
    assert (tmp_path / FORGOTTEN).read_text().splitlines() == ["a" * 32, "c" * 32]


LOW_ORDER = [  # of Curve25519 and its twist: Bernstein, cr.yp.to/ecdh.html
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=range(len(LOW_ORDER)))
def test_a_mask_key_of_low_order_is_refused_at_the_introduction(federation, point):
    key = point.to_bytes(32, "little")
    for _ in range(3):  # with every private key
        with pytest.raises(ValueError, match=r"shared|key"):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    assert not is_usable(key)
    with pytest.raises(MessageError, match="mask key is not usable"):
        Hello.from_bytes(key + bytes(32))
    if point > 1:
        return
    server = federation()  # and before anything is charged
    hellos = server.hellos()
    payload = Hello(key, unpack(hellos["m3"])[1][32:]).to_bytes()
    hellos["m3"] = resigned(hellos["m3"], server.identity_of("m3"), payload=payload)
    assert "not usable" in server.ask("m0", "state", order=server.order(0), hellos=hellos).absent
    assert server.charges("m0") == 0


def test_keys_that_anybody_makes_are_usable():
    for _ in range(50):
        assert is_usable(X25519PrivateKey.generate().public_key().public_bytes_raw())


def test_a_card_that_nothing_can_be_sealed_for():
    """The founder of a federation would meet it with a traceback."""
    own = identity("b")
    fields = ("b", own.card.signing, bytes(32).hex())
    with pytest.raises(ValueError, match="nothing can be sealed"):
        Card(*fields, own.sign(_card_text(*fields)).hex())


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_run_is_concluded_once_however_often_it_is_asked(federation, monkeypatch):
    """The first version concluded it again, and counted it as another of the runs that its operator had agreed to."""
    server = federation(max_runs=2)
    _, _, first = server.round(0, hellos=server.hellos())
    _, _, last = server.round(1, aggregate=first)
    service = server.services["m0"]
    entered = []
    monkeypatch.setattr(type(service._runs[server.run]), "conclude", lambda run, listener: conclude(run, entered))
    assert server.ask("m0", "finish", aggregate=last).done
    assert server.ask("m0", "finish").done  # before it is concluded
    assert [run for run, _ in service.conclude_finished()] == [server.run]
    for _ in range(3):
        assert server.ask("m0", "finish").done
        assert service.conclude_finished() == []
    for step, fields in (("hello", {"start": server.start()}), ("state", {"order": server.order(1)})):
        assert "concluded" in server.ask("m0", step, **fields).absent
    assert (len(entered), service.concluded) == (1, 1)
    server.restart("m0")
    assert server.ask("m0", "finish").done
    again = server.services["m0"]
    assert (again.conclude_finished(), again.concluded, again._runs) == ([], 1, {})


def test_a_disk_that_is_full_at_the_end_ends_no_process(federation, monkeypatch):
    """It did, in the market's only loop; the run is concluded once there is room, and others are answered meanwhile."""
    server = federation(max_runs=2)
    _, _, first = server.round(0, hellos=server.hellos())
    _, _, last = server.round(1, aggregate=first)
    service, entered = server.services["m0"], []
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(MarketRun, "conclude", Mock(side_effect=full))
        assert server.ask("m0", "finish", aggregate=last).done
        with pytest.raises(OSError, match="No space left"):
            service.conclude(server.run)  # as it was
        for _ in range(3):
            assert service.conclude_finished() == []
        assert server.ask("m0", "finish").done
        assert MarketRun.conclude.call_count == 2  # and not at every look
    (reason,) = [fields["error"] for event, fields in server.logged["m0"] if event == "refused"]
    assert "No space left" in reason
    monkeypatch.setattr(MarketRun, "conclude", lambda run, listener: conclude(run, entered))
    service._not_before = 0.0
    assert [run for run, _ in service.conclude_finished()] == [server.run]
    assert (len(entered), service.concluded, service.finished) == (1, 1, [])


def test_a_run_whose_key_is_gone_is_not_concluded(federation):
    """A crash between the key and the mark that the run is over."""
    server = federation()
    server.round(0, hellos=server.hellos())
    server.restart("m0")
    service = server.services["m0"]
    member = service._member
    member.directory.burn(member.bundle)
    service.finished.append(server.run)
    assert service.conclude_finished() == []
    assert service.finished == []


def conclude(run, entered):
    """The end of a run without its CTR models: its ledger is closed."""
    entered.append(run)
    (door,) = run.federation.doors.values()
    door.ledger.close({})
    return {}


def test_an_update_that_is_asked_for_again_and_again_is_one_line_of_the_log(federation):
    server = federation()
    hellos, order = server.hellos(), server.order(0)
    statements = server.state(order, hellos=hellos)
    sent = {server.ask("m0", "update", order=order, statements=statements).message for _ in range(70)}
    assert len(sent) == 1
    lines = [fields for event, fields in server.logged["m0"] if event == "update"]
    assert (len(lines), lines[0]["round"], lines[-1]["count"]) == (7, 0, 64)


# -- keys --------------------------------------------------------------------------------------------------------------


def begun(server):
    _, payloads, first = server.round(0, hellos=server.hellos())
    forged = server.aggregate(server.order(0), server.offset(unpack(first)[1]))
    return payloads, first, forged


def rotated(server):
    """The next epoch's invitations, taken while a run of this one goes on."""
    founder = server.identity_of(server.bundle.founder)
    others = {name: card for name, card in server.bundle.cards.items() if name != server.bundle.founder}
    key = server.plan.generate_key()
    epoch, sizes = server.bundle.epoch + 1, server.bundle.sizes
    return found_federation(founder, others, server.bundle.aggregation, key, epoch=epoch, sizes=sizes)


def test_a_forged_sum_burns_the_key_of_its_run_and_not_the_next(federation):
    """The first version took the epoch from the disk: the new key was burned, and the old one counted for it."""
    server = federation()
    _, _, forged = begun(server)
    keys = KeyDirectory(server.homes.market("m0") / "keys")
    bundle, sealed = rotated(server)
    keys.accept(keys.identity(), bundle, sealed["m0"])
    used = keys.used_rounds(server.bundle)
    assert (used, keys.used_rounds(bundle)) == (1, 0)
    server.ask("m0", "state", order=server.order(1), aggregate=forged)
    assert keys.key(keys.identity(), bundle).fingerprint == bundle.key_fingerprint
    with pytest.raises(KeyBurnedError, match="epoch 1 was burned"):
        keys.refuse_burned(server.bundle)
    assert server.ask("m0", "finish").absent == REFUSAL


def test_a_disk_that_fails_while_a_sum_is_opened_burns_no_key(federation, monkeypatch):
    server = federation()
    _, first, _ = begun(server)
    bad = federation()
    _, _, forged = begun(bad)
    honest = KeyDirectory._burned_epoch

    def failing(keys):
        raise OSError(errno.EIO, "Input/output error")

    question = {"order": server.order(1)}
    monkeypatch.setattr(KeyDirectory, "_burned_epoch", failing)
    server.ask("m0", "state", aggregate=first, **question)
    while_it_fails = server.ask("m0", "state", **question).absent
    monkeypatch.setattr(KeyDirectory, "_burned_epoch", honest)
    bad.ask("m0", "state", aggregate=forged, **question)
    assert while_it_fails == bad.ask("m0", "state", **question).absent  # nobody outside can tell
    assert server.ask("m0", "state", **question).message  # it is opened when the disk is back
    assert not server.over("m0")
    assert bad.over("m0")


def test_a_key_file_that_cannot_be_read_while_a_sum_is_opened_burns_no_key(federation, monkeypatch):
    """The same failure, wrapped as an error of a key file, which is no OSError: it burned the key."""
    server = federation()
    _, first, _ = begun(server)
    market, keys = server.homes.market("m0") / "keys", KeyDirectory(server.homes.market("m0") / "keys")
    (market / "burned.json").mkdir()
    server.ask("m0", "state", order=server.order(1), aggregate=first)
    assert server.ask("m0", "state", order=server.order(1)).absent == REFUSAL
    (market / "burned.json").rmdir()
    assert server.ask("m0", "state", order=server.order(1)).message
    assert keys.key(keys.identity(), keys.bundle())


def test_a_full_disk_keeps_no_key_alive(federation, monkeypatch):
    """There is no room for the mark: the key goes all the same, for this process and the next."""
    server = federation()
    _, _, forged = begun(server)
    keys = KeyDirectory(server.homes.market("m0") / "keys")
    service = server.services["m0"]
    service.answer(Request("state", server.run, order=server.order(1), aggregate=forged).to_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        service.settle()
    assert [(keys.path / name).exists() for name in (BURNED_FILE, KEY_FILE)] == [False, False]
    assert server.ask("m0", "state", order=server.order(1)).absent == REFUSAL
    server.restart("m0")
    assert not server.ask("m0", "state", order=server.order(1)).message
    with pytest.raises(KeyBurnedError, match=r"burned|given up"):
        keys.accept(keys.identity(), server.bundle, b"")


def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")
