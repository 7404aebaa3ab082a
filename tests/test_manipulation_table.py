"""The table of manipulations in the documentation is the one that the tests hold to."""

from pathlib import Path

from tests.manipulations import BEYOND, MANIPULATIONS, table

DOCUMENT = Path(__file__).parents[1] / "docs" / "verification.md"


def test_the_documented_table_is_the_tested_one():
    assert table() in DOCUMENT.read_text(encoding="utf-8"), table()


def test_there_are_as_many_rows_as_manipulations_and_few_are_beyond():
    rows = table().splitlines()[2:]
    assert len(rows) == len(MANIPULATIONS) >= 27
    assert all(BEYOND not in row.split(" | ")[1] for row in rows)  # an outsider passes with nothing
