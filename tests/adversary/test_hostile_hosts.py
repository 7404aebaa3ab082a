"""Attacks: run code on every host of a federation by its SuperLink's port, or by an app that nobody reviewed.

By anyone who reaches the server's host. Flower serves SuperNodes, whoever submits runs and the processes that carry
them out on one port, and asks SuperNodes alone who they are: with ``ca.crt``, which every market has, ``flwr run``
shipped code to all hosts; without anything, runs and nodes could be listed and a task taken. The port itself is that
broken copy: it still does all this, on the loopback. What others reach is the proxy; all programs are the real ones.
"""

import contextlib
import dataclasses
import http.client
import http.server
import os
import re
import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, ListRunsResponse, StartRunRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE as PROTOBUF
from flwr.supernode.fleet_http_client import FleetHttpClient

from experiments.deploy import control, federation
from experiments.deploy.certificates import (
    CA_CERTIFICATE,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    LOOPBACK_CA,
    NODE_PUBLIC_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    make_certificates,
)
from experiments.deploy.federation import start_market_proxy, start_server, start_supernode
from experiments.deploy.homes import copy_app, free_ports, prepare_homes
from experiments.deploy.processes import Processes
from experiments.deploy.proxies import (
    FLEET_CALLS,
    FLEET_HEADERS,
    FLEET_PORT,
    RELAY_PORT,
    SUPERLINK_PORT,
    nginx,
)
from experiments.deploy.signed_app import APP_ID, TRUSTED_FILE, SignedApp, store_app
from experiments.deploy.tools import ADDRESS, search_path
from privacy.aggregation.bundle import SERVER
from privacy.aggregation.keys import KeyDirectory
from privacy.files import KeyFileError
from tests.command_line import fedmm
from tests.commands import forked_commands
from tests.faults import configuration

pytestmark = pytest.mark.skipif(nginx() is None, reason="nginx is not installed: apt-get install nginx")

LIFETIME = 280.0
OPERATORS = (
    "control/list-runs",
    "control/list-nodes",
    "control/start-run",
    "control/register-node",
    "control/stream-logs",
    "runtime/acquire-task",
    "runtime/get-nodes",
    "runtime/pull-task-input",
    "fleet/register-node",
    "fleet/unregister-node",
    "fleet/",
    "fleet/pull-messages/",
    "fleet/pull-messages-of-others",
)
# paths that two programs could read in two ways; the SuperLink must not see any of them as a call of the operator
DISGUISED = (
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/get-run/../../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/get-run%2f..%2f..%2fcontrol%2flist-runs",
    "/v1/fleet/get-run/..%2f..%2fcontrol/list-runs",
    "/v1/fleet/get-run;/../../control/list-runs",
    "/v1/control/list-runs?/v1/fleet/get-run",
    "/v1/control/list-runs#/../../fleet/get-run",
    "/v1/control/list-runs%00/v1/fleet/get-run",
    "/v1/control/list-runs%23/../../fleet/get-run",
    "/v1/control/list-runs%3f/../../fleet/get-run",
    "//v1/control/list-runs",
    "/v1//control//list-runs",
    "/./v1/control/list-runs",
    "/V1/CONTROL/LIST-RUNS",
    "https://127.0.0.1/v1/control/list-runs",
    "https://127.0.0.1/v1/fleet/get-run/../../control/list-runs",
)


