import numpy as np
import pytest
from dp_accounting import dp_event

from fedmm_secure.federation import door as door_module
from fedmm_secure.federation.door import Budget, BudgetExceededError, Door, Release
from fedmm_secure.federation.transcript import Transcript
from privacy.accounting.accountants import solve_noise_multiplier
from privacy.accounting.events import dp_sgd_event
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.aggregation import AggregationError, FixedPointCodec, PlaintextMarket


@pytest.fixture
def make_door(tmp_path):
    def make(epsilon=None):
        return Door(
            "de",
            run="run",
            parameters_sha256="abc",
            ledger=Ledger(tmp_path / "ledger" / "de.jsonl"),
            budget=Budget(epsilon, 1e-4),
            codec=FixedPointCodec(),
            aggregator=PlaintextMarket(3),
            transcript=Transcript(tmp_path / "transcript"),
            seeded=False,
        )

    return make


def release(event=None, round=0, payload=(0.1, -0.2, 0.3)):
    return Release(
        stage="quantizer/0",
        round=round,
        payload=np.array(payload),
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

    door.release(release(), send, keep=nothing)
    assert seen[0][0] == 1


def test_the_state_is_kept_before_the_ledger_line(make_door):
    door, lines = make_door(), []
    door.release(release(), nothing, keep=lambda sealed: lines.append(len(door.ledger.entries)))
    assert lines == [0]


def test_a_crash_while_writing_the_ledger_sends_nothing(make_door, monkeypatch):
    door, sent = make_door(), []

    def crash(descriptor):
        raise OSError("disk gone")

    monkeypatch.setattr("privacy.accounting.ledger.os.fsync", crash)
    with pytest.raises(OSError, match="disk gone"):
        door.release(release(), sent.append, keep=nothing)
    assert sent == []


def test_a_release_beyond_the_budget_is_refused_and_names_stage_budget_and_demand(make_door):
    noise = solve_noise_multiplier(lambda n: dp_sgd_event(n, 0.1, 20), epsilon=2.0, delta=1e-4)
    door, sent = make_door(2.0), []
    for round in range(2):
        door.release(release(dp_sgd_event(noise, 0.1, 10), round), sent.append, keep=nothing)
    assert 1.9 < door.spent() <= 2.0
    with pytest.raises(BudgetExceededError, match=r"market de, stage quantizer/0, round 2: .* budget is 2; nothing"):
        door.release(release(dp_sgd_event(noise, 0.1, 10), 2), sent.append, keep=nothing)
    assert len(sent) == len(door.ledger.entries) == 2


def test_a_release_without_privacy_is_refused_under_a_budget(make_door):
    sent = []
    with pytest.raises(BudgetExceededError):
        make_door(8.0).release(release(), sent.append, keep=nothing)
    assert sent == []


def test_what_was_sealed_is_sent_again_and_charged_once(make_door):
    door, kept, sent = make_door(), [], []
    door.release(release(), sent.append, keep=kept.append)
    door.release(release(), sent.append, keep=kept.append, sealed=kept[0])
    assert sent[0] == sent[1]
    assert len(kept) == len(door.ledger.entries) == 1


def test_values_that_are_not_finite_never_leave(make_door):
    door, sent = make_door(), []
    with pytest.raises(AggregationError):
        door.release(release(payload=(np.nan, 0, 0)), sent.append, keep=nothing)
    assert sent == [] == door.ledger.entries


def test_no_other_module_sends():
    """Updates are packed and recorded in the door alone."""
    from pathlib import Path

    package = Path(door_module.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name in ("door.py", "codec.py", "ckks.py", "plaintext.py", "base.py"):
            continue
        assert ".protect(" not in path.read_text(), f"{path} protects a payload outside the door"
