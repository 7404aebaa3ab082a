"""Only the door, the server and the engines write transcripts: nothing else says what parties have seen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# who opens one to write into it, and why
OPEN = {
    "fedmm_secure/federation/parties.py": "of a run in process, and of a market's own part of a deployed one",
    "fedmm_secure/federation/private_record.py": "a market's own record",
    "fedmm_secure/service/market_service.py": "what was agreed on before a run began",
    "experiments/deploy/server.py": "the server's",
    "experiments/verification/replay.py": "a replay's, which is thrown away",
}
# who adds to one
ADD = {
    "fedmm_secure/federation/agreement.py": "hellos and statements, which charge nothing",
    "fedmm_secure/federation/door.py": "what leaves a market, and sums that come back",
    "fedmm_secure/federation/private_record.py": "what the door charged and nobody else sees",
    "fedmm_secure/federation/server.py": "what passes the server",
    "experiments/verification/replay.py": "sums of the run, for the replay of what follows from them",
}


def writing(source):
    """How a module opens or adds to a transcript, by its syntax tree: ``open``, ``add``."""
    found = set()
    if "transcript" not in source.lower() and "add_release" not in source:  # quicker than a syntax tree
        return found
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name == "Transcript":
            found.add("open")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name == "add_release" or (name == "add" and "transcript" in owner.lower()):
            found.add("add")
    return found


def writers(what):
    paths = (
        path
        for package in ("attacks", "experiments", "fedmm_secure", "privacy")
        for path in (ROOT / package).rglob("*.py")
    )
    found = {path.relative_to(ROOT).as_posix() for path in paths if what in writing(path.read_text(encoding="utf-8"))}
    return found - {"fedmm_secure/federation/transcript.py"}


def test_transcripts_are_opened_by_these_alone():
    assert writers("open") == OPEN.keys()


def test_and_added_to_by_these_alone():
    assert writers("add") == ADD.keys()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Transcript(path)", "open"),
        ("transcript.Transcript(path).read(record)", "open"),
        ("self._transcript.add(data, kind='update')", "add"),
        ("door.own.transcript.add(data)", "add"),
        ("Transcript(path).add(data)", "add"),
        ("anything.add_release(entry, data)", "add"),
    ],
)
def test_the_search_finds_every_way(line, what):
    assert what in writing(line)
