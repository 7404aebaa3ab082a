"""The Flower engine: the same rounds as in process, with requests to SuperNodes instead of calls."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from experiments.deploy.processes import HOME_VARIABLE
from experiments.run_directory import Log, read_config
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.messages import MessageError, unpack
from fedmm_secure.federation.parties import configuration_hash, make_server
from fedmm_secure.federation.server import Absence, AggregationServer, CohortTooSmallError, Order, Rejection
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from fedmm_secure.market_service import encode_bytes
from fedmm_secure.storage import write_json
from privacy.aggregation.keys import BUNDLE_FILE, KeyDirectory, check_server_directory

RECORD = "fedmm"
DEFAULT_TIMEOUT = 600.0
_PAUSE = 1.0
_NO_ANSWER = Absence("no answer in time")


@dataclass
class Engine:
    """Requests to the markets' nodes, and what each market already has.

    Attributes:
        grid: Flower's way to the nodes.
        server: the aggregation server.
        run: the run's id.
        transcript: the server's.
        schedule: all rounds of the run as (stage, round).
        timeout: seconds that a market may take.
        log: told what happened.
        nodes: node of each market.
        hellos: signed hello of each market.
        at: index into ``schedule`` of the first aggregate that a market lacks, as far as known.
    """

    grid: Grid
    server: AggregationServer
    run: str
    transcript: Transcript
    schedule: list[tuple[str, int]]
    timeout: float
    log: Log
    nodes: dict[str, int] = field(default_factory=dict)
    hellos: dict[str, bytes] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)

    def meet(self, markets: int, wait: float, configuration: bytes) -> None:
        """Ask nodes who they are until all markets have answered, or ``wait`` seconds have passed."""
        deadline, asked = time.monotonic() + wait, set[int]()
        while len(self.hellos) < markets and time.monotonic() < deadline:
            fresh = [node for node in self.grid.get_node_ids() if node not in asked]
            asked |= set(fresh)
            if not fresh:
                time.sleep(_PAUSE)
                continue
            for node, reply in self._ask({node: {"step": "hello", "run": self.run} for node in fresh}).items():
                if "message" not in reply:
                    self.log("refused", {"node": str(node), "reason": reply.get("absent", _NO_ANSWER.reason)})
                    continue
                self._welcome(node, base64.b64decode(reply["message"]), configuration)

    def _welcome(self, node: int, message: bytes, configuration: bytes) -> None:
        try:
            market = unpack(message)[0].sender
        except MessageError as error:
            self.log("refused", {"node": str(node), "reason": str(error)})
            return
        welcome, rejections = self.server.welcome({market: message}, configuration)
        for rejection in rejections:
            self.log("rejected", asdict(rejection))
        if market in welcome and market not in self.nodes:
            self.nodes[market], self.hellos[market] = node, message
            self.log("joined", {"market": market})

    def collect(self, order: Order) -> dict[str, bytes | Absence]:
        """Updates of a cohort; a market that lacks earlier aggregates gets them and is asked again, once."""
        hellos = {market: encode_bytes(message) for market, message in self.hellos.items()}
        fields = {"step": "update", "order": asdict(order), "hellos": hellos}
        replies: dict[str, bytes | Absence] = {}
        asked = [market for market in order.cohort if market in self.nodes]
        for _ in range(2):
            found = self._ask({self.nodes[market]: self._with_aggregates(fields, market) for market in asked})
            behind = []
            for market in asked:
                reply = found.get(self.nodes[market], {})
                if "message" in reply:
                    replies[market] = base64.b64decode(reply["message"])
                    self.at[market] = self.schedule.index((order.stage, order.round))
                elif reply.get("behind") and self._move(market, reply["behind"]):
                    behind.append(market)
                    replies[market] = Absence("lacks earlier rounds")
                else:
                    replies[market] = Absence(str(reply.get("absent", _NO_ANSWER.reason)))
            asked = behind
        return replies

    def finish(self) -> list[str]:
        """Send what is left, tell all markets that the rounds are over; returns those that have all of them."""
        done: list[str] = []
        for _ in range(2):
            asked = [market for market in self.nodes if market not in done]
            requests = {self.nodes[market]: self._with_aggregates({"step": "finish"}, market) for market in asked}
            found = self._ask(requests) if requests else {}
            for market in asked:
                reply = found.get(self.nodes[market], {})
                if reply.get("done"):
                    done.append(market)
                elif reply.get("behind"):
                    self._move(market, reply["behind"])
        return done

    def _with_aggregates(self, fields: Mapping[str, Any], market: str) -> dict[str, Any]:
        messages = []
        for stage, round in self.schedule[self.at.get(market, 0) :]:
            message = self.transcript.find(kind="aggregate", stage=stage, round=round, sender="server")
            if message is None:
                break
            messages.append(encode_bytes(message))
        return {**fields, "run": self.run, "aggregates": messages}

    def _move(self, market: str, place: Any) -> bool:
        """Believe a market that says which aggregate it lacks first, if that is one of the run's."""
        try:
            at = self.schedule.index((place[0], place[1]))
        except (ValueError, TypeError, IndexError, KeyError):
            return False
        self.at[market] = at
        return True

    def _ask(self, requests: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        """Replies by node; a node that fails or is late is missing, and one that sends nonsense has sent nothing."""
        messages = [
            Message(
                content=RecordDict({RECORD: ConfigRecord({"request": json.dumps(request).encode()})}),
                dst_node_id=node,
                message_type="query",
            )
            for node, request in requests.items()
        ]
        found: dict[int, dict[str, Any]] = {}
        for message in self.grid.send_and_receive(messages, timeout=self.timeout):
            node = message.metadata.src_node_id
            if message.has_error():
                found[node] = {"absent": "its node reports an error"}
                continue
            try:
                reply = json.loads(str(message.content[RECORD]["reply"], "utf-8"))  # type: ignore[arg-type]
                base64.b64decode(reply.get("message", ""), validate=True)
                found[node] = dict(reply)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                found[node] = {"absent": "sent a malformed reply"}
        return found


def serve(grid: Grid, run_config: Mapping[str, Any]) -> None:
    """All rounds of one run; what happened is left in ``<home>/runs/<run>/``.

    Raises:
        CohortTooSmallError: too few markets; nothing was released in that round.
    """
    if HOME_VARIABLE not in os.environ:
        raise ConfigError(f"{HOME_VARIABLE} is not set: it names the folder with the server's config.yaml and keys")
    home = Path(os.environ[HOME_VARIABLE])
    check_server_directory(home / "keys")
    config, keys = read_config(home), KeyDirectory(home / "keys")
    identity, bundle = keys.identity(), keys.bundle()
    run = str(run_config.get("run") or secrets.token_hex(16))
    directory = home / "runs" / run
    write_json(directory / "transcript" / BUNDLE_FILE, bundle.to_json())
    transcript, log = Transcript(directory / "transcript"), Log(directory)
    server = make_server(config, directory, run, bundle, identity, transcript)
    schedule = [(stage, round) for stage in _stages(config) for round in range(config.federation.rounds)]
    timeout = config.federation.round_timeout or DEFAULT_TIMEOUT
    engine = Engine(grid, server, run, transcript, schedule, timeout, log)
    say(f"run {run}")
    engine.meet(len(bundle.markets), float(run_config.get("wait", 120)), configuration_hash(config))
    say(f"markets: {', '.join(sorted(engine.nodes)) or 'none'}")
    rejections: list[Rejection] = []
    try:
        for stage, round in schedule:
            if transcript.find(kind="aggregate", stage=stage, round=round, sender="server") is not None:
                continue  # a restarted server goes on
            result = server.run_round(stage, round, sorted(engine.nodes), engine.collect)
            rejections += result.rejections
            for rejection in result.rejections:
                log("rejected", asdict(rejection))
                say(f"{stage}, round {round}: without {rejection.market}: {rejection.reason}")
            log("round", {"stage": stage, "round": round, "cohort": result.cohort})
            say(f"{stage}, round {round + 1}/{config.federation.rounds}: {len(result.cohort)} markets")
    except CohortTooSmallError as error:
        log("stopped", {"reason": str(error)})
        say(f"stopped: {error}")
        raise
    done = engine.finish()
    write_json(
        directory / "summary.json",
        {"run": run, "markets": sorted(done), "rejections": [asdict(rejection) for rejection in rejections]},
    )
    say(f"finished: {', '.join(sorted(done))}")


def _stages(config: Config) -> list[str]:
    return [seed_stage(QUANTIZER, seed) for seed in config.seed]


def say(text: str) -> None:
    """A line for whoever streams the run's log."""
    print(f"fedmm: {text}", flush=True)
