"""Tables at every width: no line is wider, and no cell is lost."""

import ast
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import experiments
from experiments.presentation.console import PlainConsole
from experiments.presentation.tables import Facts, Table, fold

SOURCES = sorted(Path(experiments.__file__).parent.rglob("*.py"))
TYPICAL = (
    "xmarket-release-ε-8",
    "0.123 [0.100, 0.146]",
    "+0.012 [-0.001, +0.025]",
    "2026-11-26T11:00:00Z",
    "masked-ckks",
)


def rendered(table, width):
    file = io.StringIO()
    PlainConsole(file=file, width=width).print(table)
    return file.getvalue()


def filled(heads, rows=7):
    """A table with cells as commands have them."""
    table = Table(*heads)
    for row in range(rows):
        cells = (TYPICAL[(row + at) % len(TYPICAL)] for at in range(1, len(heads)))
        table.add_row(f"market-{row}", *cells)
    return table


def squeezed(text):
    return re.sub(r"\s", "", text)


def check(table, width):
    text = rendered(table, width)
    assert max(map(cell_len, text.splitlines()), default=0) <= width
    for cell in (cell for row in (table.heads, *table.rows) for cell in row):
        for word in cell.split():
            assert (word if cell_len(word) <= width // 3 else word[:8]) in text, (word, text)


def tables_in(path):
    """Heads of every table that a module makes, as far as they are written out."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)) if "Table" in source else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Table":
            heads = []
            for argument in node.args:
                inner = argument.value if isinstance(argument, ast.Starred) else argument
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                # names of models, views or markets are known when the command runs: seven of them
                starred = isinstance(argument, ast.Starred) and not isinstance(inner, ast.Tuple)
                for part in parts:
                    if isinstance(part, ast.Constant):
                        heads.append(part.value)
                    else:
                        heads += [f"local-model-{at}" for at in range(7 if starred else 1)]
            yield tuple(heads)


PRODUCT = [(path.stem, heads) for path in SOURCES for heads in tables_in(path)]


def test_all_tables_of_the_product_are_of_this_kind():
    assert len(PRODUCT) > 12
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        imported = re.findall(r"^(?:from|import) rich\.table import", text, re.M)
        assert not imported, path


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize(("module", "heads"), PRODUCT, ids=[f"{name}-{heads[0]}" for name, heads in PRODUCT])
def test_every_table_of_the_product_fits(module, heads, width):
    for rows in (1, 3, 7, 12):
        check(filled(heads, rows), width)


@given(
    st.lists(st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"])), min_size=3, max_size=3), min_size=1),
    st.integers(12, 120),
)
def test_whatever_the_cells_hold_no_line_is_wider_and_nothing_is_lost(rows, width):
    table = Table("what", "first", "second")
    for row in rows:
        table.add_row(*row)
    text = rendered(table, width)
    assert max(map(cell_len, text.splitlines()), default=0) <= width
    shown = Counter(squeezed(text))
    assert Counter(squeezed("".join(cell for row in table.rows for cell in row))) <= shown


def test_a_narrow_table_is_folded_then_turned_then_in_blocks():
    table = Table("way", *(f"what costs {at}" for at in range(8)))
    for way in ("plain", "ckks"):
        table.add_row(way, *(f"{at}.123 [{at}.100, {at}.200]" for at in range(8)))
    assert rendered(table, 300).count("\n") == 4
    turned = rendered(table, 80).splitlines()
    assert turned[0].split() == ["way", "plain", "ckks"]
    assert turned[2].split() == ["what", "costs", "0", "0.123", "[0.100,", "0.200]", "0.123", "[0.100,", "0.200]"]
    assert rendered(table, 40).splitlines()[0].split() == ["way", "plain", "ckks"]  # folded besides
    blocks = rendered(table, 24).splitlines()
    assert blocks[0] == "way: plain"
    assert "way: ckks" in blocks


def test_what_rows_have_in_common_is_said_once():
    table = Table("market", "stage", "ε", same=1)
    table.add_row("m0", "counts", "1")
    table.add_row("m0", "ctr", "2")
    assert rendered(table, 80).count("m0") == 1
    assert rendered(table, 8).count("m0") == 1  # in blocks, too


@pytest.mark.parametrize("width", [12, 40, 80])
def test_no_line_ends_in_blanks(width):
    facts = Facts()
    facts.add_row("no DP", "nothing bounds what the server, and whoever gets scores or models, learn of a user")
    facts.add_row("", "short")
    table = Table("market", "users", "stage", "ε of the stage alone", "noise multiplier", same=2)
    for market in ("m0", "m1"):
        for stage in ("counts", "ctr"):
            table.add_row(market, "1000", stage, "2.619", "")
    for shown in (facts, table):
        lines = rendered(shown, width).splitlines()
        assert [line for line in lines if line != line.rstrip() or cell_len(line) > width] == []


def test_numbers_of_cells_and_heads_agree():
    with pytest.raises(ValueError, match="1 cells under 2 heads"):
        Table("a", "b").add_row("x")


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("0.5 [0.4, 0.6]", 14, ["0.5 [0.4, 0.6]"]),
        ("0.5 [0.4, 0.6]", 12, ["0.5", "[0.4, 0.6]"]),
        ("0.5 [0.4, 0.6]", 6, ["0.5", "[0.4,", "0.6]"]),
        ("abcdef", 4, ["abcd", "ef"]),
        ("日本語", 4, ["日本", "語"]),
        ("", 4, []),
    ],
)
def test_folding(text, width, lines):
    assert fold(text, width) == lines