@dataclasses.dataclass
class Hosts:
    """The server's host, and that of one market of three, without its own process."""

    homes: object
    processes: Processes
    link: int
    fleet: int
    relay: int
    node: int

    def context(self, folder=None, certificate=CLIENT_CERTIFICATE, key=CLIENT_KEY):
        """What a caller from outside has: ``ca.crt``, and maybe a certificate."""
        found = ssl.create_default_context(cafile=self.homes.network("m0") / CA_CERTIFICATE)
        if folder is not None:
            found.load_cert_chain(folder / certificate, folder / key)
        return found

    def status(self, port, path, context, method="POST", headers=()):
        """HTTP status of a call, its path sent as it stands."""
        connection = http.client.HTTPSConnection(ADDRESS, port, context=context, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in ({"Content-Type": PROTOBUF, "Content-Length": "0"} | dict(headers)).items():
                connection.putheader(name, value)
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()

    def served(self):
        """Calls that the SuperLink answered otherwise than SuperNodes'."""
        return [
            line for line in self.processes.log("superlink").splitlines() if re.search("/v1/(control|runtime)", line)
        ]


@pytest.fixture(scope="module")
def forked_apps(tmp_path_factory):
    """What runs an app is a fork of what has imported it; all that is there before a run is as it is installed."""
    names = ("flwr-serverapp", "flwr-clientapp")
    with forked_commands(tmp_path_factory.mktemp("commands"), names) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "search_path", lambda: os.pathsep.join((str(folder), search_path())))
        yield


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, forked_apps):
    homes = prepare_homes(configuration(markets=3), tmp_path_factory.mktemp("hosts") / "f")
    processes = Processes(homes.root / "logs")
    link, fleet, relay, own = free_ports(4)
    try:
        start_server(processes, homes, link, fleet, LIFETIME)
        control.register(homes.server, homes.network("m0") / NODE_PUBLIC_KEY)
        start_market_proxy(processes, homes, "m0", relay, fleet, LIFETIME)
        start_supernode(processes, homes, "m0", relay, own, LIFETIME)
        processes.wait_for("supernode-m0", "SuperNode ID")  # its calls pass through both proxies
        yield Hosts(homes, processes, link, fleet, relay, own)
    finally:
        processes.stop_all()


def listening(processes):
    """Program, address and port of everything that processes of these groups, or with their mark, listen on."""
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                ports[f"socket:[{fields[9]}]"] = (address, int(port, 16))
    marked, groups = set(processes.survivors()), {process.pid for process in processes.running.values()}
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            if pid in marked or os.getpgid(pid) in groups:
                names = re.split(rb"[\0 :]", (folder / "cmdline").read_bytes())[:2]
                program = next(Path(name.decode()).name for name in reversed(names) if b"python" not in name)
                if names[0] == b"nginx":
                    program = "nginx"
                links = {os.readlink(link) for link in (folder / "fd").iterdir()}
                found |= {(program, *ports[link]) for link in links & ports.keys()}
    return found


def test_the_table_of_what_listens_where_is_true(hosts):
    """Of the processes that are up; and of the ports that units and generated proxies have."""
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    rows = re.findall(r"^\| (server|market) \| (proxy|SuperLink|SuperNode) \| `([\d.]+):(\d+)` \|", page, re.MULTILINE)
    stated = {(host, process): (address, int(port)) for host, process, address, port in rows}
    assert stated == {
        ("server", "proxy"): ("0.0.0.0", FLEET_PORT),
        ("server", "SuperLink"): ("127.0.0.1", SUPERLINK_PORT),
        ("market", "proxy"): ("127.0.0.1", RELAY_PORT),
        ("market", "SuperNode"): ("127.0.0.1", 9094),
    }
    ours = {"proxy": "nginx", "SuperLink": "flower-superlink", "SuperNode": "flower-supernode"}
    ports = dict(zip(stated, (hosts.fleet, hosts.link, hosts.relay, hosts.node), strict=True))
    loopback = "0100007F"  # on one machine the server's proxy too
    assert listening(hosts.processes) == {(ours[process], loopback, ports[host, process]) for host, process in stated}


@pytest.fixture
def loopback(hosts):
    return ssl.create_default_context(cafile=hosts.homes.network(SERVER) / LOOPBACK_CA)


def operator(hosts, port, authority, context=None):
    """Flower's own client, as ``flwr run`` and ``flwr ls`` use it."""
    client = ControlHttpClient.from_server_address(f"{ADDRESS}:{port}", False, authority.read_bytes(), [])
    if context is not None:
        client._client = httpx.Client(verify=context, timeout=20)
    return client


