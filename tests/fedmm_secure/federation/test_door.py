import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import dp_event

from fedmm_secure.errors import LostResultError
from fedmm_secure.federation import door as door_module
from fedmm_secure.federation.account import Entrance
from fedmm_secure.federation.budget import Budget, BudgetExceededError
from fedmm_secure.federation.door import Channel, Door
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.transactions import Result
from fedmm_secure.federation.transcript import Transcript, read_index
from fedmm_secure.guarantee.releases import Release
from privacy.accounting.accountants import solve_noise_multiplier
from privacy.accounting.guarantees import composed_epsilon, roughly
from privacy.accounting.ledger import Ledger, LedgerError, read_ledger
from privacy.aggregation import FixedPointCodec
from privacy.mechanisms.events import dp_sgd_event
from tests.parties import agreement, bundle, identity, plaintext_markets


@pytest.fixture
def make_door(tmp_path):
    def make(epsilon=None, noise_seed=None):
        ledger = Ledger(tmp_path / "ledger" / "d.jsonl")
        ledger.open({"run": "run"})
        return Door(
            "d",
            ledger=ledger,
            budget=Budget(epsilon, 1e-4, ("quantizer", "ctr")),
            channel=Channel("run", bundle().digest, FixedPointCodec(), plaintext_markets(3)["d"], identity("d")),
            agreement=agreement("d", tmp_path),
            transcript=Transcript(tmp_path / "transcript"),
            own=PrivateRecord(tmp_path, "d"),
            keys=ReleaseKeys("d", tmp_path / "charges", noise_seed),
            entrance=Entrance("fingerprint", []),
        )

    return make


COHORT = ("a", "b", "d")
UPDATE = np.array([1, -2, 3])


def release(event=None, round=0, stage="quantizer/0", coordinates=3, attempt=0):
    return Release(
        stage=stage,
        round=round,
        attempt=attempt if round is not None else None,
        mechanism="DP-SGD",
        event=event or dp_event.NonPrivateDpEvent(),
        sensitivity=1.0,
        audience=("market", "release"),
        depends_on=("embedding",),
        coordinates=coordinates,
    )


def send(door, what, send=lambda message: None, values=UPDATE):
    """What a client does: charge, compute, protect, keep, send."""
    transaction = door.begin(what)
    door.send(transaction, values, door.protect(what, values, COHORT), send)
    return transaction


def drawn(source):
    return source.discrete_gaussian(4).tolist()


def computes(log):
    """A computation that logs what randomness it saw."""

    def compute(source):
        log.append(drawn(source))
        return Result(repr(log[-1]).encode(), np.array([7, 8]))

    return compute


def test_a_charge_is_on_disk_before_rows_are_read_and_a_seal_before_anything_is_sent(make_door):
    door, seen = make_door(), []
    transaction = door.begin(release())
    assert read_ledger(door.ledger.path).kinds == ("open", "charge")  # rows may be read from here on
    message = door.protect(release(), UPDATE, COHORT)
    door.send(transaction, UPDATE, message, lambda sent: seen.append(read_ledger(door.ledger.path)))
    assert seen[0].kinds == ("open", "charge", "seal")
    assert seen[0].released == {hashlib.sha256(message).hexdigest()}


def test_the_key_is_its_owners_alone_until_the_seal_and_gone_after_it(make_door, tmp_path):
    door = make_door()
    transaction = door.begin(release())
    (path,) = (tmp_path / "charges").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert hashlib.sha256(path.read_bytes()).hexdigest() == transaction.charge.key
    door.seal(transaction, "digest")
    assert list((tmp_path / "charges").iterdir()) == []
    with pytest.raises(LostResultError, match="no key"):
        door.begin(release()).source  # noqa: B018


def test_a_charge_without_a_seal_is_redone_with_the_same_randomness(make_door):
    first = drawn(make_door().begin(release()).source)
    again = make_door()  # the process was killed
    assert drawn(again.begin(release()).source) == first
    assert len(again.ledger.charges) == 1
    assert drawn(again.begin(release(round=1)).source) != first


def test_a_charge_whose_key_was_lost_is_not_drawn_anew(make_door, tmp_path):
    make_door().begin(release())
    (path,) = (tmp_path / "charges").iterdir()
    path.unlink()
    with pytest.raises(LostResultError, match="is gone"):
        make_door().begin(release())
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    with pytest.raises(LostResultError, match="is gone"):
        make_door().begin(release())


