"""Hellos of the markets in this process: they say who they are, and get to know each other's mask keys."""

from __future__ import annotations

from collections.abc import Mapping

from fedmm_secure.federation.parties import Federation


def introduce(federation: Federation, start: bytes) -> dict[str, bytes]:
    """The hellos of the markets in this process, in answer to the server's order to start."""
    return {name: door.agreement.hello(start, federation.masks[name].public) for name, door in federation.doors.items()}


def meet(federation: Federation, hellos: Mapping[str, bytes]) -> None:
    """Let the markets in this process know the mask keys of all; each hello is verified by each market.

    Raises:
        MessageError: see ``Agreement.meet``.
    """
    for name, door in federation.doors.items():
        keys = door.agreement.meet(hellos)
        federation.masks[name].meet({other: key for other, key in keys.items() if other != name})
