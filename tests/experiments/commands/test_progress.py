"""Progress of everything that takes long, by one mechanism."""

import ast
import time
from pathlib import Path

import pytest

import experiments.commands
from experiments.commands import progress
from experiments.commands.progress import RunProgress, TaskProgress, duration_text
from experiments.presentation.steps import tell_step, track
from fedmm_secure import pipeline
from fedmm_secure.service import market_run

COMMANDS = Path(experiments.commands.__file__).parent
# commands that end at once, or that serve until they are stopped and say so
AT_ONCE = {"coins", "keys", "options", "progress", "dialog", "interruption", "lazy", "signing", "__init__"}
DISPLAYS = {"TaskProgress", "RunProgress", "SweepProgress"}
SERVING = {"coins", "up", "register", "sign", "trust", "market", "certificates", "private_files"}


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
    assert lines[0].startswith("parts of it: 0 of 2, 0:00 so far")
    assert any(line.startswith("parts of it: 1 of 2, 0:00 so far, about 0:00 left") for line in lines)


def test_what_tells_no_steps_says_how_long_it_has_taken(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    with TaskProgress("verifying"):
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines()[0] == "verifying: 0:00 so far"


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


def test_the_time_that_is_left_follows_from_what_each_unit_took():
    step = progress._Step(start=0.0, first=10, done=15, total=30, reached=50.0)
    assert step.left(50.0) == 150.0
    assert step.line("rounds", 54.0) == "rounds: 15 of 30, 0:54 so far, about 2:26 left"
    assert step.left(60.0) == step.left(190.0) == 140.0  # a unit that takes long says nothing of the others
    assert step.left(200.0) is None  # it took longer than all of them would
    assert progress._Step(0.0, 3, 3, 9).left(5.0) is None
    assert progress._Step(0.0, 0, 9, 9, 9.0).left(20.0) is None  # it is done: nothing of it is left


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "0:03"), (119, "1:59"), (119.7, "2:00"), (150, "2:30"), (9000, "2:30:00")]
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_a_stage_is_named_as_soon_as_it_starts(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    rounds = {"seed": 0, "round": 5, "rounds": 5, "loss": None, "epsilon": None}
    with RunProgress("starting") as display:
        display("round", rounds)
        display("stage", {"stage": "ctr"})
        time.sleep(0.08)
        display("ctr", {"market": "de", "done": 1, "markets": 3})
        time.sleep(0.08)
        display("stage", {"stage": "embedding", "run": "without DP"})
        time.sleep(0.08)
    lines = capsys.readouterr().err.splitlines()
    assert not any(line.startswith("rounds") for line in lines)
    assert lines[0] == "CTR models: 0:00 so far"
    assert any(line.startswith("CTR models: 1 of 3, 0:00 so far, about 0:00 left, market de") for line in lines)
    assert lines[-1] == "without DP: embeddings: 0:00 so far"


def test_what_is_done_is_not_told_again_but_what_it_was_a_part_of(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.03)
    with TaskProgress("attacking") as display:
        display.update("pipelines", 8, 8)
        time.sleep(0.05)
        display.update("attacks", 0, 2)
        display.update("pipelines", 1, 1)
        time.sleep(0.05)
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(lines)) == ["attacking: 0:00 so far", "attacks: 0 of 2"]


def test_a_step_that_begins_again_has_a_time_of_its_own():
    with RunProgress("starting", quiet=True) as display:
        display.update("rounds", 5, 5)
        display._steps["rounds"].start -= 60
        display.update("rounds", 1, 5)
        assert display._steps["rounds"].line("rounds", time.monotonic()) == "rounds: 1 of 5, 0:00 so far"


def test_every_stage_of_the_pipeline_has_a_name():
    stages = set()
    for module in (pipeline, market_run):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "stage":
                stages |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    assert stages == progress._STAGES.keys()