def test_a_result_is_computed_once_and_its_loss_is_no_licence_to_draw_again(make_door, tmp_path):
    log, keep = [], tmp_path / "private" / "counts.npz"
    found = {make_door().perform(release(round=None), computes(log), keep) for _ in range(3)}
    assert found == {keep.read_bytes()}
    assert len(log) == 1
    keep.unlink()
    with pytest.raises(LostResultError, match="was paid for"):
        make_door().perform(release(round=None), computes(log), keep)
    keep.write_bytes(b"other counts")
    with pytest.raises(LostResultError, match="another result"):
        make_door().perform(release(round=None), computes(log), keep)
    assert len(log) == 1


def test_an_interrupted_computation_is_the_same_one_the_second_time(make_door, tmp_path):
    log, keep = [], tmp_path / "counts.npz"

    def interrupted(source):
        computes(log)(source)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_door().perform(release(round=None), interrupted, keep)
    make_door().perform(release(round=None), computes(log), keep)
    assert len(log) == 2
    assert log[0] == log[1]
    assert read_ledger(make_door().ledger.path).kinds == ("open", "charge", "seal")


def test_a_stage_is_not_charged_as_another_release(make_door):
    make_door().begin(release(dp_sgd_event(2.0, 0.1, 10)))
    with pytest.raises(LedgerError, match="charged as another release"):
        make_door().begin(release(dp_sgd_event(1.0, 0.1, 10)))


def test_spare_coordinates_are_sealed_and_shown(make_door, tmp_path):
    door = make_door()
    door.perform(release(round=None), computes([]), tmp_path / "counts.npz")
    records = {record.kind: record for record in read_index(tmp_path / "transcript")}
    data = (tmp_path / "transcript" / records["meter"].file).read_bytes()
    assert np.frombuffer(data, "<i8").tolist() == [7, 8]
    (seal,) = door.ledger.seals.values()
    assert seal.meter == records["meter"].sha256
    assert seal.digest == records["publication"].sha256


@pytest.mark.parametrize("call", ["fsync", "ftruncate"])
def test_a_failing_disk_computes_and_sends_nothing(make_door, monkeypatch, call):
    """A line that was not synced is no charge; and where not even cutting it back works, the ledger is not used on."""
    door = make_door()

    synced, honest = [], os.fsync

    def fails(*arguments):
        raise OSError("disk gone")

    def fails_the_third_time(descriptor):  # the first two are those of the key and of its folder
        synced.append(descriptor)
        return honest(descriptor) if len(synced) <= 2 else fails()

    monkeypatch.setattr("privacy.accounting.lines.os.fsync", fails_the_third_time)
    if call == "ftruncate":
        monkeypatch.setattr("privacy.accounting.lines.os.ftruncate", fails)
    with pytest.raises(OSError, match="disk gone"):
        door.begin(release())
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="open the ledger again"):
        door.begin(release())
    again = make_door()
    again.begin(release())
    assert read_ledger(again.ledger.path).kinds == ("open", "charge")


def test_a_release_beyond_the_budget_is_refused_and_names_stage_budget_and_demand(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=1.99, delta=1e-4)
    door, sent = make_door(2.0), []
    for round in range(2):
        send(door, release(dp_sgd_event(noise, 0.1, 10), round), sent.append)
    assert 1.9 < door.spent() <= 2.0
    with pytest.raises(BudgetExceededError, match=r"market d, stage quantizer/0, round 2: .* budget is 2; nothing"):
        door.begin(release(dp_sgd_event(noise, 0.1, 10), 2))
    assert len(sent) == len(door.ledger.charges) == 2


def test_what_is_shown_as_spent_is_never_more_than_the_plan_nor_less_than_the_truth():
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.02, 600), epsilon=0.29, delta=1e-4)
    rounds = [release(dp_sgd_event(noise, 0.02, 300), round) for round in range(2)]
    budget = Budget(0.3, 1e-4, plan=dp_sgd_event(noise, 0.02, 600), planned=tuple(rounds))
    entries = [found.entry("d", delta=1e-4, seeded=False) for found in rounds]
    assert composed_epsilon([budget.plan], rounds, 1e-4, roughly) > 0.3  # the rough grid alone
    truth = composed_epsilon([found.event for found in rounds], rounds, 1e-4)
    assert composed_epsilon([rounds[0].event], rounds[:1], 1e-4) <= budget.spent(entries[:1]) <= 0.3
    assert truth <= budget.spent(entries) <= 0.3


def test_a_release_without_privacy_is_refused_under_a_budget(make_door):
    with pytest.raises(BudgetExceededError):
        make_door(8.0).begin(release())


def test_what_was_sealed_is_sent_again_and_charged_once(make_door):
    door, sent = make_door(), []
    message = door.protect(release(), UPDATE, COHORT)
    for _ in range(2):
        door.send(door.begin(release()), UPDATE, message, sent.append)
    assert sent == [message, message]
    assert read_ledger(door.ledger.path).kinds == ("open", "charge", "seal")
    with pytest.raises(LostResultError, match="another result"):
        door.send(door.begin(release()), UPDATE + 1, b"another", sent.append)
    assert len(sent) == 2


