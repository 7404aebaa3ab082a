"""One word for a thing, and one thing for a word: a class, an alias or a function is defined in one module alone."""

import ast
from collections import defaultdict

import pytest

from tests.test_interfaces import trees

TWICE = {  # names that several modules define, and why
    "Release": "of a plan, and as an attacker on disclosure has it",
    "T": "a type variable",
    "app": "what a framework looks for: Typer's, and Flower's two",
    "load_market": "the library's front door opens the reader behind it",
    "main": "entry points of processes",
}
COMMANDS = "experiments/commands/"  # functions there are named as users type them


def defined(source):
    """Public names of a module's own, imports and constants apart."""
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found = [name]
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found = [name]
            case _:
                found = []
        yield from (name for name in found if not name.startswith("_") and (len(name) == 1 or not name.isupper()))


def twice(sources):
    """Names that more than one of the named sources define."""
    places = defaultdict(set)
    for name, source in sources:
        for found in defined(source):
            if not (name.startswith(COMMANDS) and found.islower()):
                places[found].add(name)
    return {name: where for name, where in places.items() if len(where) > 1}


def test_a_public_name_has_one_home():
    found = twice(trees())
    assert {name: where for name, where in found.items() if name not in TWICE} == {}
    assert TWICE.keys() <= found.keys()


@pytest.mark.parametrize(
    "source", ["class Name: ...", "Name = dict[str, int]", "Name: int = 1", "def Name(): ...", "async def Name(): ..."]
)
def test_the_search_finds_what_it_looks_for(source):
    assert twice([("a.py", source), ("b.py", "class Name: ...")]) == {"Name": {"a.py", "b.py"}}
    assert twice([("a.py", source), ("b.py", "from a import Name")]) == {}
