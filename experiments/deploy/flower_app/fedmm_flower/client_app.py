"""Hands a request to the market's own process and its reply back. In a deployment it holds no keys and sees no data.

This code comes over the wire with each run, so it is trusted with nothing: what it may ask, and what it may learn, is
decided in the market's process (``fedmm deploy market``), which should run as another user of the system.
"""

import json
import os
from multiprocessing.connection import Client
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
RECORD, LONGEST_WAIT = "fedmm", 1800.0


@app.query()
def query(message: Message, context: Context) -> Message:
    """Relay one request."""
    request = message.content[RECORD]["request"]
    try:
        if not isinstance(request, bytes):
            raise OSError("not bytes")
        if "home" in context.node_config:
            reply = ask(Path(str(context.node_config["home"])), request)
        else:  # Flower's simulation engine: many markets, no processes of their own
            from experiments.deploy.simulation import reply_of_market

            reply = reply_of_market(int(str(context.node_config["partition-id"])), request)
    except (OSError, EOFError):
        reply = json.dumps({"absent": "its market process does not answer"}).encode()
    return Message(content=RecordDict({RECORD: ConfigRecord({"reply": reply})}), reply_to=message)


def ask(home: Path, request: bytes) -> bytes:
    """Send a request to the socket in ``home`` and wait for the reply."""
    folder = os.open(home, os.O_RDONLY)
    try:
        # paths of sockets are limited to 107 bytes; this one is always short
        with Client(f"/proc/self/fd/{folder}/market.sock", "AF_UNIX") as connection:
            connection.send_bytes(request)
            if not connection.poll(LONGEST_WAIT):
                raise TimeoutError("no reply")
            return connection.recv_bytes()
    finally:
        os.close(folder)