def test_on_the_loopback_the_port_still_does_what_it_did(hosts, loopback):
    """The positive control: nodes and runs are listed without any certificate of one's own, and tasks are given out."""
    client = operator(hosts, hosts.link, hosts.homes.network(SERVER) / LOOPBACK_CA)
    assert client.ListNodes(ListNodesRequest()).nodes_info
    assert isinstance(client.ListRuns(ListRunsRequest()), ListRunsResponse)
    assert hosts.status(hosts.link, "/v1/control/list-runs", loopback) == 200
    assert hosts.status(hosts.link, "/v1/runtime/acquire-task", loopback) == 200


@pytest.mark.parametrize("whose", ["nobody", "a market"])
def test_flowers_client_is_refused_with_the_authority_alone_and_with_a_markets_certificate(whose, hosts):
    """Code on every host by ``flwr run``, and lists of nodes and runs by ``flwr ls``."""
    context = hosts.context(hosts.homes.network("m0") if whose == "a market" else None)
    client = operator(hosts, hosts.fleet, hosts.homes.network("m0") / CA_CERTIFICATE, context)
    app = SignedApp.load(hosts.homes.server, KeyDirectory(hosts.homes.server / "keys").bundle())
    runs = StartRunRequest(fab=fab_to_proto(Fab(app.digest, app.content, {})))
    before = len(hosts.served())
    for call, request in (("StartRun", runs), ("ListRuns", ListRunsRequest()), ("ListNodes", ListNodesRequest())):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            getattr(client, call)(request)
        assert refused.value.response.status_code == (403 if whose == "a market" else 400)
    assert len(hosts.served()) == before


@pytest.mark.parametrize("path", OPERATORS)
def test_calls_of_the_operator_and_of_tasks_do_not_pass(path, hosts):
    before = len(hosts.served())
    for port, context in ((hosts.fleet, hosts.context(hosts.homes.network("m0"))), (hosts.relay, own_host(hosts))):
        assert hosts.status(port, f"/v1/{path}", context) == 403
    assert hosts.status(hosts.fleet, f"/v1/{path}", hosts.context()) == 400
    assert len(hosts.served()) == before


def own_host(hosts, market="m0"):
    """A caller on a market's own host."""
    return ssl.create_default_context(cafile=hosts.homes.network(market) / LOOPBACK_CA)


@pytest.mark.parametrize("path", DISGUISED)
def test_disguised_calls_of_the_operator_do_not_pass(path, hosts):
    before = len(hosts.served())
    for port, context in ((hosts.fleet, hosts.context(hosts.homes.network("m0"))), (hosts.relay, own_host(hosts))):
        # where the path is read as a call of SuperNodes, it arrives as that: 401, without a node's key
        assert hosts.status(port, path, context) in (400, 401, 403)
    assert len(hosts.served()) == before


HEAD, WANTED = "POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\n", "POST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\n"
INSIDE = f"{WANTED}Content-Type: {PROTOBUF}\r\nContent-Length: 0\r\n\r\n"
CHUNKED = f"{len(INSIDE):x}\r\n{INSIDE}\r\n0\r\n\r\n"
SMUGGLED = {
    "a request in a body": f"{HEAD}Content-Length: {len(INSIDE)}\r\n\r\n{INSIDE}",
    "two lengths": f"{HEAD}Content-Length: {len(INSIDE)}\r\nContent-Length: 0\r\n\r\n{INSIDE}",
    "a length and chunks": f"{HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INSIDE}",
    "chunks": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{CHUNKED}",
    "chunks with a blank": f"{HEAD}Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n{CHUNKED}",
    "chunks of another name": f"{HEAD}Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n{CHUNKED}",
    "a folded header": f"{HEAD}X: y\r\n {WANTED}Content-Length: 0\r\n\r\n",
    "a line feed in a header": f"{HEAD}Content-Type: x\nX: y\r\nContent-Length: 0\r\n\r\n",
    "a carriage return in a header": f"{HEAD}Content-Type: x\r{WANTED}Content-Length: 0\r\n\r\n",
    "another version": f"{HEAD.replace('1.1', '2.0')}Content-Length: 0\r\n\r\n",
    "no version": "POST /v1/control/list-runs\r\n\r\n",
    "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an upgrade": f"{HEAD}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n{INSIDE}",
    "another host's": f"CONNECT 127.0.0.1:9394 HTTP/1.1\r\nHost: x\r\n\r\n{INSIDE}",
}


