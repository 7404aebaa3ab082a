"""Reading what somebody else wrote: confined, bounded, and one line where it is refused."""

import json
import os
import socket
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.foreign import (
    MAX_DEPTH,
    MAX_LINE_BYTES,
    ForeignDirectory,
    ForeignFileError,
    lines_of,
    parse_json,
    read_bytes,
)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "ledger").mkdir(parents=True)
    (tmp_path / "run" / "ledger" / "m.jsonl").write_bytes(b'{"a": 1}\n{"b": 2}\n{"torn')
    (tmp_path / "outside").write_bytes(b"outside")
    return tmp_path / "run"


def test_files_are_read_by_their_name(run):
    directory = ForeignDirectory(run)
    assert directory.bytes("ledger/m.jsonl").startswith(b'{"a"')
    assert directory.lines("ledger/m.jsonl") == [{"a": 1}, {"b": 2}]
    assert directory.has("ledger/m.jsonl")
    assert not directory.has("ledger")
    assert not directory.has("nothing")
    assert list(directory.irregular()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "/etc/hostname", "ledger/../../outside", "a\0b", "x" * 5000]
)
def test_a_name_does_not_lead_out(run, name):
    if name == "../outside":
        assert (run / name).read_bytes() == b"outside"  # what joining paths gives
    with pytest.raises(ForeignFileError) as error:
        ForeignDirectory(run).bytes(name)
    assert "\n" not in str(error.value)
    assert not ForeignDirectory(run).has(name)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_link_does_not_either(run, where):
    if where == "file":
        (run / "ledger" / "x").symlink_to(run.parent / "outside")
    else:
        (run / "ledger" / "m.jsonl").rename(run.parent / "x")
        (run / "ledger").rmdir()
        (run / "ledger").symlink_to(run.parent)
    path = run / "ledger" / "x"
    assert path.read_bytes()  # what opening by name gives
    with pytest.raises(ForeignFileError, match="link"):
        ForeignDirectory(run).bytes("ledger/x")
    ((_, problem),) = ForeignDirectory(run).irregular()
    assert "link" in problem
    with pytest.raises(ForeignFileError, match="link"):
        ForeignDirectory(run).refuse_irregular()


def test_a_directory_may_itself_be_a_link(run):
    (run.parent / "link").symlink_to(run)
    assert ForeignDirectory(run.parent / "link").has("ledger/m.jsonl")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_what_is_no_file_is_not_waited_for(run, kind):
    path = run / "x"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = run.parent / "zero"
            path.symlink_to("/dev/zero")
        case "socket":
            here = os.open(run, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{here}/x")
            os.close(here)
        case "folder":
            path.mkdir()
    start = time.monotonic()
    with pytest.raises(ForeignFileError) as error:
        read_bytes(path)
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value)


def test_a_file_has_its_limit(run):
    path = run / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(ForeignFileError, match="too large"):
        read_bytes(path, 4)
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(ForeignFileError, match="too large"):
        read_bytes(path)


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "there twice"),
        ("[NaN]", "no number"),
        ("[-Infinity]", "no number"),
        ("[1e999]", "out of all bounds"),
        ("1" * 10**5, "more than 64 bits"),
        (str(2**63), "more than 64 bits"),
        ('{"a": "\\ud800"}', "half of a character"),
        (nested(MAX_DEPTH + 1), "deeper"),
        ("[" * 10**6, "deeper"),
        ('{"a":' * 10**6, "deeper"),
        ('"' + '\\"' * 10**6, "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_json_that_no_run_writes(text, problem):
    start = time.process_time()
    with pytest.raises(ForeignFileError, match=problem) as error:
        parse_json(text, "file")
    assert time.process_time() - start < 5
    assert str(error.value).startswith("file: ")
    assert "\n" not in str(error.value)


def test_brackets_in_strings_nest_nothing():
    text = json.dumps({"a": "[" * 1000 + '\\"{', "b": [["]" * 1000]]})
    assert parse_json(text, "file")["a"].startswith("[[")
    assert parse_json(nested(MAX_DEPTH), "file")


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_json_writes_is_read_back(value):
    assert parse_json(json.dumps(value), "file") == value


@given(st.binary(max_size=200))
def test_bytes_are_json_or_refused(data):
    with suppress(ForeignFileError):
        parse_json(data, "file")


def test_lines_have_their_length():
    assert [line for _, line in lines_of(b"a\nb\nc", "file")] == [b"a\n", b"b\n"]
    with pytest.raises(ForeignFileError, match="file:2"):
        list(lines_of(b"a\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n", "file"))
