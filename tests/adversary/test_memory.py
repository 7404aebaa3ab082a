"""Nothing below ``state/`` is evidence: whatever becomes of it, verification, page and report say the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from experiments.compliance import build
from experiments.compliance.build import build_document
from experiments.compliance.document import Declarations
from experiments.reports.run import run_page
from experiments.verification import examine_run

SAID = Declarations(signer=None, trusted=[], sole_run=False, max_epsilon=20.0, max_delta=None)


def emptied(state: Path) -> None:
    for path in [path for path in state.rglob("*") if path.is_file()]:
        path.unlink()


def replaced(state: Path) -> None:
    for path in [path for path in state.rglob("*") if path.is_file()]:
        path.write_bytes(b"{}")


def exchanged(state: Path) -> None:
    """Each file of one market in the place of another's."""
    for path in [path for path in state.rglob("*m1*") if path.is_file() or "m1" in path.name]:
        other = path.with_name(path.name.replace("m1", "m0"))
        if path.is_file() and other.is_file():
            shutil.copy(path, other)
        elif path.is_dir() and other.is_dir():
            shutil.copytree(path, other, dirs_exist_ok=True)


WAYS: dict[str, Callable[[Path], None]] = {"emptied": emptied, "replaced": replaced, "exchanged": exchanged}


def said_of(run: Path, account: Path) -> tuple[object, ...]:
    found = examine_run(run)
    with patch.object(build, "examine_run", lambda directory: found):
        document = build_document(run, SAID, created="2026-01-01T00:00:00+00:00", account=account)
    return found.findings, found.notes, run_page(run, "run", found), document.model_dump_json()


@pytest.fixture(scope="module")
def untouched(released_run):
    said = said_of(released_run, released_run.parent / "privacy.account")
    assert said[0] == []
    return said


@pytest.mark.parametrize("way", WAYS)
def test_whatever_becomes_of_the_runs_memory_nothing_says_otherwise(released_run, released_copy, untouched, way):
    before = {path: path.read_bytes() for path in (released_copy / "state").rglob("*") if path.is_file()}
    WAYS[way](released_copy / "state")
    after = {path: path.read_bytes() for path in (released_copy / "state").rglob("*") if path.is_file()}
    changed = [path for path, data in before.items() if after.get(path) != data]
    assert len(changed) > (5 if way == "exchanged" else len(before) - 1)
    assert said_of(released_copy, released_run.parent / "privacy.account") == untouched
