"""An auditor's book: for which first lines coins were tossed, so that who asks again and again is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedmm_secure.federation.coins import Toss
from privacy.accounting.lines import append_line, canonical_json
from privacy.foreign import MAX_LINES_BYTES, json_object, lines_of, read_bytes

BOOK_FILE = "coins.jsonl"  # beside the auditor's keys


def enter_tosses(keys: Path, tosses: Sequence[Toss]) -> dict[str, int]:
    """Enter what coins are tossed for; returns by market how many other first lines of it there were before.

    Of two runs nobody but a market can tell whether their rows are the same, so all of them count.

    The same line again is no other toss: its coin is the same.
    """
    path = keys / BOOK_FILE
    known = _read(path)
    before = {}
    for toss in tosses:
        others = {opening for market, opening in known if market == toss.market}
        before[toss.market] = len(others - {toss.opening})
        if toss.opening not in others:
            fields = {"market": toss.market, "run": toss.run, "data": toss.data, "opening": toss.opening}
            append_line(path, canonical_json({**fields, "configuration": toss.configuration}) + b"\n")
    return before


def _read(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    lines = (json_object(raw, f"{path}:{number}") for number, raw in lines_of(read_bytes(path, MAX_LINES_BYTES), path))
    return [(str(line["market"]), str(line["opening"])) for line in lines]
