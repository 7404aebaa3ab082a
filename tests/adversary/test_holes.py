"""Files with holes: no room on the disk of whoever hands a run on, gigabytes to who reads it."""

import os
import time

import pytest

from experiments.verification import examine_run
from experiments.verification.evidence import MAX_EVIDENCE_BYTES, irregular
from privacy.foreign import MAX_BYTES, ForeignDirectory

LARGEST = MAX_BYTES - 1  # that one file may have


@pytest.fixture
def with_holes(released_copy):
    """Each as large as a file may be, so that none is refused by itself."""
    for folder, _, names in os.walk(released_copy / "models"):
        for name in names:
            os.truncate(os.path.join(folder, name), LARGEST)
    for folder in ("codes", "predictions"):
        for path in (released_copy / folder).iterdir():
            os.truncate(path, LARGEST)
    return released_copy


def test_a_run_that_is_gigabytes_is_not_read(with_holes):
    evidence = ForeignDirectory(with_holes)
    assert list(evidence.irregular()) == []  # as it was looked at
    assert evidence.size(("models", "codes", "predictions")) > MAX_EVIDENCE_BYTES
    taken = sum(path.stat().st_blocks * 512 for path in with_holes.rglob("*"))
    assert taken < 2**24
    start = time.perf_counter()
    (found,) = examine_run(with_holes).findings
    assert "bytes of evidence, of which at most" in found.what
    assert time.perf_counter() - start < 5  # it took minutes


def test_what_is_no_evidence_is_not_counted(released_copy):
    (released_copy / "log.jsonl").touch()
    os.truncate(released_copy / "log.jsonl", MAX_EVIDENCE_BYTES + 1)
    assert irregular(released_copy) == []
