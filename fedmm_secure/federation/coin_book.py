"""An auditor's book: for which first lines coins were tossed, so that who asks again and again is seen.

A market is known again by the card that asks for it and signs its run, and by its rows: by a fingerprint that its
privacy account's key makes for this auditor alone, the same in every run. Its name is its own choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmm_secure.federation.tosses import Toss
from privacy.accounting.lines import append_line, canonical_json
from privacy.aggregation.identities import Identity
from privacy.foreign import MAX_LINES_BYTES, json_object, lines_of, read_bytes

BOOK_FILE = "coins.jsonl"  # beside the auditor's keys


@dataclass(frozen=True)
class Before:
    """How many other first lines there were before.

    Attributes:
        card: that the same card asked for, but for those of this call.
        rows: of the same rows, whoever asked.
        together: of other markets in the same run, that the same card asks for in this call. Who holds all rows of a
            run signs for all its markets; a market that stands in it under several names, a row more or less in each,
            looks alike.
    """

    card: int
    rows: int
    together: int = 0


@dataclass(frozen=True)
class _Line:
    opening: str
    market: str
    card: str
    rows: str

    @classmethod
    def of(cls, toss: Toss, auditor: Identity) -> _Line:
        """What is entered of a toss."""
        card = "" if toss.card is None else toss.card.fingerprint
        return cls(toss.opening, toss.market, card, toss.rows(auditor))

    def entry(self, toss: Toss) -> dict[str, str]:
        """The line of the book."""
        fields = {"market": self.market, "run": toss.run, "data": toss.data, "opening": self.opening}
        return fields | {"configuration": toss.configuration, "card": self.card, "rows": self.rows}

    def is_by(self, other: _Line) -> bool:
        """Whether one market asked both times; of lines of an earlier version nothing but the name tells."""
        return self.card == other.card if self.card else self.market == other.market


def enter_tosses(keys: Path, tosses: Sequence[Toss], auditor: Identity) -> dict[str, Before]:
    """Enter what coins are tossed for; returns by market what there was before.

    The same line again is no other toss: its coin is the same.

    Args:
        keys: folder of the auditor's keys.
        tosses: of one run, of which one card may sign for several markets.
        auditor: who opens what the markets sealed.
    """
    path = keys / BOOK_FILE
    known = {line.opening: line for line in _read(path)}
    asked = {toss.opening: _Line.of(toss, auditor) for toss in tosses}
    for toss in tosses:
        if toss.opening not in known:
            append_line(path, canonical_json(asked[toss.opening].entry(toss)) + b"\n")
    everything = known | asked

    def before(line: _Line) -> Before:
        others = [one for one in everything.values() if one.opening != line.opening]
        same_card = {one.opening for one in others if one.is_by(line)}
        same_rows = sum(bool(one.rows) and one.rows == line.rows for one in others)
        return Before(len(same_card - asked.keys()), same_rows, len(same_card & asked.keys()))

    return {line.market: before(line) for line in asked.values()}


def _read(path: Path) -> Iterator[_Line]:
    if path.is_file():
        for number, raw in lines_of(read_bytes(path, MAX_LINES_BYTES), path):
            line = json_object(raw, f"{path}:{number}")
            yield _Line(*(str(line.get(name, "")) for name in ("opening", "market", "card", "rows")))
