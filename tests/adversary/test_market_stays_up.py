"""A market's process that somebody wants to end: by a full disk, a vast request, or a caller that is gone."""

import base64
import json
import os
import stat
from hashlib import sha256

import pytest

from experiments.deploy import market
from experiments.deploy.homes import prepare_homes
from experiments.deploy.market import open_service
from fedmm_secure.federation import agreement
from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.requests import MAX_REQUEST_BYTES, Request, RequestError
from fedmm_secure.storage.layout import LOG_FILE
from fedmm_secure.storage.run_directory import Log
from privacy.files import open_private
from privacy.json_text import json_text
from tests.conftest import tiny

RUN = "0" * 32


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return prepare_homes(tiny(), tmp_path_factory.mktemp("f") / "f").market("m0")


def full(path):
    """A log on a disk that is full, as the kernel says it."""
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full
        with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            file.write(b"x")
    except PermissionError:
        pytest.skip("making a device, or opening it, takes rights that this user has not")


class RaisingLog(Log):
    """As it was."""

    def __call__(self, event, fields):
        with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
            file.write(json_text({"event": event, **fields}) + "\n")


def test_a_full_disk_ends_no_process(home):
    answers = {}
    for kind in (Log, RaisingLog):
        full(home / LOG_FILE)
        service = open_service(home, log=kind(home))
        try:
            answers[kind] = service.answer(b"rubbish")
        except OSError as error:
            answers[kind] = error.strerror
    assert json.loads(answers[Log]) == {"absent": "a malformed request"}
    assert answers[RaisingLog] == "No space left on device"


def test_what_a_log_lost_is_said_once_there_is_room(tmp_path):
    log = Log(tmp_path)
    log("first", {})
    (tmp_path / LOG_FILE).rename(tmp_path / "kept")
    full(tmp_path / LOG_FILE)
    log("second", {})
    log("third", {"x": float("nan")})
    (tmp_path / LOG_FILE).unlink()
    (tmp_path / "kept").rename(tmp_path / LOG_FILE)
    log("fourth", {})
    log("fifth", {})
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [(line["event"], line.get("lost")) for line in lines] == [("first", None), ("fourth", 2), ("fifth", None)]


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    log = Log(tmp_path)
    log("first", {})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
    log("second", {})
    monkeypatch.undo()
    log("third", {})
    assert [json.loads(line)["event"] for line in (tmp_path / LOG_FILE).read_text().splitlines()] == ["first", "third"]


def test_settling_raises_nothing_when_even_the_end_cannot_be_looked_up(home):
    class Broken:
        def settle(self):
            raise OSError("the disk failed")

        @property
        def agreement(self):
            raise OSError("the disk failed again")

    service = open_service(home)
    service._runs[RUN] = Broken()
    service.settle()
    assert RUN in service._runs


class Gone:
    """A socket on which callers are gone before they are taken."""

    def accept(self):
        raise ConnectionAbortedError("gone")


def test_a_caller_that_is_gone_is_no_end():
    with pytest.raises(ConnectionAbortedError):
        Gone().accept()  # as it was, in the market's only loop
    market._serve_next(Gone(), None)


# -- requests ----------------------------------------------------------------------------------------------------------


def nested(count):
    return b'{"step":"finish","run":"' + RUN.encode() + b'","x":[' + b"[[]]," * count + b"0]}"


def test_a_request_is_counted_before_it_is_parsed(monkeypatch):
    assert sum(map(len, json.loads(nested(50_000))["x"][:-1])) == 50_000  # as it was: lists of a hundred bytes each
    monkeypatch.setattr(json, "loads", lambda *given, **named: pytest.fail("was parsed"))
    with pytest.raises(RequestError, match="malformed"):
        Request.from_bytes(nested(50_000))


@pytest.mark.parametrize("more", [{"x": 1}, {"step": "\ud800"}, {"run": RUN + "\n"}, {"hellos": {"m": {}}}])
def test_a_request_has_its_own_keys_alone(more):
    with pytest.raises(RequestError):
        Request.from_bytes(json.dumps({"step": "finish", "run": RUN, **more}).encode())


def test_the_longest_request_follows_from_the_plan(home):
    service = open_service(home)
    honest = Request("finish", RUN, aggregate=bytes(100)).to_bytes()
    assert len(honest) < service.longest_request < MAX_REQUEST_BYTES / 16
    vast = Request("finish", RUN, aggregate=bytes(service.longest_request)).to_bytes()
    Request.from_bytes(vast)  # as it was, up to 64 MiB
    assert b"malformed" not in service.answer(vast)
    assert f"a request of {len(vast)} bytes" in json.loads(service.answer(vast))["absent"]


class Taken:
    def __init__(self, number):
        self.sha256 = sha256(str(number).encode()).hexdigest()


def test_a_sum_is_hashed_once_however_many_rounds_there_were(monkeypatch):
    hashed = []
    monkeypatch.setattr(agreement, "sha256", lambda data: hashed.append(len(data)) or sha256(data))
    found = Agreement.__new__(Agreement)
    found.start = type("Start", (), {"places": [("quantizer/0", number) for number in range(30)]})
    monkeypatch.setattr(Agreement, "_taken", lambda self, place: Taken(place[1]))
    message = base64.b64encode(bytes(1000))
    assert not found.already_taken(message)
    assert hashed == [len(message)]
    assert found.already_taken(b"7")
    assert not any(taken.sha256 == agreement.sha256(message).hexdigest() for taken in map(Taken, range(30)))
    assert len(hashed) == 1 + 1 + 30  # as it was: once a round
