import os
import subprocess
import sys

import numpy as np
import pytest

from fedmm_secure.storage import memory
from fedmm_secure.storage.memory import PeakMemory, own_peak
from tests.processes import measured as memory_of_tree

MEGABYTE = 2**20
pytestmark = pytest.mark.skipif(
    not memory_of_tree(os.getpid()), reason="this kernel does not tell what processes share"
)


@pytest.fixture(autouse=True)
def measuring(monkeypatch):
    monkeypatch.setattr(memory, "memory_of_tree", memory_of_tree)


def test_the_peak_of_what_went_on_is_seen_and_kept_by_name():
    found = PeakMemory({"before": 7})
    with found.during("large"):
        held = np.ones(64 * MEGABYTE // 8)
    del held
    with found.during("small"):
        pass
    assert found.largest["before"] == 7
    assert found.largest["large"] - found.largest["small"] > 40 * MEGABYTE
    assert own_peak() > found.largest["small"] / 2


def test_processes_that_were_started_count():
    before = memory_of_tree(os.getpid())
    code = f"held = bytearray(b'x') * {64 * MEGABYTE}; print(len(held), flush=True); input()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert memory_of_tree(os.getpid()) - before > 60 * MEGABYTE
        child.communicate(b"\n")
    assert memory_of_tree(os.getpid()) - before < 30 * MEGABYTE
