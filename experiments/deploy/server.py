"""The Flower engine: the same rounds as in process, with requests to SuperNodes instead of calls."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from experiments.deploy.alone import alone
from experiments.deploy.processes import HOME_VARIABLE
from experiments.deploy.tools import LINE
from experiments.presentation.console import one_line, say
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.messages import MessageError, unpack
from fedmm_secure.federation.orders import Absence, Order, Place, Rejection
from fedmm_secure.federation.parties import make_server, start_of
from fedmm_secure.federation.requests import Reply, Request, RequestError, require_run_id
from fedmm_secure.federation.server import AggregationServer, CohortTooSmallError
from fedmm_secure.federation.transcript import AGGREGATE, Transcript
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import Log, read_config
from privacy.aggregation.bundle import BUNDLE_FILE
from privacy.aggregation.keys import KeyDirectory, check_server_directory
from privacy.files import write_json

RECORD, LOCK = "fedmm", "server.lock"
DEFAULT_TIMEOUT = 600.0
_PAUSE, _FIRST_PAUSE = 1.0, 0.1
_NO_ANSWER = Absence("no answer in time", passing=True)
_NODE_ERROR = Absence("its node reports an error", passing=True)
_NO_PROCESS = "its market process does not answer"  # the ClientApp's words


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
        waits: whether a market that does not answer is asked again until then, for a sum needs all of them.
        nodes: node of each market.
        told: markets that have all hellos.
        at: by market, the round whose aggregate it lacks first, where that is known.
    """

    grid: Grid
    server: AggregationServer
    run: str
    transcript: Transcript
    schedule: list[Place]
    timeout: float
    log: Log
    waits: bool = False
    nodes: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    at: dict[str, Place] = field(default_factory=dict)

    def meet(self, markets: int, wait: float) -> None:
        """Ask nodes who they are until all markets have answered, or ``wait`` seconds have passed."""
        deadline, asked = time.monotonic() + wait, set[int]()
        question = Request("hello", self.run, start=self.server.start())
        while len(self.nodes) < markets and time.monotonic() < deadline:
            fresh = [node for node in self.grid.get_node_ids() if node not in asked]
            asked |= set(fresh)
            if not fresh:
                time.sleep(_PAUSE)
                continue
            for node, reply in self._ask(dict.fromkeys(fresh, question), self._patience()).items():
                if isinstance(reply, Absence):
                    self.log("refused", {"node": str(node), "reason": reply.reason})
                else:
                    self._welcome(node, reply.message)

    def _welcome(self, node: int, message: bytes) -> None:
        try:
            market = unpack(message)[0].sender
        except MessageError as error:
            self.log("refused", {"node": str(node), "reason": str(error)})
            return
        welcome, rejections = self.server.welcome({market: message})
        for rejection in rejections:
            self.log("rejected", asdict(rejection))
        if market in welcome and self.nodes.setdefault(market, node) != node:
            self.log("refused", {"node": str(node), "reason": f"market {market} has joined from another node"})
        elif market in welcome:
            self.log("joined", {"market": market})

    def state(self, order: Order) -> dict[str, bytes | Absence]:
        """Statements of a cohort; markets get the sum of the round before with the question."""

        def question(market: str) -> Request:
            hellos = {} if market in self.told else self.server.hellos
            return self._with_aggregate(Request("state", self.run, hellos=hellos, order=order), market)

        replies = self._gather(order, question)
        self.told |= {market for market, reply in replies.items() if isinstance(reply, bytes)}
        return replies

    def update(self, order: Order, statements: Mapping[str, bytes]) -> dict[str, bytes | Absence]:
        """Updates of a cohort that has agreed."""
        question = Request("update", self.run, order=order, statements=statements)
        return self._gather(order, lambda market: question)

    def finish(self) -> list[str]:
        """Send what is left, tell all markets that the rounds are over; returns those that have all of them."""
        question = Request("finish", self.run)
        replies = self._catch_up(self.nodes, lambda market: self._with_aggregate(question, market), self._patience())
        return [market for market, reply in replies.items() if isinstance(reply, Reply) and reply.done]

    def _gather(self, order: Order, question: Callable[[str], Request]) -> dict[str, bytes | Absence]:
        """Messages of a cohort; where a sum needs all, whoever does not answer is asked again until the time is up."""
        deadline = self._patience()
        found: dict[str, bytes | Absence] = {}
        asked = [market for market in order.cohort if market in self.nodes]
        while asked:
            for market, reply in self._catch_up(asked, question, deadline).items():
                found[market] = reply if isinstance(reply, Absence) else reply.message
                if not isinstance(reply, Absence):
                    self.at[market] = order.place
            asked = [market for market in asked if getattr(found[market], "passing", False)]
            if not self.waits or time.monotonic() > deadline:
                break
            if asked:
                time.sleep(_PAUSE)
        return found

    def _patience(self) -> float:
        """When the time of what is asked now is up."""
        return time.monotonic() + self.timeout

    def _catch_up(
        self, asked: Iterable[str], question: Callable[[str], Request], deadline: float
    ) -> dict[str, Reply | Absence]:
        """Replies by market; one that lacks a round gets it with the question, and is asked again in the time left."""
        found: dict[str, Reply | Absence] = {}
        left = list(asked)
        for _ in range(len(self.schedule) + 1):
            replies = self._ask({self.nodes[market]: question(market) for market in left}, deadline)
            behind = []
            for market in left:
                reply = replies.get(self.nodes[market], _NO_ANSWER)
                found[market] = reply
                if isinstance(reply, Reply) and reply.behind is not None:
                    found[market] = Absence("lacks earlier rounds")
                    if reply.behind in self.schedule and self.at.get(market) != reply.behind:
                        self.at[market] = reply.behind
                        behind.append(market)
            left = behind
            if not left or time.monotonic() > deadline:
                break
        return found

    def _with_aggregate(self, request: Request, market: str) -> Request:
        """The question with the sum that the market lacks, and its cohort's statements where it was not in it."""
        if market not in self.at:
            return request
        stage, round = self.at[market]
        message = self.transcript.find(kind=AGGREGATE, stage=stage, round=round, sender="server")
        if message is None:
            return request
        header, _ = unpack(message)
        statements = {} if market in header.cohort else self.server.statements(header)
        return replace(request, aggregate=message, statements=statements)

    def _ask(self, requests: Mapping[int, Request], deadline: float) -> dict[int, Reply | Absence]:
        """Replies by node; a node that is late is missing, and one that fails or sends nonsense has a reason."""
        if not requests:
            return {}
        messages = [
            Message(
                content=RecordDict({RECORD: ConfigRecord({"request": request.to_bytes()})}),
                dst_node_id=node,
                message_type="query",
            )
            for node, request in requests.items()
        ]
        found: dict[int, Reply | Absence] = {}
        for message in self._exchange(messages, deadline):
            node = message.metadata.src_node_id
            found[node] = _NODE_ERROR if message.has_error() else _read(message)
        return found

    def _exchange(self, messages: Sequence[Message], deadline: float) -> Iterator[Message]:
        """Replies that come in time; looks at once and then less often, where Flower looks every three seconds."""
        pause = _FIRST_PAUSE
        awaited = {number for number in self.grid.push_messages(messages) if number}  # none where it was not taken
        while awaited:
            for reply in self.grid.pull_messages(awaited):
                awaited.discard(reply.metadata.reply_to_message_id)
                yield reply
            if time.monotonic() > deadline:
                return
            if awaited:
                time.sleep(pause)
                pause = min(1.25 * pause, _PAUSE)


