"""Tables that fit: as columns where there is room, turned where rows are few, as blocks where nothing else is.

Every cell of ours is shown at every width: a table is folded and turned, never cut. Text of others is cut where it is
longer than anything that a run writes. All tables of the commands are of this class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.text import Text

from experiments.presentation.console import one_line, say, wide_console

_GAP = 2  # blanks between columns
_FEW = 8  # rows of a table that may be turned
_TALL = 4  # lines of a row, beyond which turning reads better
_CHUNK = re.compile(r"\[[^\[\]]{0,40}\]|\S+")  # an interval stays on one line; bounded, or brackets take quadratic time
MOST_LETTERS = 4000  # of a cell: what is ours is shorter, and what is not would push everything else off the screen

_Row = tuple[str, ...]


class Table:
    """A table of texts, whose first column says what a row is about.

    Args:
        heads: of the columns.
        same: how many first columns say the same for rows that belong together; shown once for them.
    """

    def __init__(self, *heads: str, same: int = 0) -> None:
        self.heads: _Row = tuple(map(one_line, heads))
        self.rows: list[_Row] = []
        self._same = same

    def add_row(self, *cells: str) -> None:
        """Raises ``ValueError`` where cells and heads differ in number."""
        if len(cells) != len(self.heads):
            raise ValueError(f"{len(cells)} cells under {len(self.heads)} heads")
        self.rows.append(tuple(map(_shortened, cells)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from self.lines(options.max_width)

    def lines(self, width: int) -> list[Text]:
        """The table on ``width`` columns of a terminal."""
        found = _in_columns(self.heads, self._shown(), width)
        few = 0 < len(self.rows) <= _FEW
        if few and (found is None or found[1] > _TALL):
            heads = (self.heads[0], *(row[0] for row in self.rows))
            turned = [(head, *(row[at] for row in self.rows)) for at, head in enumerate(self.heads) if at]
            found = _in_columns(heads, turned, width) or found
        if found is not None:
            return found[0]
        return list(self._groups(width) if self._same else self._blocks(width))

    def _shown(self) -> list[_Row]:
        """The rows, without what repeats the row before."""
        shown, before = [], None
        for row in self.rows:
            repeats = before is not None and row[: self._same] == before[: self._same]
            shown.append(("",) * self._same + row[self._same :] if repeats else row)
            before = row
        return shown

    def _blocks(self, width: int) -> Iterator[Text]:
        """One block a row: a line for each cell."""
        for number, row in enumerate(self.rows):
            if number:
                yield Text("")
            yield from _block(self.heads, row, width)

    def _groups(self, width: int) -> Iterator[Text]:
        """What rows have in common as a block, once, and below it a table of the rest."""
        for number, (common, rows) in enumerate(groupby(self.rows, key=lambda row: row[: self._same])):
            if number:
                yield Text("")
            yield from _block(self.heads[: self._same], common, width)
            rest = Table(*self.heads[self._same :])
            rest.rows = [row[self._same :] for row in rows]
            yield from rest.lines(width)


class Facts:
    """What is to be said under a few heads, beside them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def add_row(self, head: str, text: str) -> None:
        """Add a line: what it is about, and what there is to say."""
        self.rows.append((one_line(head), _shortened(text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        label = min(max((cell_len(head) for head, _ in self.rows), default=0), options.max_width // 2)
        for head, text in self.rows:
            yield from _beside(head, text, label, options.max_width)


def say_folded(text: str) -> None:
    """Print a text on lines that fit the terminal, those after the first set in."""
    console = wide_console()
    for number, line in enumerate(fold(one_line(text), max(console.width - _GAP, 1))):
        say(f"{' ' * _GAP if number else ''}{line}")


def _block(heads: _Row, row: _Row, width: int) -> Iterator[Text]:
    label = min(max(map(cell_len, heads), default=0), max(width // 3, 1))
    for line in fold(f"{heads[0]}: {row[0]}" if heads[0] else row[0], width):
        yield Text(line, style="bold")
    for head, cell in zip(heads[1:], row[1:], strict=True):
        if cell:
            yield from _beside(head, cell, label, width, before=_GAP)


def _beside(head: str, text: str, label: int, width: int, *, before: int = 0) -> Iterator[Text]:
    """A text in a column of its own, to the right of its head."""
    rest = max(width - before - label - _GAP, 1)
    for left, right in zip_longest(fold(head, max(label, 1)), fold(text, rest), fillvalue=""):
        yield Text((" " * before + _padded(left, label) + " " * _GAP + right).rstrip())


def _shortened(cell: str) -> str:
    return one_line(cell if len(cell) <= MOST_LETTERS else f"{cell[:MOST_LETTERS]}… ({len(cell)} characters)")


def _in_columns(heads: _Row, rows: Sequence[_Row], width: int) -> tuple[list[Text], int] | None:
    """Heads above columns, and the lines of the tallest row; ``None`` where words do not fit."""
    columns = list(zip(heads, *rows, strict=True))
    natural = [max(map(cell_len, column)) for column in columns]
    least = [max(max(map(cell_len, _CHUNK.findall(cell)), default=0) for cell in column) for column in columns]
    room = width - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    widths = list(natural)
    while sum(widths) > room:
        at = max((at for at in range(len(widths)) if widths[at] > least[at]), key=lambda at: widths[at])
        widths[at] -= 1
    head = list(_row_lines(heads, widths))
    body = [list(_row_lines(row, widths)) for row in rows]
    lines = [Text(line, style="bold") for line in head]
    lines.append(Text("─" * (sum(widths) + _GAP * (len(widths) - 1)), style="dim"))
    lines += [Text(line) for row in body for line in row]
    return lines, max(map(len, body), default=1)


def _row_lines(cells: _Row, widths: Sequence[int]) -> Iterator[str]:
    folded = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        padded = (_padded(part, width) for part, width in zip(parts, widths, strict=True))
        yield (" " * _GAP).join(padded).rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def fold(text: str, width: int) -> list[str]:
    """A text on lines of at most ``width``, broken between words, inside a word only where it is longer."""
    lines: list[str] = []
    for chunk in _CHUNK.findall(text):
        for word in [chunk] if cell_len(chunk) <= width else chunk.split(" "):
            if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
                lines[-1] += f" {word}"
            elif cell_len(word) <= width:
                lines.append(word)
            else:
                lines += chop_cells(word, width)
    return lines
