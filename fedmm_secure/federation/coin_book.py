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
        card: that the same card asked for; for other markets in the same run it may.
        rows: of the same rows, whoever asked.
    """

    card: int
    rows: int


@dataclass(frozen=True)
class _Line:
    opening: str
    market: str
    card: str
    rows: str

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
    known = list(_read(path))
    asked_together = {toss.opening for toss in tosses}
    before = {}
    for toss in tosses:
        card = "" if toss.card is None else toss.card.fingerprint
        line = _Line(toss.opening, toss.market, card, toss.rows(auditor))
        others = [one for one in known if one.opening != toss.opening]
        before[toss.market] = Before(
            len({one.opening for one in others if one.is_by(line)} - asked_together),
            len({one.opening for one in others if one.rows and one.rows == line.rows}),
        )
        if toss.opening not in {one.opening for one in known}:
            known.append(line)
            fields = {"market": toss.market, "run": toss.run, "data": toss.data, "opening": toss.opening}
            fields |= {"configuration": toss.configuration, "card": line.card, "rows": line.rows}
            append_line(path, canonical_json(fields) + b"\n")
    return before


def _read(path: Path) -> Iterator[_Line]:
    if path.is_file():
        for number, raw in lines_of(read_bytes(path, MAX_LINES_BYTES), path):
            line = json_object(raw, f"{path}:{number}")
            yield _Line(*(str(line.get(name, "")) for name in ("opening", "market", "card", "rows")))
