"""Hellos: the markets of a run say who they are, and get to know each other's mask keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from fedmm_secure.federation.messages import Hello, MessageError, expect, hello_header
from fedmm_secure.federation.parties import Federation, configuration_hash
from fedmm_secure.storage import write_json
from privacy.aggregation import AggregationError


def introduce(federation: Federation) -> dict[str, bytes]:
    """The hellos of the markets in this process."""
    found: dict[str, bytes] = {}
    configuration = configuration_hash(federation.config)
    for name, door in federation.doors.items():
        hello = Hello(federation.masks[name].public, configuration)
        door.introduce(hello, partial(found.__setitem__, name))
    return found


def meet(federation: Federation, hellos: Mapping[str, bytes]) -> None:
    """Let the markets in this process know the mask keys of all; each hello is verified by each market.

    Raises:
        MessageError: a hello is not from the market that it names.
        AggregationError: a market changed its key within the run.
    """
    keys: dict[str, bytes] = {}
    for name, message in hellos.items():
        if name not in federation.bundle.markets:
            raise MessageError(f"a hello of {name}, which is not a market of this federation")
        wanted = hello_header(federation.run, name, federation.bundle.digest)
        payload = expect(message, wanted, federation.bundle.cards[name])
        keys[name] = Hello.from_bytes(payload).mask_key
    path = federation.directory / "state" / "masks" / str(federation.course) / "met.json"
    met = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, key in keys.items():
        if met.get(name, key.hex()) != key.hex():
            raise AggregationError(f"market {name} changed its mask key within the run")
    write_json(path, met | {name: key.hex() for name, key in keys.items()})
    for name, masks in federation.masks.items():
        masks.meet({other: key for other, key in keys.items() if other != name})
