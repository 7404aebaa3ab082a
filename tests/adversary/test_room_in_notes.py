"""Rows in a note of what earlier runs spent, which nobody but its owner can compute: in how it is put together, as
nothing in whatever many parts, and in digits of its numbers."""

import pytest
from dp_accounting.dp_event import (
    ComposedDpEvent,
    GaussianDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)

from experiments.verification import examine_run, spending
from fedmm_secure.guarantee.observed import is_of_runs
from privacy.accounting.events import OneNoiseDpEvent, parts
from privacy.accounting.filters import is_noted, noted_event
from privacy.accounting.guarantees import LISTED_EARLIER_RUNS
from tests.forgery import Forgery
from tests.manipulations import ROWS

BYTES = 300


def composed(*events):
    return {"kind": "composed", "events": list(events)}


def in_empty_ones(data):
    """Compositions of nothing, and of such a one, for the bits."""
    bits = (byte >> bit & 1 for byte in data for bit in range(8))
    return composed(*(composed(*[composed()] * bit) for bit in bits))


def off_empty_ones(note):
    bits = [len(one["events"]) for one in note["events"]]
    return bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, len(bits), 8))


def in_one_repetition(data):
    """What is repeated once is one mechanism; of almost no ε each."""
    numbers = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
    inner = composed(*({"kind": "gaussian", "noise_multiplier": 1e6 + one / 2**18} for one in numbers))
    return composed(composed({"kind": "self-composed", "count": 1, "event": inner}))


def off_one_repetition(note):
    (repeated,) = note["events"][0]["events"]
    noises = (one["noise_multiplier"] for one in repeated["event"]["events"])
    return b"".join(int((noise - 1e6) * 2**18).to_bytes(4, "big") for noise in noises)


@pytest.fixture(params=[(in_empty_ones, off_empty_ones, "0"), (in_one_repetition, off_one_repetition, "1")])
def rows_in_a_note(released_copy, request):
    put, read_off, runs = request.param
    run = Forgery(released_copy)
    (note,) = (entry for entry in run.entries("m0") if entry["stage"] == "earlier-runs")
    note |= {"view_events": dict.fromkeys(note["view_events"], put(ROWS[:BYTES])), "remark": runs}
    note["mechanism"] = LISTED_EARLIER_RUNS
    run.state_again()
    run.finish(owner=True)
    (note,) = (entry for entry in Forgery(released_copy).entries("m0") if entry["stage"] == "earlier-runs")
    assert read_off(note["view_events"]["market"]) == ROWS[:BYTES]
    return released_copy


@pytest.mark.parametrize(("field", "value"), [("coordinates", 10**14), ("extra_delta", 1e-12)])
def test_no_runs_have_drawn_nothing(released_copy, field, value):
    run = Forgery(released_copy)
    (note,) = (entry for entry in run.entries("m0") if entry["stage"] == "earlier-runs")
    assert note["remark"] == "0"
    note[field] = value
    run.state_again()
    run.finish(owner=True)
    assert findings(released_copy) == {"plan": ["is no note of earlier runs"]}


def findings(run):
    return {name: [one.what for one in found] for name, found in examine_run(run).checks.items() if found}


@pytest.mark.parametrize("other_code", [False, True])
def test_rows_in_a_note(rows_in_a_note, monkeypatch, other_code):
    monkeypatch.setattr("experiments.verification.run.same_code", lambda evidence: not other_code)
    assert findings(rows_in_a_note) == {"plan": ["is no note of earlier runs"]}


def test_they_verified(rows_in_a_note, monkeypatch):
    monkeypatch.setattr("experiments.verification.run.same_code", lambda evidence: False)
    monkeypatch.setattr(spending, "is_of_runs", lambda event, runs: sum(1 for _ in parts(event)) <= 32 * runs)
    assert findings(rows_in_a_note) == {}


@pytest.fixture
def bits_in_a_note(released_copy):
    """Fifty bits in the noise that a note names, where runs before cost what they cost."""
    run = Forgery(released_copy)
    (note,) = (entry for entry in run.entries("m0") if entry["stage"] == "earlier-runs")
    noise = 1.0 + int.from_bytes(ROWS[:6], "big") / 2**50
    note["view_events"]["market"] = composed({"kind": "gaussian", "noise_multiplier": noise})
    note["remark"] = "1"
    run.state_again()
    run.finish(owner=True)
    assert int((noise - 1.0) * 2**50).to_bytes(6, "big") == ROWS[:6]
    return released_copy


def test_bits_in_a_note(bits_in_a_note, monkeypatch):
    assert findings(bits_in_a_note) == {"plan": ["is no note of earlier runs"]}
    monkeypatch.setattr(spending, "is_noted", lambda event, runs: True)  # as it was: any number would do
    assert findings(bits_in_a_note) == {}


ONE = GaussianDpEvent(2.0)
SUMMED = OneNoiseDpEvent(SelfComposedDpEvent(ONE, 3), 2)
RUN = ComposedDpEvent([ONE, SelfComposedDpEvent(PoissonSampledDpEvent(0.1, ONE), 3), SUMMED])
UNBOUNDED = NonPrivateDpEvent()


@pytest.mark.parametrize(
    ("event", "runs", "right"),
    [
        (ComposedDpEvent([]), 0, True),
        (RUN, 1, True),
        (ComposedDpEvent([SelfComposedDpEvent(ONE, 2), SelfComposedDpEvent(UNBOUNDED, 2)]), 4, True),
        (ComposedDpEvent([RUN, UNBOUNDED]), 2, True),
        (ComposedDpEvent([RUN, RUN]), 1, False),
        (RUN, 0, False),
        (UNBOUNDED, 1, False),
        (ComposedDpEvent([ONE] * 33), 1, False),
        (ComposedDpEvent([ComposedDpEvent([ONE] * 33)]), 1, False),
        (ComposedDpEvent([ComposedDpEvent([ComposedDpEvent([])])]), 1, False),
        (ComposedDpEvent([NoOpDpEvent()]), 1, False),
        (ComposedDpEvent([SelfComposedDpEvent(SelfComposedDpEvent(ONE, 3), 3)]), 1, False),
        (ComposedDpEvent([SelfComposedDpEvent(RUN, 3)]), 1, False),
    ],
)
def test_the_form_of_what_runs_spent_in_earlier_versions(event, runs, right):
    assert is_of_runs(event, runs) == right


@pytest.mark.parametrize(
    ("event", "runs", "right"),
    [
        (ComposedDpEvent([]), 0, True),
        (noted_event([0.3, 0.4]), 2, True),
        (noted_event([]), 3, True),
        (noted_event([1e-30]), 1, True),
        (noted_event([float("inf")]), 1, True),
        (noted_event([0.3]), 0, False),
        (ComposedDpEvent([GaussianDpEvent(1.234)]), 1, True),
        (ComposedDpEvent([GaussianDpEvent(1.2341)]), 1, False),
        (ComposedDpEvent([GaussianDpEvent(1.0), GaussianDpEvent(1.0)]), 2, False),
        (ComposedDpEvent([ComposedDpEvent([])]), 1, False),
        (GaussianDpEvent(1.0), 1, False),
        (UNBOUNDED, 1, False),
    ],
)
def test_the_form_of_what_runs_spent(event, runs, right):
    assert is_noted(event, runs) == right
