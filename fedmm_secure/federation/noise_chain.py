"""Keys of all private randomness of a run from one, so that who has the first makes them all again.

Each place of the plan that draws (a stage, or a round of it) has a link, by its turn in the plan, and not by what was
drawn before: a round that a market misses shifts no later noise, and all attempts of a round have one key. Link 0 is
made of both sides' coins (``coins``); the next link follows from each, and then it is erased. So the disk of a market
never holds what would tell the noise of a place that was charged: link ``i`` cannot be found from link ``i + 1``.

Links that are yet to come lie locked, under a key that the run's folder does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedmm_secure.errors import LostResultError
from fedmm_secure.guarantee.releases import PlannedPlace
from privacy.aggregation.at_rest import LockedFiles
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource


def release_key(link: bytes, market: str, place: Sequence[str | int | None]) -> bytes:
    """The key of a place whose turn has this link."""
    return _derived(link, "release", market, *map(str, place))


def links(first: bytes) -> Iterator[bytes]:
    """All links in turn."""
    link = first
    while True:
        yield link
        link = _derived(link, "next")


def _derived(link: bytes, *purpose: str) -> bytes:
    return NoiseSource(link, seeded=False).derive("noise chain", *purpose).words(KEY_BYTES // 8).tobytes()


class NoiseChain:
    """The link of the next place.

    Args:
        files: where it is kept.
        market: whose noise.
        places: that draw, in the order of the plan.
    """

    def __init__(self, files: LockedFiles, market: str, places: Sequence[PlannedPlace]) -> None:
        self._files, self._market = files, market
        self._turns = {place: turn for turn, place in enumerate(places)}

    def begin(self, first: bytes) -> None:
        """Keep link 0; the same again changes nothing."""
        self._files.write(_name(0), first)

    def key(self, place: PlannedPlace) -> bytes:
        """The key of a place; whatever comes before it in the plan is not drawn any more.

        Raises:
            LostResultError: its link is gone: it was charged before, or a later place was.
        """
        turn = self._turns[place]
        self._go_on(turn)
        return release_key(self._files.read(_name(turn)), self._market, place)

    def leave(self, place: PlannedPlace) -> None:
        """A place was charged: nothing that is kept makes its key once more; the same again changes nothing."""
        after = self._turns[place] + 1
        if any(found < after for found in self._kept()):
            self._go_on(after)

    def _go_on(self, turn: int) -> None:
        """Make the link of a turn, and erase all before it."""
        before = [found for found in self._kept() if found <= turn]
        if not before:
            raise LostResultError(
                f"{self._files.folder}: the link of the noise that comes next is gone, and with it what the auditor "
                "would draw again: start a new run"
            )
        latest = before[-1]
        if latest < turn:
            made = links(self._files.read(_name(latest)))
            for _ in range(turn - latest):
                next(made)
            self._files.write(_name(turn), next(made))
        for found in before:
            if found < turn:
                self._files.erase(_name(found))

    def _kept(self) -> list[int]:
        """Turns whose links are there."""
        return sorted(int(name.removeprefix("link-").removesuffix(".key")) for name in self._files.names("link-*.key"))


def _name(turn: int) -> str:
    return f"link-{turn}.key"
