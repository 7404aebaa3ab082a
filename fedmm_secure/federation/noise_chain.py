"""Keys of all private randomness of a run from one, so that who has the first makes them all again.

Link 0 is made of both sides' coins (``coins``). The key of a release follows from the link of its turn; the next link
follows from it too, and then it is erased. So the disk of a market never holds what would tell the noise of a release
that is sealed: link ``i`` cannot be found from link ``i + 1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedmm_secure.errors import LostResultError
from privacy.files import erase, read_secret, write_secret
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource

ReleaseIdentity = tuple[str, int | None, int | None]  # stage, round, attempt of a release


def release_key(link: bytes, market: str, identity: ReleaseIdentity) -> bytes:
    """The key of a release whose turn has this link."""
    return _derived(link, "release", market, *map(str, identity))


def links(first: bytes) -> Iterator[bytes]:
    """All links in turn."""
    link = first
    while True:
        yield link
        link = _derived(link, "next")


def _derived(link: bytes, *purpose: str) -> bytes:
    return NoiseSource(link, seeded=False).derive("noise chain", *purpose).words(KEY_BYTES // 8).tobytes()


class NoiseChain:
    """The link that is next, in a folder for its owner alone.

    Args:
        folder: of the market's keys in hand.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, first: bytes) -> None:
        """Keep link 0; the same again changes nothing."""
        write_secret(self._path(0), first, replace=True)

    def key(self, turn: int, market: str, identity: ReleaseIdentity) -> bytes:
        """The key of the ``turn``-th release that draws, from 0.

        Raises:
            LostResultError: its link is gone.
        """
        self.go_on(turn)
        return release_key(read_secret(self._path(turn)), market, identity)

    def go_on(self, turn: int) -> None:
        """Make the link of a turn, and erase all before it.

        Raises:
            LostResultError: there are later ones alone: the ledger is an older copy than what is beside it.
        """
        kept = sorted(int(path.stem.removeprefix("link-")) for path in self._folder.glob("link-*.key"))
        before = [found for found in kept if found <= turn]
        if not before:
            raise LostResultError(
                f"{self._folder}: the link of the noise that comes next is gone, and with it what the auditor would "
                "draw again: start a new run"
            )
        latest = before[-1]
        if latest < turn:
            made = links(read_secret(self._path(latest)))
            for _ in range(turn - latest):
                next(made)
            write_secret(self._path(turn), next(made), replace=True)
        for found in before:
            if found < turn:
                erase(self._path(found))

    def _path(self, turn: int) -> Path:
        return self._folder / f"link-{turn}.key"
