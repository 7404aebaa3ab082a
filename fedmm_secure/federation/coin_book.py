"""An auditor's book: for which first lines coins were tossed, so that who asks again and again is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedmm_secure.federation.coins import Toss
from privacy.accounting.lines import append_line, canonical_json
from privacy.foreign import MAX_LINES_BYTES, json_object, lines_of, read_bytes

BOOK_FILE = "coins.jsonl"  # beside the auditor's keys


def enter_tosses(keys: Path, tosses: Sequence[Toss]) -> dict[str, int]:
    """Enter what coins are tossed for; returns by market how many other first lines on its rows there were before.

    The same line again is no other toss: its coin is the same.
    """
    path = keys / BOOK_FILE
    known = _read(path)
    before = {}
    for toss in tosses:
        others = {opening for market, data, opening in known if (market, data) == (toss.market, toss.data)}
        before[toss.market] = len(others - {toss.opening})
        if toss.opening not in others:
            fields = {"market": toss.market, "run": toss.run, "data": toss.data, "opening": toss.opening}
            append_line(path, canonical_json({**fields, "configuration": toss.configuration}) + b"\n")
    return before


def _read(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        return []
    lines = (json_object(raw, f"{path}:{number}") for number, raw in lines_of(read_bytes(path, MAX_LINES_BYTES), path))
    return [(str(line["market"]), str(line["data"]), str(line["opening"])) for line in lines]
