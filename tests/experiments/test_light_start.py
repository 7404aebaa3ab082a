"""What asks for help, refuses a configuration or says that a run begins loads nothing that trains or draws."""

import json
import subprocess
import sys

import pytest
import yaml

from experiments.cli import Commands, app
from fedmm_secure.config import config_from_data
from fedmm_secure.storage.run_directory import to_yaml
from tests.conftest import TINY

TRAINING = ("torch", "opacus", "jax", "jax_privacy", "sklearn", "tenseal", "flwr", "matplotlib", "mlflow")
READING = ("data info /", "data synthesize /")  # what is not told by its name: tables are read with pandas
HEAVY = (*TRAINING, "dp_accounting", "scipy", "pandas", "pyarrow", "joblib")
SCRIPT = """
import contextlib, io, json, sys
import attacks, experiments, fedmm_secure, privacy
from experiments import cli
from experiments.commands.progress import RunProgress

def opened(progress):
    raise SystemExit  # a run shows that it has begun before it loads what it needs; no further here

RunProgress.__enter__ = opened
heavy, commands = json.loads(sys.stdin.read())
seen = set()

def loaded():
    new = {name for name in heavy if name in sys.modules} - seen
    seen.update(new)
    return sorted(new)

found = [["import", 0, "", loaded()]]
for command in commands:
    sys.argv, status, printed = ["fedmm", *command], 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
    found.append([" ".join(command), status, printed.getvalue(), loaded()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Commands one after another in one process: status, stderr, what it loaded that none before had."""
    folder = tmp_path_factory.mktemp("light")
    tiny, broken, grid = folder / "tiny.yaml", folder / "broken.yaml", folder / "grid.yaml"
    tiny.write_text(yaml.safe_dump(TINY))
    broken.write_text(yaml.safe_dump({**TINY, "privcy": {"epsilon": 8}}))
    grid.write_text(yaml.safe_dump({"blocks": [{"axes": {"privacy.epsilom": [4]}}], "seeds": [0]}))
    run = folder / "runs" / "unfinished"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config_from_data(TINY, source="test")))
    commands = [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in Commands.entries),
        *(["bench", name, "--help"] for name in ("aggregation", "noise", "shadows")),
        ["run", broken],
        ["run", "--set", "privacy.epsilon=much"],
        ["run", "quickstrt"],
        ["run", tiny, "--out", folder / "runs" / "begun"],
        ["budget", "synthetic"],
        ["data", "info", broken],
        ["sweep", grid],
        ["keys", "init", broken, "--market", "m0", "--keys", folder / "keys", "--card", folder / "card.json"],
        ["bench", "shadows", broken],
        ["deploy", "up", folder / "federation", broken],
        ["attack", folder, "--unit", "household"],
        ["compare", run],
        ["keys", "join", "m0", "--keys", folder / "keys"],
        ["keys", "show", folder / "keys"],
        ["runs", folder / "runs"],
        ["data", "info", tiny],
        ["data", "synthesize", folder / "csv", "--users", "20", "--items", "20"],
    ]
    asked = json.dumps([HEAVY, [[str(word) for word in command] for command in commands]])
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {command: (status, said, loaded) for command, status, said, loaded in json.loads(done.stdout)}


def test_help_and_what_refuses_a_configuration_load_nothing_heavy(started):
    light = {command: found for command, found in started.items() if found[0] == 2 or not command.startswith(READING)}
    assert {command: loaded for command, (_, _, loaded) in light.items() if loaded} == {}
    refused = {command: said for command, (status, said, _) in light.items() if status == 2}
    assert len(refused) == 11
    assert [command for command, said in refused.items() if len(said.splitlines()) != 1] == []
    assert [command for command, (status, _, _) in light.items() if status and command not in refused] == []


def test_reading_markets_loads_nothing_that_trains(started):
    assert {command: said for command, (status, said, _) in started.items() if status == 0 and said} == {}
    assert {name for _, _, loaded in started.values() for name in loaded} & set(TRAINING) == set()


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        app(["comparee"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("Did you mean 'compare'?") == 1


def test_a_package_names_what_it_lacks():
    import fedmm_secure
    from fedmm_secure import api

    assert fedmm_secure.FedMM is api.FedMM
    assert fedmm_secure.load_market is api.load_market
    with pytest.raises(AttributeError, match="module 'fedmm_secure' has no attribute 'FedMMM'"):
        _ = fedmm_secure.FedMMM
