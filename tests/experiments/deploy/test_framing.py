"""Frames of a market's socket, against those of the standard library; and what is let go."""

import socket
import struct
import threading
import time
from multiprocessing.connection import Connection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.deploy.framing import receive, send

LONGEST = 2**20


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=20_000))
def test_frames_are_those_of_the_standard_library(data):
    ours, theirs = socket.socketpair()
    with ours, Connection(theirs.detach()) as connection:
        connection.send_bytes(data)
        assert receive(ours, LONGEST, 5.0) == data
        send(ours, data, 5.0)
        assert connection.recv_bytes() == data


@pytest.mark.parametrize("length", [LONGEST + 1, 2**31 - 1, -1, -(2**31)])
def test_a_length_that_no_request_has_is_refused_at_once(pair, length):
    ours, theirs = pair
    theirs.sendall(struct.pack("!i", length) + b"\x7f" * 8)
    start = time.monotonic()
    with pytest.raises(OSError, match="not a length"):
        receive(ours, LONGEST, 30.0)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("sent", [b"", b"\0\0", struct.pack("!i", 100), struct.pack("!i", 100) + b"half"])
def test_a_caller_that_stops_is_let_go_in_time(pair, sent):
    ours, theirs = pair
    theirs.sendall(sent)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(ours, LONGEST, 0.3)
    assert time.monotonic() - start < 3


def test_a_caller_that_breaks_off_is_let_go(pair):
    ours, theirs = pair
    theirs.sendall(struct.pack("!i", 100) + b"half")
    theirs.close()
    with pytest.raises(OSError, match="broke off"):
        receive(ours, LONGEST, 30.0)


def test_the_deadline_is_of_the_whole_request_and_not_of_each_byte(pair):
    ours, theirs = pair
    done = threading.Event()

    def drip():
        theirs.sendall(struct.pack("!i", 10_000))
        while not done.wait(0.05):
            theirs.sendall(b"x")

    slow = threading.Thread(target=drip)
    slow.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(ours, LONGEST, 0.5)
    assert time.monotonic() - start < 5
    done.set()
    slow.join()


def test_a_caller_that_does_not_take_the_reply_is_let_go(pair):
    ours, _ = pair
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        send(ours, bytes(8 * 2**20), 0.3)
    assert time.monotonic() - start < 5
