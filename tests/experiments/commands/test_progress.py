"""Progress of everything that takes long, by one mechanism."""

import ast
import time
from pathlib import Path

import pytest

import experiments.commands
from experiments.commands import progress
from experiments.commands.progress import TaskProgress, duration_text
from experiments.presentation.steps import tell_step, track

COMMANDS = Path(experiments.commands.__file__).parent
# commands that end at once, or that serve until they are stopped and say so
AT_ONCE = {"keys", "options", "progress", "dialog", "interruption", "lazy", "signing", "__init__"}
DISPLAYS = {"TaskProgress", "RunProgress", "SweepProgress"}
SERVING = {"up", "register", "sign", "trust", "market", "certificates", "private_files"}


def functions_that_are_commands(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            annotations = ast.dump(node.args)
            if "Annotated" in annotations or "typer" in annotations or "Option" in annotations:
                yield node


def test_every_command_that_may_take_long_opens_a_display():
    seen = set()
    for path in COMMANDS.glob("*.py"):
        if path.stem in AT_ONCE or not path.is_file():
            continue
        helpers = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        for node in functions_that_are_commands(path):
            if node.name in SERVING:
                continue
            names = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}
            for helper in names & helpers.keys():
                names |= {found.id for found in ast.walk(helpers[helper]) if isinstance(found, ast.Name)}
            assert names & DISPLAYS, f"{path.name}: {node.name} shows no progress"
            seen.add(node.name)
    assert {"run", "verify", "budget", "report", "compare", "sweep", "init", "data_info", "demo", "aggregation"} <= seen


def test_off_a_terminal_a_line_comes_at_intervals_and_says_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    with TaskProgress("working"):
        for _ in track("parts of it", [1, 2]):
            time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("parts of it: 0 of 2, 0 s so far")
    assert any(line.startswith("parts of it: 1 of 2, 0 s so far, about 0 s left") for line in lines)


def test_what_tells_no_steps_says_how_long_it_has_taken(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    with TaskProgress("verifying"):
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines()[0] == "verifying: 0 s so far"


@pytest.mark.parametrize("quiet", [True, False])
def test_short_work_and_quiet_work_say_nothing(monkeypatch, capsys, quiet):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01 if quiet else 30)
    with TaskProgress("working", quiet=quiet):
        tell_step("parts", 1, 2)
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_outside_of_a_display_steps_go_nowhere(capsys):
    assert list(track("parts", range(3))) == [0, 1, 2]
    tell_step("parts", 1, None)
    assert capsys.readouterr() == ("", "")


def test_the_time_that_is_left_follows_from_what_was_done_since_the_step_began():
    step = progress._Step(start=0.0, first=10, done=15, total=30)
    assert step.left(50.0) == 150.0
    assert step.line("rounds", 50.0) == "rounds: 15 of 30, 50 s so far, about 2 min left"
    assert progress._Step(0.0, 3, 3, 9).left(5.0) is None


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (119, "119 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert duration_text(seconds) == text
