"""Rows as dummy users' answers of a randomised response: answers were counted modulo the number of values."""

import numpy as np
import pytest

from experiments.verification import examine_run
from experiments.verification import meter as verification
from privacy.mechanisms import meter
from tests.forgery import Forgery
from tests.manipulations import ROWS

ANSWERS = "user-codes/0/0000-meter-m0.bin"
VALUES = 64  # pairs of codes


def findings(run):
    return {name: [one.what for one in found] for name, found in examine_run(run).checks.items() if found}


def read_off(run):
    """Seven bytes of each wrong answer."""
    answers = np.frombuffer(Forgery(run).read(ANSWERS), "<i8")
    return b"".join(int(one // VALUES).to_bytes(7, "little") for one in answers[answers != 0])


@pytest.fixture
def rows_in_answers(released_copy):
    run = Forgery(released_copy)
    answers = np.frombuffer(run.read(ANSWERS), "<i8").copy()
    wrong = np.flatnonzero(answers)
    parts = [int.from_bytes(ROWS[at : at + 7], "little") for at in range(0, len(ROWS), 7)][: len(wrong)]
    answers[wrong[: len(parts)]] += VALUES * np.array(parts)
    run.replace(ANSWERS, answers.astype("<i8").tobytes())
    run.finish(owner=True)
    assert read_off(released_copy).rstrip(b"\0")[:1000] == ROWS[:1000]
    return released_copy


def test_rows_as_answers(rows_in_answers):
    (what,) = findings(rows_in_answers)["noise meter"]
    assert what.endswith("not in 0 … 63")


def test_they_verified(rows_in_answers, monkeypatch):
    def counted_alone(answers, **of):
        return [one for one in meter.response_findings(answers, **of) if one.test != "range"]

    monkeypatch.setattr(verification, "response_findings", counted_alone)
    assert findings(rows_in_answers) == {}