def _read(message: Message) -> Reply | Absence:
    try:
        reply = Reply.from_bytes(bytes(message.content[RECORD]["reply"]))  # type: ignore[arg-type]
    except (RequestError, KeyError, TypeError, AttributeError, ValueError):
        return Absence("sent a malformed reply")
    return Absence(reply.absent, reply.absent == _NO_PROCESS) if reply.absent else reply


def serve(grid: Grid, run_config: Mapping[str, Any]) -> None:
    """All rounds of one run; what happened is left in ``<home>/runs/<run>/``.

    Raises:
        CohortTooSmallError: too few markets; nothing was released in that round.
        ConfigError: there is no home, or the run is named by something else than an id.
        RunDirectoryError: another process is at this run.
    """
    if HOME_VARIABLE not in os.environ:
        raise ConfigError(f"{HOME_VARIABLE} is not set: it names the folder with the server's config.yaml and keys")
    home = Path(os.environ[HOME_VARIABLE])
    check_server_directory(home / "keys")
    run = str(run_config.get("run") or secrets.token_hex(16))
    require_run_id(run)
    state = RunDirectory(home / "runs" / run).state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(state / LOCK, "run"):
        _serve(grid, home, run, float(run_config.get("wait", 120)))


def _serve(grid: Grid, home: Path, run: str, wait: float) -> None:
    directory, config, keys = home / "runs" / run, read_config(home), KeyDirectory(home / "keys")
    identity, bundle = keys.identity(), keys.bundle()
    write_json(RunDirectory(directory).transcript / BUNDLE_FILE, bundle.to_json())
    transcript, log = Transcript(RunDirectory(directory).transcript), Log(directory)
    server = make_server(config, directory, run, bundle, identity, transcript)
    start = start_of(config)
    rounds, schedule, timeout = dict(start.stages), start.places, config.federation.round_timeout or DEFAULT_TIMEOUT
    waits = config.aggregation.traits.needs_whole_cohort
    engine = Engine(grid, server, run, transcript, schedule, timeout, log, waits)
    tell(f"run {run}")
    engine.meet(len(bundle.markets), wait)
    tell(f"markets: {', '.join(sorted(engine.nodes)) or 'none'}")
    rejections: list[Rejection] = []
    try:
        for stage, round in schedule:
            if transcript.find(kind=AGGREGATE, stage=stage, round=round, sender="server") is not None:
                continue  # a restarted server goes on
            result = server.run_round(stage, round, sorted(engine.nodes), engine)
            rejections += result.rejections
            for rejection in result.rejections:
                log("rejected", asdict(rejection))
                tell(f"{stage}, round {round}: without {rejection.market}: {rejection.reason}")
            log("round", {"stage": stage, "round": round, "cohort": result.cohort})
            tell(f"{stage}, round {round + 1}/{rounds[stage]}: {len(result.cohort)} markets")
    except CohortTooSmallError as error:
        log("stopped", {"reason": str(error)})
        tell(f"stopped: {error}")
        raise
    done = engine.finish()
    write_json(
        directory / "summary.json",
        {"run": run, "markets": sorted(done), "rejections": [asdict(rejection) for rejection in rejections]},
    )
    tell(f"finished: {', '.join(sorted(done))}")


def tell(text: str) -> None:
    """A line for whoever streams the run's log."""
    say(f"{LINE}{one_line(text)}", flush=True)
