"""Rows as what a signed message carries, where nobody reads it: attempts that were not summed, courses that never were.

Each is the owner's, who signs all of it again and hands the run out without what markets keep. A plain reader reads the
rows off the payload; one check alone finds them.
"""

import hashlib
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments.verification import examine_run, messages, transcript
from experiments.verification.payloads import Forms
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.messages import pack, unpack
from fedmm_secure.federation.transcript import (
    AGGREGATE,
    HELLO,
    METER,
    STATEMENT,
    SUM,
    UPDATE,
    read_index,
    record_file,
)
from fedmm_secure.guarantee.releases import again
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.results.metrics import communication
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.run_directory import read_config
from privacy.accounting.ledger import CHARGE, SEAL
from privacy.aggregation.identities import Identity
from tests.conftest import tiny
from tests.forgery import Forgery, Line
from tests.manipulations import ROWS


class Owner(Forgery):
    """Has the keys of all parties, and fits what follows from the transcript's size."""

    def like(self, kind, sender="m0"):
        """The first record of a kind in a round, or of the introductions."""
        kinds = [record for record in self.records.values() if (record.kind, record.sender) == (kind, sender)]
        return min(kinds, key=lambda record: (record.stage != "quantizer/0", record.file))

    def put(self, record, data, **changed):
        moved = replace(record, sha256=hashlib.sha256(data).hexdigest(), size=len(data), **changed)
        name = record_file(moved.stage, moved.round, moved.attempt, moved.kind, moved.sender)
        self.add(replace(moved, file=name), data)

    def say(self, kind, payload=None, **changed):
        """A message of m0 like one that it sent, with another payload or header; its bytes."""
        record = self.like(kind)
        header, sent = unpack(self.read(record.file))
        signer = Identity.load(self.directory / "state" / "keys" / "m0")
        message = pack(replace(header, **changed), sent if payload is None else payload, signer.sign)
        self.put(record, message, **{name: value for name, value in changed.items() if name == "attempt"})
        return message

    def hand_out(self):
        """Findings by check."""
        sent = communication(list(self.records.values()), read_config(self.directory).federation.rounds)
        self.json("metrics.json", lambda metrics: metrics.update(communication=sent))
        self.finish(owner=True)
        for name in ("private", "codes", "predictions", "state"):
            shutil.rmtree(self.directory / name)
        checks = examine_run(self.directory).checks
        return {name: [found.what for found in findings] for name, findings in checks.items() if findings}


def read_off(run) -> bool:
    """Whether a plain reader finds the rows in the transcript."""
    return any(ROWS in (run / "transcript" / record.file).read_bytes() for record in read_index(run / "transcript"))


def statement_of_an_attempt(run):
    run.say(STATEMENT, ROWS, attempt=1)


def hello_of_a_course(run):
    """Of several of one market the last was looked at."""
    run.say(HELLO, ROWS, attempt=1)
    run.say(HELLO, attempt=2)


def opened_sum(run):
    """Of another length than the codebook, so that nothing was made of it."""
    run.replace(run.like(SUM, "server").file, ROWS)


def update_of_an_attempt(run):
    """An attempt that sends the same for a smaller cohort costs nothing; what it sealed was compared with itself."""
    message = run.say(UPDATE, ROWS, attempt=1)
    charge_again(run, hashlib.sha256(message).hexdigest())


def spare_values_of_an_attempt(run):
    message = run.say(UPDATE, attempt=1)
    run.put(run.like(METER), ROWS, attempt=1)
    charge_again(run, hashlib.sha256(message).hexdigest())


def charge_again(run, digest):
    """Charge the first round's second attempt, and seal it."""
    plan = examine_run(run.directory).plans["m0"]
    entry = again(plan.of_round("quantizer/0", 0, 1), 1).entry("m0", delta=plan.delta, seeded=False)
    charge = Line(CHARGE, {"entry": entry.to_data(), "data": "", "key": ""})
    seal = Line(SEAL, {"charge": 0, "digest": digest, "meter": ""}, charge)
    lines = run.ledgers["m0"]
    at = next(index for index, line in enumerate(lines) if line.kind == SEAL and line.stage == "quantizer/0") + 1
    lines[at:at] = [charge, seal]


