"""Every command that README and tutorial tell a newcomer to type, in order, in one folder, word for word.

They run in this process, on smaller markets and models than they would: sizes are changed below the commands, in the
generator and in what a configuration has by default.
"""

import re
import shlex
from pathlib import Path

import joblib
import pytest

from attacks.membership.shadow import train_shadows
from experiments.assessment import membership
from experiments.commands import data as data_commands
from experiments.runs import configuration
from fedmm_secure.config import SyntheticSpec
from tests.command_line import call
from tests.smaller import fewer_trees, smaller

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/tutorial.md")
BY_CI = {  # what CI did already, or does around this test; the tutorial has what `make run` runs
    "make install",
    "make test",
    "make run",
    'export PATH="$PWD/.venv/bin:$PATH"',
}
SMALL = {
    "quantizer": {"latent_dim": 4, "hidden_dim": 16},
    "federation": {"rounds": 1},
    "privacy": {"pseudo_users": 100, "ctr": {"steps": 4}},
    "workers": 1,
}
USERS, ITEMS, SHADOWS = 80, 40, 4


def commands(page):
    """Lines of the fenced shell blocks of a page, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            bare = re.sub(r"(^|\s+)#.*$", "", line.removeprefix("$ ")).strip()
            if bare:
                yield bare


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where a newcomer stands; markets and models are small."""
    read, folder = configuration.config_from_data, tmp_path_factory.mktemp("newcomer")

    def config_from_data(values, *, source):
        small = smaller(values, SMALL) if values.get("privacy") else values
        if small.get("data", {}).get("synthetic"):
            sizes = {"users": USERS, "items": ITEMS}
            small = {**small, "data": {**small["data"], "synthetic": {**small["data"]["synthetic"], **sizes}}}
        return read(small, source=source)

    def spec(**sizes):
        return SyntheticSpec(**{**sizes, "users": USERS, "items": ITEMS})

    def shadows(plan, *, n_shadows, **where):
        return train_shadows(plan, n_shadows=min(n_shadows, SHADOWS), **where)

    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config(backend="sequential"), fewer_trees():
        patch.setattr(configuration, "config_from_data", config_from_data)
        patch.setattr(data_commands, "SyntheticSpec", spec)
        patch.setattr(membership, "train_shadows", shadows)
        patch.setenv("COLUMNS", "80")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def history(place):
    """Each command's exit status and where it stands, page by page."""
    found = []
    for page in PAGES:
        for line in commands(page):
            if line not in BY_CI:
                words = shlex.split(line)
                assert Path(words[0]).name == "fedmm", f"{page}: {line!r} is run by nobody: name it in BY_CI"
                found.append((page, line, call(*words[1:])))
    return found


def test_every_command_works_as_written(history):
    assert [line for line in history if line[2] != 0] == []


def test_the_tutorial_leads_to_signed_reports_that_hold(history, place):
    assert [line for _, line, _ in history if " --compliance " in line]
    for run in ("quickstart", "first"):
        assert (place / "runs" / run / "compliance.html").is_file()


def test_the_same_command_twice_says_the_same_again(history, place, capsys):
    """Generated markets have no privacy account: nothing of the runs before is added up."""
    capsys.readouterr()
    assert call("report", place / "runs" / "quickstart") == 0
    assert call("verify", place / "runs" / "quickstart") == 0
    captured = capsys.readouterr()
    assert "earlier" not in captured.out + captured.err
