"""A line without end behind rows: what was kept of it, and copied again with each block, was all of it.

5.7 MB of gzip took 81 seconds and 5.6 GB in ``fedmm data check``. What is counted is bytes, so that no clock decides.
"""

import io
import tracemalloc
from pathlib import Path

import pytest

from fedmm_secure.config import MarketFile
from fedmm_secure.data import text
from fedmm_secure.data.faults import BadRowsError
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.text import MAX_ROW_BYTES, Dialect, TextFile

ROWS = "".join(f"u{user},i{item}\n" for user in range(12) for item in range(14)).encode()


class Carrying(TextFile):
    """As it was: the bound held only where no line feed was in what was carried over."""

    longest = 0

    def _lines(self):
        carry = self._carry
        while data := self._read():
            cut = data.rfind(b"\n") + 1
            if cut:
                yield carry + data[:cut]
                carry = data[cut:]
            else:
                carry += data
            if len(carry) > MAX_ROW_BYTES and b"\n" not in carry:
                carry = b"\0"
            self.longest = max(self.longest, len(carry))
        if carry:
            yield carry if carry.endswith(b"\n") else carry + b"\n"


def longest(kind, length):
    """Bytes of the longest piece of a file with a line of some length behind rows."""
    file = kind(Path("m.csv"), io.BytesIO(b"user,item\n" + ROWS + b"x" * length))
    file.header()
    return max(len(piece) for piece in file._lines())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 2**16)
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 2**15)


def test_a_line_without_end_is_cut_wherever_it_begins(small):
    assert longest(Carrying, 2**21) > 2**21
    assert longest(TextFile, 2**21) <= 2**16 + 2**15


@pytest.mark.parametrize("at", [0, 1, len(ROWS)])
def test_lines_around_a_long_one_are_read(small, at):
    """Whatever is before or behind it; and all lines are counted."""
    at = ROWS.rfind(b"\n", 0, at) + 1
    data = b"user,item\n" + ROWS[:at] + b"y" * 10**6 + b"\n" + ROWS[at:] + b"z" * 10**6
    file = TextFile(Path("m.csv"), io.BytesIO(data))
    file.header()
    blocks = list(file.blocks({"user": 0, "item": 1}, Dialect(",", True, 2)))
    good = [user for block in blocks for user in block.columns["user"].filter(~block.faults.bad).to_pylist()]
    assert good == [f"u{user}" for user in range(12) for _ in range(14)]
    assert sum(int(block.faults.bad.sum()) for block in blocks) == 2
    assert file.line == 1 + 12 * 14 + 2


def test_a_line_without_end_behind_rows_is_not_kept(tmp_path):
    file = MarketFile(path=tmp_path / "rows.csv", user="user", item="item")
    file.path.write_bytes(b"user,item\n" + ROWS + b"x" * (12 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(BadRowsError, match="never ends"):
            load_market(file, "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20, f"{peak / 2**20:.0f} MB for 12 MB of text"
