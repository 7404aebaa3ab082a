"""One file under many names: whoever reads name by name what an index names reads and keeps it as often."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from experiments.verification import evidence
from experiments.verification.evidence import read_messages
from experiments.verification.transcript import ByKey
from fedmm_secure.federation import transcript
from fedmm_secure.federation.transcript import INDEX, Record, Transcript, has_own_file, read_index, read_record
from privacy import foreign
from privacy.foreign import ForeignDirectory, ForeignFileError

NAMES = 40
DATA = b"x" * 10_000


@pytest.fixture
def aliased(tmp_path):
    """A transcript of one message, which its index names in many ways."""
    directory = tmp_path / "transcript"
    record = Transcript(directory).add(
        DATA, kind="update", stage="quantizer/0", round=0, sender="m0", visible_to=("server",), receivers=1
    )
    dotted = [replace(record, file="./" * again + record.file) for again in range(1, NAMES)]
    staged = [replace(one, stage="./" * again + one.stage) for again, one in enumerate(dotted, start=1)]
    lines = [json.dumps(asdict(one)) + "\n" for one in (*dotted, *staged)]
    with (directory / INDEX).open("a") as index:
        index.writelines(lines)
    return directory, record


def read_by_name(directory):
    """As it was: each name of a file below the directory is read, and its bytes are kept."""
    return {one.file: ForeignDirectory(directory).bytes(one.file) for one in read_index(directory)}


def test_a_file_is_read_under_its_one_name(aliased, monkeypatch):
    directory, record = aliased
    assert sum(map(len, read_by_name(directory).values())) == NAMES * len(DATA)
    opened = []
    read = foreign.read_bytes
    for module in (transcript, foreign):
        monkeypatch.setattr(
            module, "read_bytes", lambda path, *more, **named: opened.append(path) or read(path, *more, **named)
        )
    messages, findings = read_messages(directory)
    assert [path.name for path in opened].count("0000-update-m0.bin") == 1
    assert messages.records == (record,)
    assert len(messages.index) == NAMES
    assert [found.what for found in findings] == ["is in another file than its record says"] * (NAMES - 1)  # each alias
    alias = next(one for one in messages.index if not has_own_file(one))
    with pytest.raises(ForeignFileError, match="another file than its record says"):
        read_record(directory, alias)


def test_nothing_of_a_transcript_is_kept_but_its_hashes(aliased):
    directory, record = aliased
    messages, _ = read_messages(directory)
    key = (record.kind, record.stage, record.round, record.attempt, record.sender)
    assert ByKey([messages]).get(key) == DATA
    (directory / record.file).write_bytes(b"y" * len(DATA))
    with pytest.raises(ForeignFileError, match="do not match the index"):
        messages.content[record.file]


def test_what_an_index_says_of_sizes_bounds_what_is_read(aliased, monkeypatch):
    directory, record = aliased
    with pytest.raises(ForeignFileError, match="too large"):
        read_record(directory, replace(record, size=10))
    monkeypatch.setattr(evidence, "MAX_TRANSCRIPT_BYTES", 3 * len(DATA))
    sizes = [2 * len(DATA), 2 * len(DATA)]
    with (directory / INDEX).open("w") as index:
        for number, size in enumerate(sizes):
            name = f"quantizer/0/{number:04d}-update-m0.bin"
            one = Record(
                name, "update", "quantizer/0", number, "m0", ("server",), 1, size, hashlib.sha256().hexdigest()
            )
            index.write(json.dumps(asdict(one)) + "\n")
    monkeypatch.setattr(evidence, "read_record", lambda *given: pytest.fail("was read"))
    messages, findings = evidence._read_messages(directory, 3 * len(DATA))
    assert messages.index == ()
    assert "bytes that are read of a run" in findings[0].what