def raw(port, context, text):
    """Everything that is answered to some bytes, and to a request behind them that closes the connection."""
    last = "GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((ADDRESS, port), timeout=5) as plain, context.wrap_socket(plain) as sock:
        sock.sendall((text + last).encode())
        found = b""
        with contextlib.suppress(TimeoutError, OSError):
            while part := sock.recv(65536):
                found += part
    return found


def test_no_call_of_the_operator_is_smuggled_in_another(hosts, loopback):
    """Where a proxy and the program behind it read one stream in two ways, a second request is the caller's choice."""
    contexts = hosts.context(hosts.homes.network("m0")), own_host(hosts)
    for context in (*contexts, loopback):
        context.check_hostname = False
    assert b" 200 " in raw(hosts.link, loopback, INSIDE)  # positive control
    before = len(hosts.served())
    for name, text in SMUGGLED.items():
        for port, context in zip((hosts.fleet, hosts.relay), contexts, strict=True):
            assert b" 200 " not in raw(port, context, text), name
    assert len(hosts.served()) == before
    assert before


def strangers(hosts, tmp_path):
    """Certificates that are not a market's: none, another authority's, and the server's own."""
    make_certificates(tmp_path / "other", [ADDRESS], ["m0"])
    server = hosts.homes.network(SERVER)
    return (
        hosts.context(),
        hosts.context(tmp_path / "other" / "m0"),
        hosts.context(server, SERVER_CERTIFICATE, SERVER_KEY),
    )


def test_calls_of_supernodes_pass_with_a_markets_certificate_alone(hosts, tmp_path):
    member = hosts.context(hosts.homes.network("m0"))
    before = len(hosts.processes.log("superlink"))
    for call in FLEET_CALLS:
        assert hosts.status(hosts.fleet, f"/v1/fleet/{call}", member) == 401  # Flower asks for a node's key too
        for stranger in strangers(hosts, tmp_path):
            assert hosts.status(hosts.fleet, f"/v1/fleet/{call}", stranger) == 400
        assert hosts.status(hosts.fleet, f"/v1/fleet/{call}", member, "GET") == 403
    ours = [line for line in hosts.processes.log("superlink")[before:].splitlines() if " 401" in line]
    assert len(ours) == len(FLEET_CALLS)  # the market's calls, and none of the others, arrived


def test_a_certificate_does_not_make_one_market_another(hosts, loopback):
    """A market that asks for another's messages: refused by Flower, which wants the other's key."""
    known = operator(hosts, hosts.link, hosts.homes.network(SERVER) / LOOPBACK_CA).ListNodes(ListNodesRequest())
    node = known.nodes_info[0]
    with httpx.Client(verify=hosts.context(hosts.homes.network("m1")), timeout=20) as client:
        for call, request in (
            ("pull-messages", PullMessagesRequest(node=Node(node_id=node.node_id))),
            ("activate-node", ActivateNodeRequest(public_key=node.public_key, heartbeat_interval=30)),
        ):
            reply = client.post(
                f"https://{ADDRESS}:{hosts.fleet}/v1/fleet/{call}",
                content=request.SerializeToString(),
                headers={"content-type": PROTOBUF},
            )
            assert reply.status_code == 401


def test_a_supernode_runs_what_the_founder_signed_and_not_with_one_byte_changed(hosts, tmp_path):
    """The server ships it, and even vouches for it by the signature of the app that was signed."""
    homes, processes = hosts.homes, hosts.processes
    signed = SignedApp.load(homes.server, KeyDirectory(homes.server / "keys").bundle())
    copy_app(tmp_path / "app")
    code = tmp_path / "app" / "fedmm_flower" / "client_app.py"
    text = code.read_bytes()
    code.write_bytes(text.replace(b"1800.0", b"1800.1"))
    assert sum(a != b for a, b in zip(text, code.read_bytes(), strict=True)) == 1
    changed = dataclasses.replace(signed, content=build_fab_from_disk(tmp_path / "app"))
    assert len(changed.content) == pytest.approx(len(signed.content), abs=20)
    for app, sign in ((signed, "Sent successfully"), (changed, "FAB verification failed")):
        assert sign not in processes.log("supernode-m0")
        start(homes.server, app)
        processes.wait_for("supernode-m0", sign)


