"""Units and compose file: every program exists, every option is one that it has, and separation is what it claims."""

import configparser
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

UNITS = Path(__file__).parents[3] / "experiments" / "deploy" / "units"


def unit(name):
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(UNITS / name)
    return parser["Service"]


def commands():
    found = {path.name: shlex.split(unit(path.name)["ExecStart"]) for path in UNITS.glob("*.service")}
    services = yaml.safe_load((UNITS / "compose.yaml").read_text())["services"]
    return found | {f"compose: {name}": shlex.split(service["command"]) for name, service in services.items()}


@cache
def help_of(program, *subcommand):
    return subprocess.run(
        [program, *subcommand, "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize("command", commands().values(), ids=commands())
def test_every_option_is_one_that_the_program_has(command):
    program, *arguments = command
    words = [word for word in arguments if not word.startswith("-")]
    path = Path(sys.executable).parent / Path(program).name
    shown = help_of(path, *(words[:2] if path.name == "fedmm" else []))
    for option in (word for word in arguments if word.startswith("--")):
        assert re.search(rf"{option}\b", shown), f"{path.name} has no {option}"


def test_the_process_with_keys_has_no_network_and_the_relay_no_keys():
    market, relay = unit("fedmm-market@.service"), unit("fedmm-supernode@.service")
    assert market["PrivateNetwork"] == "true"
    assert market["User"] != relay["User"]
    assert market["Group"] == relay["Group"]
    assert {"keys", "data", "runs"} == {Path(path).name for path in relay["InaccessiblePaths"].split()}
    services = yaml.safe_load((UNITS / "compose.yaml").read_text())["services"]
    assert services["market"]["network_mode"] == "none"
    assert services["market"]["user"].split(":")[0] != services["supernode"]["user"].split(":")[0]
    assert services["market"]["user"].split(":")[1] == services["supernode"]["user"].split(":")[1]


@pytest.mark.parametrize("name", ["fedmm-superlink.service", "fedmm-supernode@.service"])
def test_usage_reports_are_off(name):
    assert "FLWR_TELEMETRY_ENABLED=0" in (UNITS / name).read_text()