def test_a_publication_is_on_the_ledger_before_it_is_in_the_transcript(make_door, monkeypatch):
    door = make_door()
    door.publish(release(stage="ctr/0", coordinates=0), b"weights")
    (record,) = read_index(door._transcript.directory)
    assert (record.kind, record.visible_to) == ("publication", ("release",))
    assert read_ledger(door.ledger.path).released == {record.sha256}

    def crash(descriptor):
        raise OSError("disk gone")

    monkeypatch.setattr("privacy.accounting.lines.os.fsync", crash)
    with pytest.raises(OSError, match="disk gone"):
        door.publish(release(stage="ctr/1", coordinates=0), b"more weights")
    assert len(read_index(door._transcript.directory)) == 1


def test_a_plan_that_meets_the_budget_covers_its_parts_and_nothing_else(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=1.99, delta=1e-4)
    door = make_door(2.0)
    door.budget = replace(door.budget, plan=dp_sgd_event(noise, 0.1, 20))
    for round in range(2):
        send(door, release(dp_sgd_event(noise, 0.1, 10), round))
    for more in (dp_sgd_event(noise, 0.1, 1), dp_sgd_event(noise, 0.2, 1), dp_event.NonPrivateDpEvent()):
        with pytest.raises(BudgetExceededError):
            door.begin(release(more, 2))
    assert len(door.ledger.charges) == 2


def test_a_plan_beyond_the_budget_allows_nothing_by_itself(make_door):
    door = make_door(1.0)
    door.budget = replace(door.budget, plan=dp_sgd_event(0.5, 0.5, 100))
    with pytest.raises(BudgetExceededError):
        door.begin(release(dp_sgd_event(0.5, 0.5, 10)))


def test_more_noise_values_than_the_reserve_pays_for_are_refused(make_door):
    """What the discrete law may add to ε counts against the budget like everything else."""
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 10), epsilon=1.99, delta=1e-4)
    make_door(2.0).begin(release(dp_sgd_event(noise, 0.1, 10)))
    with pytest.raises(BudgetExceededError):
        make_door(2.0).begin(release(dp_sgd_event(4.0 * noise, 0.1, 1), 1, coordinates=10**12))


def test_a_stage_that_stays_inside_is_noted_once(make_door):
    door = make_door()
    for _ in range(2):
        door.note(release(round=None, stage="embedding"))
    assert read_ledger(door.ledger.path).kinds == ("open", "note")


def test_seeded_randomness_is_marked_and_reproducible(make_door, tmp_path):
    seeded = make_door(noise_seed=5)
    first = drawn(seeded.begin(release()).source)
    assert seeded.ledger.entries[0].seeded
    seeded.ledger.path.unlink()
    assert drawn(make_door(noise_seed=5).begin(release()).source) == first
    seeded.ledger.path.unlink()
    assert drawn(make_door(noise_seed=6).begin(release()).source) != first


def test_nothing_follows_the_closing_line(make_door):
    door = make_door()
    door.close({"files": {}})
    with pytest.raises(LedgerError, match="is closed"):
        door.begin(release())


def test_no_other_module_lets_anything_out():
    """Payloads are protected, and the transcript's outgoing kinds written, in the door alone."""
    package = Path(door_module.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name == "door.py":
            continue
        text = path.read_text()
        protects = text.replace("self.inner.protect(values, binding)", "")  # the meter around an aggregator
        protects = protects.replace("self.door.protect(", "")
        assert ".protect(" not in protects, f"{path} protects a payload outside the door"
        if path.name not in (
            "transcript.py",
            "messages.py",
            "server.py",
            "results.py",
            "requests.py",
            "market_service.py",
        ):
            assert '"update"' not in text, path  # who writes publications: tests/test_writers.py


def test_a_part_of_the_plan_is_judged_by_the_whole_of_it_and_nothing_else_is():
    """What is drawn beyond the plan, or taken of δ, is composed as it is, whatever the events say."""
    planned = [release(dp_sgd_event(1.0, 0.1, 5), round, coordinates=1000) for round in range(4)]
    drawn = [one.entry("d", delta=1e-4, seeded=False) for one in planned]
    events = dp_event.ComposedDpEvent([one.event for one in drawn])
    budget = Budget(1.0, 1e-4, plan=events, planned=tuple(planned))
    assert budget.covers(drawn[:2])
    assert budget.covers(drawn)
    assert not budget.covers([*drawn, drawn[0]])
    assert not budget.covers([replace(drawn[0], coordinates=4001)])
    assert not budget.covers([replace(drawn[0], extra_delta=1e-9)])
