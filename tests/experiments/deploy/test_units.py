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

from experiments.deploy.proxies import PROXY_CONFIGURATION, nginx, nginx_command
from tests.command_line import fedmm
from tests.commands import forked_commands

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


@pytest.fixture(scope="module")
def help_of(tmp_path_factory):
    """What a program that is installed says of itself, from a fork of what has imported it."""
    with forked_commands(tmp_path_factory.mktemp("commands")) as folder:

        @cache
        def ask(program, *subcommand):
            assert (Path(sys.executable).parent / program).is_file()
            command = [folder / program, *subcommand, "--help"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

        yield ask


FLOWER = {name: command for name, command in commands().items() if Path(command[0]).name != "nginx"}
NGINX = {name: command for name, command in commands().items() if Path(command[0]).name == "nginx"}


@pytest.mark.parametrize("command", FLOWER.values(), ids=FLOWER)
def test_every_option_is_one_that_the_program_has(command, help_of):
    program, *arguments = Path(command[0]).name, *command[1:]
    words = [word for word in arguments if not word.startswith("-")]
    shown = help_of(program, *(words[:2] if program == "fedmm" else []))
    for option in (word for word in arguments if word.startswith("--")):
        assert re.search(rf"{option}\b", shown), f"{program} has no {option}"


@pytest.mark.parametrize("command", NGINX.values(), ids=NGINX)
def test_proxies_start_as_they_do_on_one_machine(command):
    ours = nginx_command(Path("folder"), Path("prefix")) if nginx() else pytest.skip("nginx is not installed")
    assert [word for word in command if word.startswith("-")] == [word for word in ours if word.startswith("-")]
    assert command[-1] == "daemon off;"
    assert Path(command[command.index("-c") + 1]).name == PROXY_CONFIGURATION


@pytest.mark.skipif(nginx() is None, reason="nginx is not installed: apt-get install nginx")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_nginx_takes_the_configurations_that_are_generated(host, tmp_path, capsys):
    """As they stand, of every host, with the certificates beside them."""
    tls = tmp_path / "tls"
    assert fedmm(capsys, "deploy", "certificates", tls, "--host", host, "--node", "de")[0] == 0
    for party in ("server", "de"):
        done = subprocess.run([*nginx_command(tls / party, tmp_path / party), "-t"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr


def test_the_process_with_keys_has_no_network_and_the_relay_no_keys():
    market, relay = unit("fedmm-market@.service"), unit("fedmm-supernode@.service")
    assert market["PrivateNetwork"] == "true"
    assert market["User"] != relay["User"]
    assert market["Group"] == relay["Group"]
    hidden = {Path(path).name for path in relay["InaccessiblePaths"].split()}
    assert hidden == {"keys", "data", "runs", "fedmm"}  # the last is the proxy's folder
    services = yaml.safe_load((UNITS / "compose.yaml").read_text())["services"]
    assert services["market"]["network_mode"] == "none"
    assert services["market"]["user"].split(":")[0] != services["supernode"]["user"].split(":")[0]
    assert services["market"]["user"].split(":")[1] == services["supernode"]["user"].split(":")[1]


def test_proxies_alone_face_the_network():
    """Of what runs code that comes over the wire, or starts it, nothing is reached from elsewhere."""
    for name in ("fedmm-superlink.service", "fedmm-supernode@.service"):
        assert (unit(name)["IPAddressDeny"], unit(name)["IPAddressAllow"]) == ("any", "localhost")
    for command in FLOWER.values():
        assert "--insecure" not in command
        if "--host" in command:
            assert command[command.index("--host") + 1] == "127.0.0.1"
    services = yaml.safe_load((UNITS / "compose.yaml").read_text())["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}
    assert services["superlink"]["network_mode"] == "service:proxy"
    assert services["supernode"]["network_mode"] == "service:relay"


def test_a_supernode_trusts_the_founder_alone():
    for name in ("fedmm-supernode@.service", "compose: supernode"):
        assert "--trusted-entities" in FLOWER[name]


@pytest.mark.parametrize("name", [path.name for path in UNITS.glob("*.service")])
def test_files_are_private(name):
    assert unit(name)["UMask"] == "0077"


def test_the_process_with_keys_can_remember_its_account_outside_of_its_home():
    """Where it could not, no run began; and what lies in the home goes back in time with it."""
    market = unit("fedmm-market@.service")
    kept = dict(word.split("=", 1) for word in market["Environment"].split())["XDG_STATE_HOME"]
    assert kept == f"/var/lib/{market['StateDirectory']}"
    assert not Path(kept).is_relative_to(market["ReadWritePaths"])
    assert (market["ProtectHome"], market["StateDirectoryMode"]) == ("true", "0700")
    market = yaml.safe_load((UNITS / "compose.yaml").read_text())["services"]["market"]
    home = shlex.split(market["command"])[3]
    mounted = {volume.rsplit(":", 1)[1] for volume in market["volumes"]}
    assert market["read_only"]
    assert mounted == {home, market["environment"]["XDG_STATE_HOME"]}


@pytest.mark.parametrize("name", ["fedmm-superlink.service", "fedmm-supernode@.service"])
def test_usage_reports_are_off(name):
    assert "FLWR_TELEMETRY_ENABLED=0" in (UNITS / name).read_text()
