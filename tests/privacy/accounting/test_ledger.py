import json
import os

import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.guarantees import conditional_guarantee, view_guarantee
from privacy.accounting.ledger import (
    CHARGE,
    GENESIS,
    Entry,
    Ledger,
    LedgerError,
    depended_on,
    encode_line,
    read_ledger,
)
from privacy.mechanisms.events import dp_sgd_event

OPENING = {"run": "r", "users": 10}


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
    """An opening line, and two rounds, each charged and sealed."""
    ledger = Ledger(tmp_path / "de.jsonl")
    ledger.open(OPENING)
    for round in range(2):
        ledger.seal(ledger.charge(entry(round=round), data="rows", key=f"key {round}"), f"digest {round}", "meter")
    return ledger.path


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_a_ledger_reads_back_what_was_written(path):
    found = read_ledger(path)
    assert found.kinds == ("open", "charge", "seal", "charge", "seal")
    assert found.opening == OPENING
    assert [charge.entry.round for charge in found.charges] == [0, 1]
    assert [(charge.data, charge.key, charge.line) for charge in found.charges] == [
        ("rows", "key 0", 2),
        ("rows", "key 1", 4),
    ]
    assert {sequence: seal.digest for sequence, seal in found.seals.items()} == {1: "digest 0", 3: "digest 1"}
    assert found.released == {"digest 0", "digest 1"}
    assert found.closing is None
    assert found.head == Ledger(path).head


def test_a_reopened_ledger_goes_on_with_the_chain(path):
    ledger = Ledger(path)
    ledger.open(OPENING)  # the same again is nothing new
    ledger.note(entry("refinement"))
    ledger.close({"lines": 7})
    found = read_ledger(path)
    assert found.kinds == ("open", "charge", "seal", "charge", "seal", "note", "close")
    assert [one.stage for one in found.entries] == ["quantizer/0", "quantizer/0", "refinement"]
    assert len(found.charges) == 2
    assert found.closing == {"lines": 7}


def test_a_run_that_was_opened_with_something_else_is_refused(path):
    with pytest.raises(LedgerError, match=r"de.jsonl:1: the run was opened with another users"):
        Ledger(path).open({**OPENING, "users": 11})


def test_a_charge_is_sealed_once_and_nothing_follows_the_last_line(path):
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="is sealed already"):
        ledger.seal(ledger.charges[0], "another digest")
    ledger.close({})
    with pytest.raises(LedgerError, match="is closed"):
        ledger.charge(entry(round=2))


def test_an_append_that_fails_leaves_the_ledger_unusable_and_the_file_as_it_was(path, monkeypatch):
    """What is on the disk is the truth: the same charge is not lost, nor counted when nothing says so."""
    before, ledger = path.read_bytes(), Ledger(path)

    def failing(descriptor):
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="input/output"):
            ledger.charge(entry(round=2))
    with pytest.raises(LedgerError, match="open the ledger again"):
        ledger.charge(entry(round=2))
    assert path.read_bytes() == before
    assert len(Ledger(path).charges) == 2


def test_an_edited_line_is_named(path):
    lines = lines_of(path)
    lines[1] = lines[1].replace(b'"noise_multiplier":1.0', b'"noise_multiplier":9.0')
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"de.jsonl:2: its hash does not match"):
        read_ledger(path)


def test_an_edited_line_with_a_recomputed_hash_breaks_the_next_one(path):
    lines = lines_of(path)
    previous = json.loads(lines[0])["hash"]
    body = {"entry": entry(event=dp_sgd_event(9.0, 0.1, 10), round=0).to_data(), "data": "rows", "key": "key 0"}
    lines[1], _ = encode_line(CHARGE, body, 1, previous)
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"de.jsonl:3: does not follow"):
        read_ledger(path)


@pytest.mark.parametrize(
    ("order", "line"),
    [([0, 2, 3, 4], 2), ([0, 2, 1, 3, 4], 2), ([1, 2, 3, 4], 1), ([0, 1, 3, 2, 4], 3)],
    ids=["dropped", "swapped", "without its first", "two swapped"],
)
def test_a_dropped_or_moved_line_is_named(path, order, line):
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[index] for index in order))
    with pytest.raises(LedgerError, match=rf"de.jsonl:{line}: "):
        read_ledger(path)


def chained(path, *lines):
    head, written = GENESIS, b""
    for number, (kind, body) in enumerate(lines):
        raw, head = encode_line(kind, body, number, head)
        written += raw
    path.write_bytes(written)


CHARGED = ("charge", {"entry": entry().to_data(), "data": "", "key": ""})
OPENED = ("open", {"commitments": {}})
SEALED = ("seal", {"charge": 1, "digest": "", "meter": ""})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([CHARGED], "begins with its opening line"),
        ([OPENED, OPENED], "begins with its opening line, and has one"),
        ([OPENED, SEALED], "no charge without a seal"),
        ([OPENED, CHARGED, SEALED, SEALED], "no charge without a seal"),
        ([OPENED, ("close", {"statement": {}}), CHARGED], "follows the closing line"),
        ([OPENED, ("paid", {})], "unknown kind"),
        ([OPENED, ("charge", {"entry": {}, "data": "", "key": ""})], "not a ledger line"),
        ([OPENED, ("charge", [])], "not a ledger line"),
        ([("open", {"commitments": 3})], "not a ledger line"),
    ],
)
def test_a_chain_that_holds_does_not_make_a_ledger(tmp_path, lines, message):
    path = tmp_path / "de.jsonl"
    chained(path, *lines)
    with pytest.raises(LedgerError, match=rf"de.jsonl:{len(lines)}: .*{message}"):
        read_ledger(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ledger") / "de.jsonl"
    ledger = Ledger(path)
    ledger.open(OPENING)
    ledger.seal(ledger.charge(entry()), "digest")
    ledger.close({"lines": 4})
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerError):
        read_ledger(path)


def test_a_torn_last_line_is_cut_when_a_run_goes_on(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"body":{"ent')
    with pytest.raises(LedgerError, match="incomplete"):
        read_ledger(path)  # an auditor sees it
    assert len(Ledger(path).charges) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", ["1" * 5000, "1e999", "NaN"], ids=["long", "infinite", "not a number"])
def test_numbers_that_are_none_end_in_one_line(path, number):
    lines = lines_of(path)
    lines[1] = lines[1].replace(b'"noise_multiplier":1.0', f'"noise_multiplier":{number}'.encode())
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"de.jsonl:2"):
        read_ledger(path)


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
