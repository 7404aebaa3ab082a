import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import dp_event

from fedmm_secure.federation import door as door_module
from fedmm_secure.federation.door import Budget, BudgetExceededError, Channel, Door, Release
from fedmm_secure.federation.transcript import Transcript, read_index
from privacy.accounting.accountants import solve_noise_multiplier
from privacy.accounting.events import dp_sgd_event
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.aggregation import AggregationError, FixedPointCodec, PlaintextMarket
from tests.parties import bundle, identity


@pytest.fixture
def make_door(tmp_path):
    def make(epsilon=None):
        return Door(
            "d",
            ledger=Ledger(tmp_path / "ledger" / "d.jsonl"),
            budget=Budget(epsilon, 1e-4, ("quantizer", "ctr")),
            channel=Channel("run", bundle().digest, FixedPointCodec(), PlaintextMarket(3), identity("d")),
            transcript=Transcript(tmp_path / "transcript"),
            seeded=False,
        )

    return make


COHORT = ("a", "b", "d")
UPDATE = np.array([0.1, -0.2, 0.3])


def release(event=None, round=0, stage="quantizer/0"):
    return Release(
        stage=stage,
        round=round,
        mechanism="DP-SGD",
        event=event or dp_event.NonPrivateDpEvent(),
        sensitivity=1.0,
        audience=("market",),
        depends_on=("embedding",),
    )


def nothing(message):
    """Keeps no state."""


def test_the_ledger_line_is_on_disk_before_anything_is_sent(make_door):
    door, seen = make_door(), []

    def send(message):
        entries, _ = read_ledger(door.ledger.path)
        seen.append((len(entries), len(message)))

    door.send(release(), UPDATE, send, cohort=COHORT, keep=nothing)
    assert seen[0][0] == 1


def test_the_state_is_kept_before_the_ledger_line(make_door):
    door, lines = make_door(), []
    door.send(release(), UPDATE, nothing, cohort=COHORT, keep=lambda sealed: lines.append(len(door.ledger.entries)))
    assert lines == [0]


def test_a_crash_while_writing_the_ledger_sends_nothing(make_door, monkeypatch):
    door, sent = make_door(), []

    def crash(descriptor):
        raise OSError("disk gone")

    monkeypatch.setattr("privacy.accounting.ledger.os.fsync", crash)
    with pytest.raises(OSError, match="disk gone"):
        door.send(release(), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert sent == []


def test_a_release_beyond_the_budget_is_refused_and_names_stage_budget_and_demand(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=2.0, delta=1e-4)
    door, sent = make_door(2.0), []
    for round in range(2):
        door.send(release(dp_sgd_event(noise, 0.1, 10), round), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert 1.9 < door.spent() <= 2.0
    with pytest.raises(BudgetExceededError, match=r"market d, stage quantizer/0, round 2: .* budget is 2; nothing"):
        door.send(release(dp_sgd_event(noise, 0.1, 10), 2), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert len(sent) == len(door.ledger.entries) == 2


def test_a_release_without_privacy_is_refused_under_a_budget(make_door):
    sent = []
    with pytest.raises(BudgetExceededError):
        make_door(8.0).send(release(), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert sent == []


def test_what_was_sealed_is_sent_again_and_charged_once(make_door):
    door, kept, sent = make_door(), [], []
    door.send(release(), UPDATE, sent.append, cohort=COHORT, keep=kept.append)
    door.send(release(), UPDATE, sent.append, cohort=COHORT, keep=kept.append, sealed=kept[0])
    assert sent[0] == sent[1]
    assert len(kept) == len(door.ledger.entries) == 1


def test_values_that_are_not_finite_never_leave(make_door):
    door, sent = make_door(), []
    with pytest.raises(AggregationError):
        door.send(release(), np.array([np.nan, 0, 0]), sent.append, cohort=COHORT, keep=nothing)
    assert sent == [] == door.ledger.entries


def test_a_publication_is_on_the_ledger_before_it_is_in_the_transcript(make_door, monkeypatch):
    door = make_door()
    door.publish(release(stage="ctr/0"), b"weights")
    entries, _ = read_ledger(door.ledger.path)
    assert [entry.message_sha256 for entry in entries] == [hashlib.sha256(b"weights").hexdigest()]
    (record,) = read_index(door._transcript.directory)
    assert (record.kind, record.visible_to, record.sha256) == ("publication", ("release",), entries[0].message_sha256)

    def crash(descriptor):
        raise OSError("disk gone")

    monkeypatch.setattr("privacy.accounting.ledger.os.fsync", crash)
    with pytest.raises(OSError, match="disk gone"):
        door.publish(release(stage="ctr/1"), b"more weights")
    assert len(read_index(door._transcript.directory)) == 1


def test_a_plan_that_meets_the_budget_covers_its_parts_and_nothing_else(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=2.0, delta=1e-4)
    door, sent = make_door(2.0), []
    door.budget = replace(door.budget, plan=dp_sgd_event(noise, 0.1, 20))
    for round in range(2):
        door.send(release(dp_sgd_event(noise, 0.1, 10), round), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    for more in (dp_sgd_event(noise, 0.1, 1), dp_sgd_event(noise, 0.2, 1), dp_event.NonPrivateDpEvent()):
        with pytest.raises(BudgetExceededError):
            door.send(release(more, 2), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert len(sent) == 2


def test_a_plan_beyond_the_budget_allows_nothing_by_itself(make_door):
    door, sent = make_door(1.0), []
    door.budget = replace(door.budget, plan=dp_sgd_event(0.5, 0.5, 100))
    with pytest.raises(BudgetExceededError):
        door.send(release(dp_sgd_event(0.5, 0.5, 10)), UPDATE, sent.append, cohort=COHORT, keep=nothing)
    assert sent == []


def test_a_publication_is_charged_once_and_beyond_the_budget_refused(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=2.0, delta=1e-4)
    door = make_door(2.0)
    door.send(release(dp_sgd_event(noise, 0.1, 10)), UPDATE, nothing, cohort=COHORT, keep=nothing)
    for _ in range(2):
        door.publish(release(dp_sgd_event(noise, 0.1, 10), None, "ctr/0"), b"weights")
    assert len(door.ledger.entries) == 2
    with pytest.raises(BudgetExceededError, match=r"market d, stage ctr/1: .* budget is 2; nothing was sent"):
        door.publish(release(dp_sgd_event(noise, 0.1, 10), None, "ctr/1"), b"other weights")
    assert len(read_index(door._transcript.directory)) == 3  # own update, update, one publication


def test_a_stage_that_stays_inside_is_noted_once(make_door):
    door = make_door()
    for _ in range(2):
        door.note(release(round=None, stage="embedding"))
    assert [entry.message_sha256 for entry in door.ledger.entries] == [None]


def test_no_other_module_lets_anything_out():
    """Payloads are protected, and the transcript's outgoing kinds written, in the door alone."""
    package = Path(door_module.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name == "door.py":
            continue
        text = path.read_text()
        protects = text.replace("self.inner.protect(values, binding)", "")  # the meter around an aggregator
        assert ".protect(" not in protects, f"{path} protects a payload outside the door"
        if path.name not in ("transcript.py", "messages.py", "server.py", "results.py", "market_service.py"):
            assert '"update"' not in text, path
        assert "PUBLICATION" not in text, f"{path} publishes outside the door"
