"""Rows that worker processes are sent must not lie on the disk, where SIGKILL leaves them."""

import os
import tempfile

import pytest

from fedmm_secure.executors.processes import WorkerProcesses
from tests.fedmm_secure.executors import tasks


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_workers_are_sent_is_not_on_the_disk(monkeypatch, tmp_path, on_disk):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if on_disk:  # as it was, and is where there are no files in memory: a kill now would leave it
        monkeypatch.delattr(os, "memfd_create")
    (done,) = WorkerProcesses(1, apart=True).run(tasks.on_the_disk, "rows", [(tmp_path,)], rows=True)
    assert sum(name.startswith("fedmm-workers-") for name in done.result()) == on_disk