# -- what passes on either side ----------------------------------------------------------------------------------------

FORGED = '6.6.6.6 - "POST /v1/control/start-run HTTP/1.1" 200\x9b2J'


def test_a_market_writes_nothing_into_the_log_of_the_server(hosts, loopback):
    """The SuperLink believes whoever is on its own host where a caller comes from, and its log says it."""
    call, forged = "/v1/fleet/get-run", {"X-Forwarded-For": FORGED}
    member = hosts.context(hosts.homes.network("m0"))
    assert hosts.status(hosts.link, call, loopback, headers=forged) == 401
    hosts.processes.wait_for("superlink", FORGED)  # positive control
    before = hosts.processes.log("superlink")
    for port, context in ((hosts.fleet, member), (hosts.relay, own_host(hosts))):
        assert hosts.status(port, call, context, headers=forged) == 401
    after = hosts.processes.log("superlink")[len(before) :]
    assert after.count(call) == 2
    assert "6.6.6.6" not in after


def test_only_headers_that_supernodes_send_pass(hosts, elsewhere):
    """Of all that programs behind a proxy may take for its word."""
    sent = {"X-Original-URL": "/v1/control/list-runs", "X-HTTP-Method-Override": "GET", "Forwarded": "for=6.6.6.6"}
    sent |= {
        "Upgrade": "h2c",
        "Authorization": "x",
        "flwr-task-token": "x",
        "flwr_public_key": "y",
        "Range": "bytes=0-1",
    }
    sent |= dict.fromkeys(FLEET_HEADERS, "z")
    hosts.status(elsewhere.relay, "/v1/fleet/get-run?q=1", own_host(hosts, "m1"), headers=sent)
    (asked, headers) = elsewhere.asked[-1]
    assert asked == "/v1/fleet/get-run"
    own = {"host", "content-length"}  # of the proxy
    assert {name.lower() for name in headers} - own == {name.lower() for name in FLEET_HEADERS}
    assert all(headers[name] == "z" for name in FLEET_HEADERS)


@dataclasses.dataclass
class Elsewhere:
    """A dishonest server with the federation's certificate, a market's proxy in front of it, and a host of others.

    Attributes:
        reply: status and headers of every answer of the server.
        asked: path and headers of what came to the server.
        visited: of what came to the other host.
    """

    port: int
    relay: int
    other: int
    reply: tuple
    asked: list
    visited: list


