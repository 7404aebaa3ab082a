"""Short files that take for ever: searches that start again at every place, numbers and names without end, huge grids.

Times are compared with each other, never with a clock: an attack that worked takes far more than four times as long
for four times the input, and what stands here now is done with the longer input before that is with the shorter.
"""

import re
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
import yaml

from experiments.compliance.signing import ReportError, read_report
from experiments.presentation import tables
from experiments.presentation.tables import Table
from experiments.reports import sweep as sweep_page
from experiments.reports.sweep import open_sweep
from experiments.sweep import grid
from experiments.sweep.files import DONE_FILE
from experiments.sweep.grid import expand
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.foreign.yaml_text import parse_yaml
from fedmm_secure.storage.layout import CELLS, GRID_FILE
from privacy.foreign import ForeignFileError, parse_json
from tests.conftest import TINY

OPENING = '<script type="application/json" id="report">'


def seconds(call, *arguments):
    """Of this process alone; the least of three."""
    least = float("inf")
    for _ in range(3):
        start = time.process_time()
        with suppress(ForeignFileError, ReportError, yaml.YAMLError):
            call(*arguments)
        least = min(least, time.process_time() - start)
    return least


def outgrows(call, make, size):
    """Whether four times the input takes far more than four times as long."""
    return seconds(call, make(4 * size)) > 8 * seconds(call, make(size))


# -- searches ----------------------------------------------------------------------------------------------------------


def embedded_by_expression(html):
    """As it was: from each opening tag to the end of the page, for a closing one that is not there."""
    return re.compile(f"{OPENING}(.*?)</script>", re.DOTALL).findall(html)


def test_a_page_of_opening_tags(tmp_path):
    assert outgrows(embedded_by_expression, lambda n: OPENING * n, 100)

    def read(html):
        path = tmp_path / "compliance.html"
        path.write_text("<!doctype html>" + html)
        with pytest.raises(ReportError, match="carries no report"):
            read_report(path)

    assert seconds(read, OPENING * 600) < seconds(embedded_by_expression, OPENING * 600)


def chunks_of_old(cell):
    return re.compile(r"\[[^\]]*\]|\S+").findall(cell)


def test_a_cell_of_brackets():
    assert outgrows(chunks_of_old, lambda n: "[ " * n, 1000)
    assert seconds(tables._CHUNK.findall, "[ " * 16_000) < seconds(chunks_of_old, "[ " * 4000)
    table = Table("name", "created")
    table.add_row("run", "[ " * 100_000)
    shown = "".join(line.plain for line in table.lines(80))
    assert len(shown) < 10 * tables.MOST_LETTERS
    assert "200000 characters" in " ".join(shown.split())


def test_an_interval_stays_on_one_line():
    table = Table("name", "macro AUC")
    table.add_row("run", "0.812 [0.801, 0.823]")
    assert "[0.801, 0.823]" in "\n".join(line.plain for line in table.lines(24))


# -- YAML and JSON -----------------------------------------------------------------------------------------------------


def tags(count):
    return "".join(f"%TAG !{number:x}! b\n" for number in range(count)) + "--- {a: 1}\n"


def events(text):
    """As it was: libyaml compares each directive with all before it."""
    return sum(1 for _ in yaml.parse(text, Loader=yaml.CSafeLoader))


def test_directives_are_refused_before_they_are_parsed():
    assert outgrows(events, tags, 500)
    text = tags(20_000).encode()
    with pytest.raises(ForeignFileError, match="file:1: holds a YAML directive"):
        parse_yaml(text, "file")
    assert seconds(parse_yaml, text, "file") < seconds(events, tags(3000))


@pytest.mark.parametrize("start", ["\ufeff", "#\n", "a: 1\n...\n", "a: 1\r\n...\r\n", "a: b\x85", "a: b\u2028"])
def test_directives_are_found_wherever_yaml_begins_a_line(start):
    with pytest.raises(ForeignFileError, match="directive"):
        parse_yaml(f"{start}%YAML 1.1\n---\nb: 1\n".encode(), "file")


def test_a_percent_sign_elsewhere_is_none():
    assert parse_yaml(b"a: 10 %\nb: '%x'\nc: |\n  %y\n", "file") == {"a": "10 %", "b": "%x", "c": "%y\n"}


@pytest.mark.parametrize("number", ["9" * 4300, str(2**63), str(-(2**63) - 1), "9" * 10**6])
def test_integers_have_64_bits(number):
    with pytest.raises(ForeignFileError, match="64 bits"):
        parse_json(f'{{"a": {number}}}', "file")
    with pytest.raises(ForeignFileError, match=r"64 bits|too long"):
        parse_yaml(f"a: {number}".encode(), "file")
    assert parse_json(str(2**63 - 1), "file") == parse_yaml(str(2**63 - 1).encode(), "file") == 2**63 - 1


def test_a_number_that_can_be_read_and_not_shown():
    """As it was: two hexadecimal digits of YAML are read, and the message about them cannot be written."""
    found = yaml.safe_load("0x" + "f" * 5000)
    with pytest.raises(ValueError, match="limit"):
        str(found)


# -- grids -------------------------------------------------------------------------------------------------------------


def written_sweep(directory, rounds):
    axes = {"federation.rounds": list(range(1, rounds + 1)), "federation.local_epochs": list(range(1, 6))}
    asked = {"blocks": [{"axes": axes}], "base": "tiny.yaml", "seeds": list(range(10))}
    directory.mkdir(exist_ok=True)
    (directory / GRID_FILE).write_text(
        yaml.safe_dump({"grid": asked, "set": [], "bases": {"tiny.yaml": TINY}}, sort_keys=False)
    )
    return grid.grid_from_data(asked, source="test")


def made(monkeypatch):
    """Cells whose configuration is made, from now on."""
    found, make = [], grid._cell
    monkeypatch.setattr(grid, "_cell", lambda *given: found.append(given) or make(*given))
    return found


def test_cells_that_are_not_there_are_not_made(tmp_path, monkeypatch):
    asked = written_sweep(tmp_path / "sweep", 2)
    cells = expand(asked, bases={"tiny.yaml": TINY})
    counted = made(monkeypatch)
    assert len(expand(asked, bases={"tiny.yaml": TINY})) == len(counted) == 100  # as it was: all of them
    for cell in cells[:3]:
        folder = tmp_path / "sweep" / CELLS / cell.name
        folder.mkdir(parents=True)
        (folder / DONE_FILE).write_text("{}")
    counted.clear()
    written_sweep(tmp_path / "sweep", 1000)  # fifty thousand cells, in a few kilobytes
    assert [cell.name for cell in open_sweep(tmp_path / "sweep").cells] == [cell.name for cell in cells[:3]]
    assert len(counted) == 3


def test_cells_that_are_there_have_their_limit_too(tmp_path, monkeypatch):
    written_sweep(tmp_path / "sweep", 2)
    monkeypatch.setattr(sweep_page, "MOST_READ", 5)
    for number in range(6):
        folder = tmp_path / "sweep" / CELLS / f"x_{number}"
        folder.mkdir(parents=True)
        (folder / DONE_FILE).write_text("{}")
    with pytest.raises(RunDirectoryError, match="at most 5 are read"):
        open_sweep(tmp_path / "sweep")


def test_axes_have_their_limit():
    keys = [".".join(parts) for parts in product(("a", "b", "c", "d", "e", "f"), repeat=2)]
    with pytest.raises(ConfigError, match="more than 32 axes"):
        grid.grid_from_data({"blocks": [{"axes": {key: [1] for key in keys}}]}, source=str(Path("grid")))
