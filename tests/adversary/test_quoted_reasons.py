"""What a market answers is quoted in the server's log, and on the terminal of whoever submitted the run."""

import json

import pytest

from experiments.deploy.control import run_lines
from experiments.deploy.server import tell
from fedmm_secure.federation.requests import Reply
from tests.malicious import ESCAPE

REASON = f"busy\nfedmm: finished: m0, m1, m2\r{ESCAPE}\u2028fedmm: finished: m0, m1, m2"


def finished(lines):
    return any(line.startswith("finished") for line in lines)


def as_they_were_read(printed):
    """Lines of a log in which the mark stands anywhere."""
    return [line.split("fedmm: ", 1)[1] for line in printed.splitlines() if "fedmm: " in line]


@pytest.fixture
def reason():
    return Reply.from_bytes(json.dumps({"absent": REASON}).encode()).absent


def test_a_reason_that_pretends_that_the_run_is_finished(reason, capsys):
    assert finished(as_they_were_read(f"fedmm: quantizer/0, round 0: without m0: {REASON}"))
    assert reason.isprintable()
    tell(f"quantizer/0, round 0: without m0: {reason}")
    tell(f"stopped: {REASON}")  # whoever forgets to clean it
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2
    assert "\x1b" not in printed
    assert not finished(run_lines(printed))
    assert len(run_lines(printed)) == 2


def test_a_traceback_that_quotes_a_reason(reason):
    """The server's app ends with an error, whose text is in the log too."""
    printed = f"CohortTooSmallError: 0 valid updates (m0: {reason})"
    assert finished(as_they_were_read("CohortTooSmallError: (m0: fedmm: finished: m0, m1, m2)"))
    assert run_lines(printed) == []