@pytest.fixture(scope="module")
def elsewhere(hosts):
    asked, visited = [], []
    (relay,) = free_ports(1)
    found = Elsewhere(0, relay, 0, (200, {}), asked, visited)
    server = answering(asked, lambda: found.reply)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = hosts.homes.network(SERVER)
    context.load_cert_chain(folder / SERVER_CERTIFICATE, folder / SERVER_KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    other = answering(visited, lambda: (200, {}))
    found.port, found.other = server.server_port, other.server_port
    for one in (server, other):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    start_market_proxy(hosts.processes, hosts.homes, "m1", relay, found.port, LIFETIME)
    yield found
    server.shutdown()
    other.shutdown()
    hosts.processes.stop("proxy-m1")


def answering(asked, reply):
    """A server that takes down what it is asked, and answers as it is told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, dict(self.headers)))
            status, headers = reply()
            self.send_response(status)
            for name, value in ({"Content-Type": PROTOBUF, "Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(bytes(int(headers.get("Content-Length", 0))))

        def log_message(self, *_):
            pass

    Handler.do_GET = Handler.do_POST = Handler.answer
    return http.server.ThreadingHTTPServer((ADDRESS, 0), Handler)


def supernode(authority, port):
    """Flower's own client, as a SuperNode uses it."""
    return FleetHttpClient.from_server_address(f"{ADDRESS}:{port}", False, authority.read_bytes(), [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_sends_no_supernode_elsewhere(status, hosts, elsewhere):
    """To a service of the market's own host, say, or of its network: with a market's messages, by 307 and 308."""
    folder, elsewhere.reply = hosts.homes.network("m1"), (status, {"Location": f"http://{ADDRESS}:{elsewhere.other}/x"})
    elsewhere.visited.clear()
    supernode(folder / CA_CERTIFICATE, elsewhere.port).PullMessages(PullMessagesRequest())
    assert [path for path, _ in elsewhere.visited] == ["/x"]  # positive control
    before = len(elsewhere.asked)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        supernode(folder / LOOPBACK_CA, elsewhere.relay).PullMessages(PullMessagesRequest())
    assert refused.value.response.status_code == 502
    assert len(elsewhere.asked) == before + 1
    assert len(elsewhere.visited) == 1


def test_a_server_has_no_supernode_unpack_anything(hosts, elsewhere):
    """As a megabyte that becomes a gigabyte there."""
    folder = hosts.homes.network("m1")
    elsewhere.reply = (
        200,
        {"Content-Encoding": "gzip", "Content-Length": "9"},
    )  # no gzip, but who does not look is fine
    with pytest.raises(httpx.DecodingError):
        supernode(folder / CA_CERTIFICATE, elsewhere.port).PullMessages(PullMessagesRequest())  # positive control
    with pytest.raises(ValueError, match="protobuf"):
        supernode(folder / LOOPBACK_CA, elsewhere.relay).PullMessages(PullMessagesRequest())


def start(server, app):
    with control._control(server) as client:
        store_app(server / control.DATABASE, app)
        fields = {"override_config": user_config_to_proto({"wait": 3}), "app_spec": APP_ID}
        client.StartRun(StartRunRequest(fab=fab_to_proto(Fab(app.digest, b"", {})), **fields))


def test_an_app_is_not_submitted_unless_the_founder_signed_it(hosts, tmp_path):
    """The operator's own check, before anything is sent."""
    bundle = KeyDirectory(hosts.homes.server / "keys").bundle()
    signed = SignedApp.load(hosts.homes.server, bundle)
    for broken in (
        dataclasses.replace(signed, content=signed.content[:-1] + bytes([signed.content[-1] ^ 1])),
        dataclasses.replace(signed, signed_at=signed.signed_at + 1),
        dataclasses.replace(signed, signature=signed.signature[:-1] + bytes([signed.signature[-1] ^ 1])),
    ):
        broken.save(tmp_path)
        with pytest.raises(KeyFileError, match=r"not a signature of m0 over app\.fab"):
            SignedApp.load(tmp_path, bundle)


def test_the_commands_that_sign_trust_and_register(hosts, tmp_path, capsys):
    keys = hosts.homes.market("m0") / "keys"
    assert fedmm(capsys, "deploy", "sign", tmp_path / "app", "--keys", keys)[0] == 0
    bundle = KeyDirectory(keys).bundle()
    assert SignedApp.load(tmp_path / "app", bundle).digest == SignedApp.load(hosts.homes.server, bundle).digest
    status, _, err = fedmm(capsys, "deploy", "sign", tmp_path / "b", "--keys", hosts.homes.market("m1") / "keys")
    assert (status, "m0 founded this federation" in err) == (2, True)
    trusted = tmp_path / "trusted.yaml"
    assert fedmm(capsys, "deploy", "trust", trusted, "--keys", hosts.homes.market("m1") / "keys")[0] == 0
    assert trusted.read_bytes() == (hosts.homes.network("m1") / TRUSTED_FILE).read_bytes()
    node = hosts.homes.network("m1") / NODE_PUBLIC_KEY
    arguments = (hosts.homes.server, hosts.homes.network(SERVER), node, "--port", hosts.link)
    for _ in range(2):  # again does no harm
        status, out, err = fedmm(capsys, "deploy", "register", *arguments)
        assert (status, "known to the SuperLink" in out) == (0, True), err
