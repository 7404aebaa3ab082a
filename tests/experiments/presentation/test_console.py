"""Foreign text on a terminal: it is read, and does nothing."""

import io
import json
import math
import re

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from experiments.presentation.console import NULL, PlainConsole, one_line, printable, say, say_json
from experiments.presentation.page import _environment

ACTS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
ESCAPE = "\x1b[2J\x1b]0;owned\x07[red]name[/red]:smiley:\u202e"


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_nothing_that_acts_is_left(text):
    assert not ACTS.search(printable(text))
    assert len(printable(text)) == len(text)
    assert "\n" not in one_line(text)
    one_line(text).encode()  # a surrogate has no place in UTF-8


@pytest.mark.parametrize("text", ["a name", "ε = 8, ∞", "日本", "two\nlines", ""])
def test_what_acts_on_nothing_stays_as_it_is(text):
    assert printable(text) == text


def shown(console_type, text):
    """A table with a name in head and cell, and the name itself, as a terminal with colours gets them."""
    file = io.StringIO()
    console = console_type(file=file, force_terminal=True, width=120)
    table = Table(text)
    table.add_row(text)
    console.print(table)
    console.print(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())  # rich's own colours


def test_a_table_takes_a_name_for_text():
    assert "\x1b]0;owned" in shown(Console, ESCAPE)  # what rich makes of it
    assert "[red]" not in shown(Console, ESCAPE)
    found = shown(PlainConsole, ESCAPE)
    assert not ACTS.search(found)
    assert found.count("[red]name[/red]:smiley:") == 3


def test_say(capsys):
    say("one", ESCAPE, 3)
    say("wrong", error=True)
    found = capsys.readouterr()
    assert not ACTS.search(found.out)
    assert found.out.splitlines()[0::2] == ["one", "3"]
    assert found.err == "wrong\n"


def test_a_null_that_stands_for_no_bound_has_a_note_beside_it(capsys):
    stated = {"epsilon": None, "delta": 1e-5, "auc": None, "views": {"market": math.inf, "server": 0.0}}
    say_json({"m0": stated, "rows": [{"epsilon_market": math.inf}, {"epsilon_market": 8.0}]})
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "m0": {
            "epsilon": None,
            "epsilon_note": NULL,
            "delta": 1e-5,
            "auc": None,
            "views": {"market": None, "server": 0.0},
            "views_note": NULL,
        },
        "rows": [{"epsilon_market": None, "epsilon_market_note": NULL}, {"epsilon_market": 8.0}],
    }


def test_a_page_shows_text_in_the_order_in_which_it_stands():
    """Who puts results of attacks beside a run turned around what its page says: only ``<`` was escaped."""
    turned = "refuted: \u202eton saw ti\u202c <b>"
    page, plain = _environment().from_string("{{ said }}{{ ours }}"), jinja2.Environment(autoescape=True)
    ours = Markup("<figure>\u2028</figure>")
    assert "\u202e" in plain.from_string("{{ said }}").render(said=turned)
    shown = page.render(said=turned, ours=ours)
    assert shown == f"refuted: \ufffdton saw ti\ufffd &lt;b&gt;{ours}"
