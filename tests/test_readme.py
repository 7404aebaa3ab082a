"""What README and CHANGELOG tell a newcomer to type works."""

import re
import sys
from pathlib import Path
from unittest.mock import patch

import joblib
import pytest

from experiments import cli
from experiments.runs.configuration import resolve, shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
INDEX = (ROOT / "docs" / "index.md").read_text()


def fedmm(*arguments):
    with patch.object(sys, "argv", ["fedmm", *arguments]):
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fedmm("data", "synthesize", "markets", "--users", "80", "--items", "40") == 0
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("from")]) <= 5
    with joblib.parallel_config(backend="sequential"):  # the example of the interface has processes of its own
        exec(compile(code, "README.md", "exec"), {})
    assert "global_code" in capsys.readouterr().out


def test_the_custom_configuration_fits_the_synthesized_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fedmm("data", "synthesize", "markets") == 0
    (tmp_path / "my.yaml").write_text((ROOT / "experiments" / "configs" / "custom-csv.yaml").read_text())
    assert fedmm("data", "check", "my.yaml") == 0


@pytest.mark.parametrize("name", shipped())
def test_shipped_configurations_are_valid_and_named_on_the_first_page(name):
    resolve(name)
    assert f"`{name}`" in INDEX


def test_the_readme_is_read_in_three_minutes():
    assert len(README.encode()) < 6_000


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target