FOUND = {
    statement_of_an_attempt: {"messages": "attempt 1 where 0 markets are missing"},
    hello_of_a_course: {"transcript": "nothing plans it", "messages": "a hello of 4800 bytes"},
    opened_sum: {"messages": "a sum of 4800 bytes"},
    update_of_an_attempt: {"messages": "attempt 1 where 0 markets are missing"},
    spare_values_of_an_attempt: {
        "messages": "attempt 1 where 0 markets are missing",
        "transcript": "a meter of market m0 without a charge",
    },
}


@pytest.mark.parametrize("manipulate", FOUND, ids=lambda one: one.__name__)
def test_rows_where_nobody_reads(released_copy, manipulate):
    run = Owner(released_copy)
    manipulate(run)
    found = run.hand_out()
    assert read_off(released_copy)
    assert found.keys() == FOUND[manipulate].keys()  # what nothing else sees
    for name, what in FOUND[manipulate].items():
        assert all(re.search(what, text) for text in found[name])


@pytest.mark.parametrize("manipulate", [hello_of_a_course, opened_sum], ids=lambda one: one.__name__)
def test_they_verified(released_copy, manipulate, monkeypatch):
    """As it was: a thousand courses, and messages whose signatures hold."""
    monkeypatch.setattr(Forms, "check", lambda self, header, payload: None)
    monkeypatch.setattr(messages, "sum_problem", lambda *_: None)
    monkeypatch.setattr(transcript, "noted_courses", lambda content: 1000)
    run = Owner(released_copy)
    manipulate(run)
    assert run.hand_out() == {}
    assert read_off(released_copy)


def test_a_sum_that_nothing_encrypts_is_its_aggregate(tmp_path):
    """Without markets' own updates and models, both of which nobody has to show, it was held to nothing."""
    settings = tiny(
        aggregation={"kind": "plaintext"}, federation={"rounds": 1}, ctr={"baselines": [], "model": "logistic"}
    )
    run_directory.create(tmp_path / "run", settings)
    run_pipeline(settings, prepare_markets(settings.data), tmp_path / "run")
    run = Owner(tmp_path / "run")
    shutil.rmtree(run.directory / "models")
    file = run.like(SUM, "server").file
    total = np.frombuffer(run.read(file), "<i8").copy()
    total[: len(ROWS) // 1000] = list(ROWS[: len(ROWS) // 1000])
    run.replace(file, total.tobytes())
    assert run.hand_out() == {"messages": ["the sum in the clear is not the aggregate, which nothing encrypts"]}


@pytest.mark.parametrize("cohort", [("m0", "m1", "m1", "m2"), ("m2", "m1", "m0"), ("m1", "m2")])
def test_a_cohort_is_a_list_of_markets_and_no_text(released_copy, cohort):
    """In names of markets that are said again and again, and in their order, there are 64 KiB of a header's room."""
    run = Owner(released_copy)
    run.say(UPDATE, cohort=cohort)
    assert any("is none of this federation" in what for what in run.hand_out()["messages"])


def test_a_hello_names_nobody(released_copy):
    run = Owner(released_copy)
    run.say(HELLO, cohort=("m0", "m1"))
    assert "a hello names no cohort" in run.hand_out()["messages"]


@pytest.mark.parametrize("kind", [UPDATE, AGGREGATE])
def test_what_is_encrypted_has_its_length(released_copy, kind):
    """In a deployed market's own directory nobody adds its update to those of others."""
    config = read_config(released_copy)
    plan = AggregationPlan.of(config, examine_run(released_copy).plans["m0"].sizes)
    forms = Forms(config, plan, ("m0", "m1", "m2"))
    run = Owner(released_copy)
    header, payload = unpack(run.read(run.like(kind, "server" if kind == AGGREGATE else "m0").file))
    forms.check(header, payload)
    for other in (payload + b"\0", payload[:-1], ROWS, b""):
        with pytest.raises(messages.MessageError, match="its payload is none of quantizer/0"):
            forms.check(header, other)


def test_every_kind_of_message_has_a_form(released_copy):
    config = read_config(released_copy)
    plan = AggregationPlan.of(config, examine_run(released_copy).plans["m0"].sizes)
    assert Forms(config, plan, ()).kinds == transcript.OF_SERVER
