"""Examples in docstrings say what the code does."""

import doctest
from importlib import import_module
from pathlib import Path

import joblib
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "experiments", "fedmm_secure", "privacy")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)

LONG = {"fedmm_secure.api": 5}  # at least so many lines and one


def test_there_are_examples():
    assert len(MODULES) >= 4


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    with joblib.parallel_config("sequential"):  # a worker process imports for seconds
        failed, tried = doctest.testmod(import_module(name))
    assert tried > LONG.get(name, 0)
    assert failed == 0
