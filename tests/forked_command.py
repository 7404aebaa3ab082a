"""Asks for a command, and stands for it until it has ended: run as a script under its name, by the standard library."""

import json
import os
import signal
import socket
import sys


def main(server: str) -> None:
    """Hand over what a process is started with, hand on signals, end as the command ends."""
    asked = {"command": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], "environment": dict(os.environ)}
    request = json.dumps(asked | {"folder": os.getcwd(), "umask": os.umask(0o077)}).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(request)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    ended = connection.recv(2)
    status = int.from_bytes(ended, "big", signed=True) if ended else 1
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


main("SERVER")
