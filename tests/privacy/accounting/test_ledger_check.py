from dataclasses import replace

import pytest
from dp_accounting import dp_event

from privacy.accounting import ledger_check
from privacy.accounting.guarantees import view_guarantee
from privacy.accounting.ledger import Ledger
from privacy.accounting.ledger_check import check_claims, unaccountable, verify_ledger
from privacy.mechanisms.events import dp_sgd_event
from tests.privacy.accounting.test_ledger import OPENING, entry


def written(path, *entries):
    ledger = Ledger(path)
    ledger.open(OPENING)
    for found in entries:
        ledger.seal(ledger.charge(found), "digest")
    return ledger


@pytest.fixture
def ledger(tmp_path):
    return written(tmp_path / "de.jsonl", *(entry(round=round) for round in range(4)))


def test_what_the_ledger_proves_is_accepted(ledger):
    epsilon = view_guarantee(ledger.entries, "market").epsilon
    assert verify_ledger(ledger.path, {"market": epsilon}) == []


def test_a_claim_below_what_was_spent_is_found(ledger):
    epsilon = view_guarantee(ledger.entries, "market").epsilon
    (found,) = verify_ledger(ledger.path, {"market": epsilon * 0.9})
    assert "claimed epsilon" in found.what


def test_a_claim_of_no_bound_where_there_is_one_is_stale(ledger):
    (found,) = verify_ledger(ledger.path, {"market": None})
    assert "metrics are stale" in found.what


def test_the_accountants_are_compared_on_a_stage_whose_inputs_are_not_private(tmp_path, monkeypatch):
    ledger = written(
        tmp_path / "de.jsonl",
        entry("embedding", dp_event.NonPrivateDpEvent(), audience=()),
        entry("quantizer/0", depends_on=("embedding",)),
    )
    assert verify_ledger(ledger.path, {"market": None}) == []
    honest = ledger_check.prv_epsilon
    monkeypatch.setattr(ledger_check, "prv_epsilon", lambda events, delta: 0.5 * honest(events, delta))
    (found,) = verify_ledger(ledger.path, {"market": None})
    assert "stage quantizer" in found.where
    assert "accountants disagree" in found.what


def test_another_markets_ledger_is_found(ledger):
    other = ledger.path.with_name("fr.jsonl")
    ledger.path.rename(other)
    assert any("another market" in found.what for found in verify_ledger(other, {}))


def test_entries_of_different_delta_are_found(ledger):
    entries = [ledger.entries[0], replace(ledger.entries[1], delta=1e-2)]
    assert any("disagree on delta" in found.what for found in check_claims(ledger.path, entries, {}))


def test_a_missing_an_empty_and_a_broken_ledger_are_found_and_the_line_is_named(ledger, tmp_path):
    assert verify_ledger(tmp_path / "fr.jsonl", {})
    (tmp_path / "fr.jsonl").touch()
    assert verify_ledger(tmp_path / "fr.jsonl", {})
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    (found,) = verify_ledger(ledger.path, {})
    assert found.where == f"{ledger.path}:3"


@pytest.mark.parametrize(
    "changed",
    [
        {"event": dp_event.GaussianDpEvent(1e-200)},
        {"event": dp_event.GaussianDpEvent(float("inf"))},
        {"event": dp_sgd_event(1.0, 0.1, 10**30)},
        {"event": dp_sgd_event(1.0, 0.1, 0)},
        {"view_events": {"market": dp_event.GaussianDpEvent(1e-200)}},
        {"delta": 0.0},
        {"delta": "0.1"},
        {"coordinates": 10**30},
        {"coordinates": True},
        {"extra_delta": -1.0},
        {"audience": (3,)},
        {"stage": None},
    ],
)
def test_no_accountant_is_asked_what_has_no_answer_in_bounded_time(ledger, changed):
    wrong = replace(ledger.entries[0], **changed)
    assert unaccountable([*ledger.entries, wrong])
    assert unaccountable(ledger.entries) is None
    (found,) = check_claims(ledger.path, [*ledger.entries, wrong], {"market": 1.0})
    assert found.where == str(ledger.path)
