"""JSON has no infinity: the product has one writer, which refuses it."""

import ast
import json
import math
from pathlib import Path

import pytest

import privacy
from privacy.json_text import finite, json_text

ROOT = Path(privacy.__file__).parents[1]
ROOMS = ("privacy", "fedmm_secure", "attacks", "experiments")
SOURCES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
WRITER = ROOT / "privacy" / "json_text.py"
ALONE = {  # what runs where the product is not
    "flower_app",  # on a SuperNode; writes one constant
    "elsewhere.py",  # in another interpreter, which times other libraries
}


def writes_json(path):
    """Whether a module writes JSON by itself."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)) if "json" in source else ():
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            return True
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "json"
            and node.attr not in ("loads", "load", "JSONDecodeError", "JSONDecoder")
        ):
            return True
    return False


def test_nothing_else_writes_json():
    assert [path for path in SOURCES if not ALONE & set(path.parts) and writes_json(path)] == [WRITER]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": [number]})


def test_unbounded_is_null():
    values = {"a": math.inf, "b": [1.5, -math.inf, {"c": (math.inf, "∞")}]}
    assert json.loads(json_text(finite(values))) == {"a": None, "b": [1.5, None, {"c": [None, "∞"]}]}
