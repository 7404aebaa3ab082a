import json

import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import ledger_check
from privacy.accounting.events import dp_sgd_event
from privacy.accounting.guarantees import conditional_guarantee, view_guarantee
from privacy.accounting.ledger import Entry, Ledger, LedgerError, depended_on, read_ledger
from privacy.accounting.ledger_check import verify_ledger


def entry(stage="quantizer/0", event=None, audience=("market",), depends_on=(), **more):
    return Entry(
        market="de",
        stage=stage,
        event=event or dp_sgd_event(1.0, 0.1, 10),
        mechanism="DP-SGD",
        audience=audience,
        depends_on=depends_on,
        sensitivity=1.0,
        delta=1e-4,
        seeded=False,
        **more,
    )


@pytest.fixture
def path(tmp_path):
    ledger = Ledger(tmp_path / "de.jsonl")
    for round in range(4):
        ledger.append(entry(round=round))
    return ledger.path


def test_a_ledger_reads_back_what_was_written(path):
    entries, head = read_ledger(path)
    assert [found.round for found in entries] == [0, 1, 2, 3]
    assert head == Ledger(path).head


def test_a_reopened_ledger_goes_on_with_the_chain(path):
    Ledger(path).append(entry(round=4))
    assert len(read_ledger(path)[0]) == 5


def test_an_edited_line_is_named(path):
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"noise_multiplier":1.0', '"noise_multiplier":9.0')
    path.write_text("".join(lines))
    with pytest.raises(LedgerError, match=r"de.jsonl:2: its hash does not match"):
        read_ledger(path)


def test_an_edited_line_with_a_recomputed_hash_breaks_the_next_one(path):
    lines = path.read_bytes().splitlines(keepends=True)
    from privacy.accounting.ledger import _line

    previous = json.loads(lines[0])["hash"]
    lines[1], _ = _line(entry(event=dp_sgd_event(9.0, 0.1, 10), round=1), 1, previous)
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"de.jsonl:3: does not follow"):
        read_ledger(path)


def test_a_dropped_line_is_named(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(LedgerError, match=r"de.jsonl:2"):
        read_ledger(path)


def test_swapped_lines_are_named(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(LedgerError, match=r"de.jsonl:2"):
        read_ledger(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ledger") / "de.jsonl"
    ledger = Ledger(path)
    ledger.append(entry())
    ledger.append(entry(round=1))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerError):
        read_ledger(path)


def test_a_torn_last_line_is_cut_when_a_run_goes_on(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"entry":{"aud')
    with pytest.raises(LedgerError, match="incomplete"):
        read_ledger(path)  # an auditor sees it
    assert len(Ledger(path).entries) == 4
    assert path.read_bytes() == whole


def test_what_a_stage_depends_on_counts():
    source = entry("embedding", dp_event.NonPrivateDpEvent(), audience=())
    release = entry("quantizer/0", depends_on=("embedding",))
    unrelated = entry("other", audience=())
    entries = [source, release, unrelated]
    assert depended_on(entries, [release]) == [source, release]
    found = view_guarantee(entries, "market")
    assert found.epsilon is None
    assert found.basis.startswith("none: what the view observes depends on a stage without")
    alone = conditional_guarantee(entries, "quantizer/")
    assert alone is not None
    assert 0 < alone.epsilon < 10
    assert alone.basis == "conditional on the outputs of: embedding"


def test_dependencies_are_followed_to_the_end():
    entries = [
        entry("a", dp_event.NonPrivateDpEvent(), audience=()),
        entry("b", audience=(), depends_on=("a",)),
        entry("c", depends_on=("b",)),
    ]
    assert view_guarantee(entries, "market").epsilon is None


def test_a_view_that_sees_ciphertexts_rests_on_encryption():
    entries = [entry()]
    found = view_guarantee(entries, "server", encrypted=True)
    assert found.epsilon == 0.0
    assert found.basis.startswith("computational")
    assert view_guarantee([entry(audience=("market", "server"))], "server").epsilon > 0


def test_verification_accepts_what_the_ledger_proves(path):
    epsilon = view_guarantee(Ledger(path).entries, "market").epsilon
    assert verify_ledger(path, {"market": epsilon}) == []


def test_verification_rejects_a_claim_below_what_was_spent(path):
    epsilon = view_guarantee(Ledger(path).entries, "market").epsilon
    found = verify_ledger(path, {"market": epsilon * 0.9})
    assert len(found) == 1
    assert "claimed epsilon" in found[0].what


def test_verification_compares_the_accountants_on_a_stage_whose_inputs_are_not_private(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "de.jsonl")
    ledger.append(entry("embedding", dp_event.NonPrivateDpEvent(), audience=()))
    ledger.append(entry("quantizer/0", depends_on=("embedding",)))
    assert verify_ledger(ledger.path, {"market": None}) == []
    halved = ledger_check.prv_epsilon
    monkeypatch.setattr(ledger_check, "prv_epsilon", lambda events, delta: 0.5 * halved(events, delta))
    (found,) = verify_ledger(ledger.path, {"market": None})
    assert "stage quantizer" in found.where
    assert "accountants disagree" in found.what


def test_verification_rejects_another_markets_ledger(path):
    other = path.with_name("fr.jsonl")
    path.rename(other)
    assert any("another market" in found.what for found in verify_ledger(other, {}))


def test_verification_rejects_a_missing_or_empty_ledger(tmp_path):
    assert verify_ledger(tmp_path / "de.jsonl", {})
    (tmp_path / "de.jsonl").touch()
    assert verify_ledger(tmp_path / "de.jsonl", {})
