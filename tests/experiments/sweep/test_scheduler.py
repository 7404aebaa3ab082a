"""Which cells leave the machine: those that nothing is spent on."""

import io
import shutil
import tarfile
import zipfile
from dataclasses import dataclass, field, replace

import pytest

from experiments.sweep import scheduler
from experiments.sweep.cells import bring_home, cell_status, leaves, read_failure, run_elsewhere
from experiments.sweep.files import DONE_FILE
from experiments.sweep.grid import Cell, SweepGrid
from experiments.sweep.scheduler import Sweep, run_cells
from fedmm_secure.config import config_from_data
from fedmm_secure.executors.base import Done, WorkerLostError
from fedmm_secure.storage.files import new_directory
from fedmm_secure.storage.packed import pack_directory, unpack_directory
from tests.conftest import tiny

GENERATED = Cell("generated_0", {}, 0, tiny(ctr={"baselines": ["popularity"], "model": "logistic"}), None)
FILES = {
    "data": {"markets": {name: {"path": f"{name}.csv"} for name in ("a", "b", "c")}},
    "privacy": {"catalogue": "declared"},
}


def reads_files(epsilon):
    privacy = {"catalogue": "declared", "epsilon": epsilon}
    return Cell(f"files_{epsilon}", {}, 0, config_from_data({**FILES, "privacy": privacy}, source="test"), None)


@dataclass
class Recording:
    """Runs nothing, and remembers what it was asked to."""

    asked: list = field(default_factory=list)
    error: BaseException | None = None

    def run(self, call, shared, tasks, *, rows=False, tries=3):
        self.asked += [task[-1] for task in tasks]
        assert not rows
        yield from (Done(index, b"", self.error) for index in range(len(tasks)))


def test_cells_that_read_files_stay_where_their_account_is(tmp_path, monkeypatch):
    """Whatever a cell draws from somebody's rows is entered here first: no worker without this account gets one."""
    cells = (reads_files(None), GENERATED, reads_files(4.0))
    here, elsewhere = Recording(), Recording()
    monkeypatch.setattr(scheduler, "WorkerProcesses", lambda workers, apart: here)
    monkeypatch.setattr(scheduler, "bring_home", lambda packed, directory, cell: None)
    told = []
    sweep = Sweep(tmp_path, SweepGrid(), (), cells)
    run_cells(sweep, workers=2, elsewhere=elsewhere, report=lambda cell, status, done, n: told.append((done, n)))
    assert elsewhere.asked == [GENERATED]
    assert here.asked == [cells[0], cells[2]]
    assert told == [(1, 3), (2, 3), (3, 3)]
    here.asked.clear()
    run_cells(sweep, workers=2)
    assert here.asked == list(cells)


@pytest.mark.parametrize("epsilon", [None, 4.0])
def test_a_worker_refuses_a_cell_whose_account_is_elsewhere(epsilon):
    assert leaves(GENERATED)
    with pytest.raises(ValueError, match="reads rows, and runs where their account is"):
        run_elsewhere(None, reads_files(epsilon))


def test_a_cell_whose_worker_was_lost_elsewhere_has_failed(tmp_path):
    lost = Recording(error=WorkerLostError("its worker was lost 3 times: gone"))
    sweep = Sweep(tmp_path, SweepGrid(), (), (GENERATED,))
    run_cells(sweep, workers=1, elsewhere=lost)
    assert cell_status(sweep.path(GENERATED), GENERATED) == "failed"
    assert "its worker was lost 3 times: gone" in read_failure(sweep.path(GENERATED))


def test_a_cell_that_ran_elsewhere_is_a_cell_as_any_other(tmp_path):
    home = tmp_path / "cells" / GENERATED.name
    bring_home(run_elsewhere(None, GENERATED), home, GENERATED)
    assert cell_status(home, GENERATED) == "done"
    assert all(not path.stat().st_mode & 0o077 for path in home.rglob("*") if "ledger" in path.parts and path.is_file())


@dataclass
class Sending:
    """A worker that sends something else than it was asked for."""

    packed: bytes

    def run(self, call, shared, tasks, *, rows=False, tries=3):
        yield from (Done(index, self.packed) for index in range(len(tasks)))


OTHER = tiny(seed=[7], ctr={"baselines": [], "model": "logistic"}, privacy={"account": "one"})


@pytest.fixture(scope="module")
def another():
    return run_elsewhere(None, replace(GENERATED, config=OTHER))


def test_a_cell_may_name_what_a_reader_of_strangers_runs_leaves_out(tmp_path, another):
    bring_home(another, tmp_path / "cell", replace(GENERATED, config=OTHER))
    assert cell_status(tmp_path / "cell", GENERATED) == "done"


@pytest.mark.parametrize("cut", [0, 1000, None])
def test_what_a_worker_sends_is_held_to_the_cell(tmp_path, another, cut):
    sweep = Sweep(tmp_path, SweepGrid(), (), (GENERATED,))
    if cut is None:  # as it was: whatever was unpacked there was the cell
        with new_directory(sweep.path(GENERATED)) as place:
            unpack_directory(another, place)
        assert cell_status(sweep.path(GENERATED), GENERATED) == "done"
        shutil.rmtree(sweep.path(GENERATED))
    run_cells(sweep, workers=1, elsewhere=Sending(another[:cut]))
    assert cell_status(sweep.path(GENERATED), GENERATED) == "failed"
    assert "a worker sent" in read_failure(sweep.path(GENERATED))


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """The cell that was asked for, as a worker's directory."""
    folder = tmp_path_factory.mktemp("sent") / "cell"
    folder.mkdir()
    unpack_directory(run_elsewhere(None, GENERATED), folder)
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (DONE_FILE, '{"attacks": null}'),
        (DONE_FILE, "[]"),
        (DONE_FILE, '{"attacks": null, "findings": [1]}'),
        ("metrics.json", "{}"),
        ("failure.json", "{}"),
        (DONE_FILE, None),
    ],
)
def test_half_a_cell_has_failed_and_the_sweep_goes_on(tmp_path, sent, file, content):
    """Right by its configuration, which alone was compared: whoever looked at the cell ended in a traceback."""
    cell = shutil.copytree(sent, tmp_path / "cell")
    (cell / file).write_text(content) if content is not None else (cell / file).unlink()
    sweep = Sweep(tmp_path / "sweep", SweepGrid(), (), (GENERATED,))
    run_cells(sweep, workers=1, elsewhere=Sending(pack_directory(cell)))
    assert [failure.cell for failure in sweep.failures()] == [GENERATED.name]
    assert "a worker sent" in sweep.failures()[0].error


DEEP, LONG = "d/" * 3000 + "x", "x" * 300


@pytest.mark.parametrize(("name", "as_it_was"), [(DEEP, RecursionError), (LONG, OSError)], ids=["deep", "long"])
def test_an_archive_of_names_that_no_file_has_is_a_failed_cell_and_the_sweep_goes_on(tmp_path, name, as_it_was):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with tarfile.open(fileobj=io.BytesIO(packed.getvalue())) as archive, pytest.raises(as_it_was):
        archive.extractall(tmp_path / "there", filter="data")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, b"")
    sweep = Sweep(tmp_path / "sweep", SweepGrid(), (), (GENERATED,))
    run_cells(sweep, workers=1, elsewhere=Sending(packed.getvalue()))
    assert "a worker sent what is no cell" in sweep.failures()[0].error
