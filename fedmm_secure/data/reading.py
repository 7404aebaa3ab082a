"""What was read of a market's file: one record, in which every line is accounted for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from privacy.json_text import json_text


@dataclass(frozen=True)
class Reading:
    """A market's file, counted: ``lines = header + blank + bad + merged + rows``.

    Attributes:
        lines: of the file; of a Parquet file its rows.
        header: lines of the header, 0 or 1.
        blank: lines that hold nothing.
        bad: rows that were left out, each for what it holds itself.
        missing: those of them in which a user, item, rating or time is missing.
        merged: rows that gave way to a later one of the same user and item.
        rows: those that are kept.
        users: distinct ids of users.
        items: of items.
        largest_user: most rows of one user, merged ones included.
        first: earliest time of a row, in UTC; of plain numbers the smallest; ``None`` without times.
        last: latest.
    """

    lines: int
    header: int
    blank: int
    bad: int
    missing: int
    merged: int
    rows: int
    users: int
    items: int
    largest_user: int
    first: str | None
    last: str | None

    @property
    def line(self) -> bytes:
        """The record as one line, the same for the same record."""
        return json_text(asdict(self), sort_keys=True).encode()
