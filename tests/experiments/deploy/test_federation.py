"""Real processes: SuperLink behind its proxy, authenticated SuperNodes behind theirs, a process for each market."""

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from experiments.deploy.certificates import CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY, NODE_KEY, SERVER_CERTIFICATE
from experiments.deploy.control import operator_home, run_lines, submit
from experiments.deploy.federation import federation_up, start_superlink
from experiments.deploy.homes import Homes, prepare_homes
from experiments.deploy.in_process import compare_with_in_process
from experiments.deploy.proxies import nginx
from experiments.verification import verify_run
from fedmm_secure.federation.messages import unpack
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.service.market_service import run_directories
from tests.command_line import fedmm
from tests.conftest import TINY
from tests.experiments.deploy.test_flower_engine import EXPECTED
from tests.faults import AGAIN, COUNTED, LEAST, ONCE, configuration

ROOT = Path(__file__).parents[3]
needs_nginx = pytest.mark.skipif(nginx() is None, reason="nginx is not installed: apt-get install nginx")


@contextmanager
def watched():
    """Collects what comes to listen on this machine meanwhile."""
    before, seen, done = listening(), set(), threading.Event()

    def watch():
        while not done.wait(1.0):
            seen.update(listening() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def listening():
    """Addresses and ports that this machine listens on, IPv4 and IPv6."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


@pytest.fixture
def port_of():
    def find(homes):
        return int(re.search(r":(\d+)", (operator_home(homes.server) / "config.toml").read_text()).group(1))

    return find


@needs_nginx
def test_three_markets_in_processes_of_their_own_train_the_same_models_as_in_process(tmp_path, capfd, forked):
    config = tmp_path / "tiny.yaml"
    settings = {"aggregation": {"kind": "masked-ckks"}, "federation": {"rounds": 2}, "ctr": LEAST}
    config.write_text(yaml.safe_dump(TINY | settings))
    with watched() as seen:
        status, out, err = fedmm(capfd, "deploy", "demo", config, "--out", tmp_path / "demo", "--for", 500)
    assert status == 0, out + err
    assert out.count("bit-identical") == 12
    assert "finished: m0, m1, m2" in out
    assert seen
    assert {address for address, _ in seen} == {"0100007F"}  # 127.0.0.1
    homes = tmp_path / "demo"
    ports = {
        int(port) for path in homes.rglob("nginx.conf") for port in re.findall(r"127\.0\.0\.1:(\d+)", path.read_text())
    }
    assert len(ports & {port for _, port in seen}) >= 5  # two of the server, one of each market's proxy
    assert not ports & {port for _, port in listening()}  # all have stopped
    for market in ("m0", "m1", "m2"):  # each holds its own files alone
        found = sorted(path.name for path in (homes / "markets" / market / "data").iterdir())
        assert found == [f"{market}.csv", f"{market}.items.txt"]
    assert not list((homes / "server").rglob("*.csv"))
    logs = "".join(path.read_text(errors="replace") for path in (homes / "logs").iterdir())
    assert "telemetry" not in logs.lower()


def test_certificates_are_for_the_hosts_that_were_named_and_for_one_purpose(tmp_path, capsys):
    arguments = ("--host", "superlink.example.org", "--host", "10.0.0.7", "--node", "de")
    assert fedmm(capsys, "deploy", "certificates", tmp_path / "tls", *arguments)[0] == 0
    server, market = tmp_path / "tls" / "server", tmp_path / "tls" / "de"

    def verified(file, purpose, *more):
        command = ["openssl", "verify", "-CAfile", server / CA_CERTIFICATE, "-purpose", purpose, *more, file]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    for host in (("-verify_hostname", "superlink.example.org"), ("-verify_ip", "10.0.0.7")):
        assert verified(server / SERVER_CERTIFICATE, "sslserver", *host)
    assert not verified(server / SERVER_CERTIFICATE, "sslserver", "-verify_hostname", "example.com")
    assert verified(market / CLIENT_CERTIFICATE, "sslclient")
    assert not verified(server / SERVER_CERTIFICATE, "sslclient")
    assert not verified(market / CLIENT_CERTIFICATE, "sslserver")
    assert (market / CA_CERTIFICATE).read_bytes() == (server / CA_CERTIFICATE).read_bytes()
    secrets = (server / "server.key", market / CLIENT_KEY, market / NODE_KEY, *(tmp_path / "tls").rglob("loopback.key"))
    assert len(secrets) == 5
    assert [secret for secret in secrets if secret.stat().st_mode & 0o077] == []
    key = (market / NODE_KEY).read_bytes()
    assert fedmm(capsys, "deploy", "certificates", tmp_path / "tls", *arguments)[0] == 0  # renewed
    assert (market / NODE_KEY).read_bytes() == key  # which the SuperLink knows


@pytest.mark.parametrize(
    ("option", "name"),
    [("--node", "server"), *itertools.product(["--node", "--host"], ["../../x", "", "a;b", "/etc/x", "\x1b[2J"])],
)
def test_names_that_are_none_are_refused(option, name, tmp_path, capsys):
    others = {"--node": "de", "--host": "superlink.example.org"} | {option: name}
    arguments = [argument for pair in others.items() for argument in pair]
    status, _, err = fedmm(capsys, "deploy", "certificates", tmp_path / "tls", *arguments)
    assert status == 2
    assert f"not a name of a {option[2:]}" in err
    assert not (tmp_path / "tls").exists()


@pytest.mark.slow
@needs_nginx
def test_faults_over_the_network_and_a_server_that_is_killed(tmp_path, port_of):
    """One run, a fault of one market in each round; in the round after them the SuperLink is killed."""
    faults = [fault for fault in dict.fromkeys(fault for fault, _ in EXPECTED) if "8 times" not in fault]
    rounds, killed_at = len(faults) + 4, len(faults) + 2
    config = configuration("ckks", federation={"rounds": rounds, "round_timeout": 30.0})
    homes = prepare_homes(config, tmp_path / "f")
    with federation_up(homes, runs=1, lifetime=1500.0) as processes:
        processes.stop("market-m3")
        script = str(Path(__file__).with_name("faulty_market.py"))
        again = 'for try in 1 2 3; do "$0" "$@" && exit 0; done; exit 1'  # as a supervisor would
        command = ["sh", "-c", again, sys.executable, script, str(homes.market("m3")), *faults]
        processes.start("market-m3", command, {"PYTHONPATH": str(ROOT)})
        processes.wait_for("market-m3", "waiting for the federation")
        first = threading.Thread(target=submit, args=(homes.server,), kwargs={"timeout": 1200.0}, daemon=True)
        first.start()
        run = wait_for_round(homes, killed_at)
        processes.stop("superlink", signal.SIGKILL)
        start_superlink(processes, homes, port_of(homes), 1200.0)
        time.sleep(15)  # SuperNodes find it again
        printed = submit(homes.server, run=run, timeout=600.0)
        assert any(line.startswith("finished: m0, m1, m2, m3") for line in run_lines(printed)), printed[-3000:]
        wait_until_concluded(processes, homes)
    server = homes.server / "runs" / run
    transcript = Transcript(server / "transcript")
    found = {}
    for number, fault in enumerate(faults, start=1):
        header, _ = unpack(transcript.find(kind="aggregate", stage="quantizer/0", round=number, sender="server"))
        left_out = "m3" not in header.cohort
        counted = ONCE if fault == "sends twice" else COUNTED
        found[fault] = AGAIN if left_out and header.attempt else counted
    assert found == {fault: EXPECTED[fault, "ckks"] for fault in faults}
    for market in homes.markets:
        (directory,) = run_directories(homes.market(market) / "runs")
        assert verify_run(directory, server) == []


def wait_for_round(homes, round):
    """Until the server has closed ``round``; the run's id."""
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        for directory in run_directories(homes.server / "runs"):
            log = directory / "log.jsonl"
            events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            if any(event["event"] == "round" and event["round"] == round for event in events):
                return directory.name
        time.sleep(0.5)
    raise AssertionError(f"round {round} was not reached")


def wait_until_concluded(processes, homes):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not all(processes.ended(f"market-{name}") for name in homes.markets):
        time.sleep(1)


@pytest.mark.slow
def test_the_simulation_engine_trains_the_same_models_and_listens_on_this_machine_alone(tmp_path, capfd):
    pytest.importorskip("ray", reason="the extra simulation is not installed")
    config = tmp_path / "tiny.yaml"
    synthetic = TINY["data"]["synthetic"] | {"markets": 12}
    config.write_text(yaml.safe_dump(TINY | {"data": {"synthetic": synthetic}, "federation": {"rounds": 2}}))
    with watched() as seen:
        status, out, err = fedmm(capfd, "deploy", "simulate", config, "--out", tmp_path / "many", "--for", 500)
    assert status == 0, out + err
    assert "12 markets, macro AUC" in out
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert {address for address, _ in seen} <= loopback
    same = compare_with_in_process(Homes(tmp_path / "many"), tmp_path / "in-process")
    assert len(same) == 12 * 4
    assert all(same.values())
