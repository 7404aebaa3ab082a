"""Requests and replies on a market's socket, each within a deadline of its own.

The frames are those of ``multiprocessing.connection``, which the ClientApp uses: a length of four bytes, in network
order, then so many bytes. Reading them there has no deadline: whoever sends a length and no more holds the process.
"""

from __future__ import annotations

import socket
import struct
import time

_LENGTH = struct.Struct("!i")  # longer frames begin with -1; no request or reply is that long


def receive(caller: socket.socket, longest: int, seconds: float) -> bytes:
    """One whole frame.

    Raises:
        OSError: it is longer than ``longest``, is not there after ``seconds`` in all, or the caller breaks off.
    """
    deadline = time.monotonic() + seconds
    (length,) = _LENGTH.unpack(_read(caller, _LENGTH.size, deadline))
    if not 0 <= length <= longest:
        raise OSError("not a length of a request")
    return _read(caller, length, deadline)


def send(caller: socket.socket, data: bytes, seconds: float) -> None:
    """One whole frame; raises ``OSError`` if the caller has not taken it after ``seconds``."""
    caller.settimeout(seconds)  # of the whole of sendall
    caller.sendall(_LENGTH.pack(len(data)) + data)


def _read(caller: socket.socket, size: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request is not there in time")
        caller.settimeout(left)
        part = caller.recv(min(size - len(found), 2**20))
        if not part:
            raise OSError("the caller broke off")
        found += part
    return bytes(found)
