"""One market's part of a deployed run: answers what the server asks, with the same ``MarketClient`` as in process.

A home folder holds all that the market needs: ``config.yaml``, ``keys/``, the market's data, and ``runs/<run id>/``,
one run directory for each run that it took part in. The server can ask for three things: who are you (``hello``), an
update (``update``), and to end (``finish``). It gets sealed messages, or a reason that says nothing of the data.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket, load_one_market, prepare
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.client import CohortChangedError, MarketClient, OrderError
from fedmm_secure.federation.door import BudgetExceededError
from fedmm_secure.federation.introductions import introduce, meet
from fedmm_secure.federation.members import Membership
from fedmm_secure.federation.messages import MessageError, unpack
from fedmm_secure.federation.parties import Federation, make_clients, open_federation
from fedmm_secure.federation.releases import discover_catalogues
from fedmm_secure.federation.server import Order
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from fedmm_secure.pipeline import (
    Clock,
    Embeddings,
    Listener,
    conclude,
    embed_markets,
    keep_quantizer,
    pseudo_rows,
    publish_quantizers,
)
from fedmm_secure.results import Metrics, describe
from privacy.aggregation.keys import KeyExhaustedError

MAX_REQUEST_BYTES = 64 * 2**20
_RUN_ID = re.compile(r"[0-9a-f]{32}")
# what a server may learn of a refusal: errors whose text comes from its own request, and fixed words for the rest
_ITS_OWN = (OrderError, MessageError, CohortChangedError)
_FIXED: Mapping[type[Exception], str] = {
    BudgetExceededError: "its privacy budget is spent",
    KeyExhaustedError: "its key must be rotated",
}


class ConsentError(Exception):
    """The market's operator has not agreed to another run."""


class RequestError(Exception):
    """A request that no honest server sends."""


@dataclass
class MarketRun:
    """One market in one run, from where its kept state stands.

    Attributes:
        federation: doors, keys, transcript of this market.
        prepared: its data.
        embeddings: of its users and items.
        clients: by stage, one for each repetition.
    """

    federation: Federation
    prepared: Mapping[str, PreparedMarket]
    embeddings: Embeddings
    clock: Clock
    clients: dict[str, MarketClient] = field(default_factory=dict)

    @classmethod
    def open(cls, config: Config, market: str, member: Membership, directory: Path, run: str) -> MarketRun:
        """Load the market's data, open its ledger, embed; what was done before is read from ``directory``."""
        prepared: Mapping[str, PreparedMarket] = {market: prepare(load_one_market(config.data, market), config.data)}
        clock = Clock(directory / "state")
        account = account_of(config, directory, home=True)
        federation = open_federation(config, prepared, directory, run=run, members={market: member}, account=account)
        with clock.stage("catalogue"):
            federation, prepared = discover_catalogues(federation, prepared)
        with clock.stage("embedding"):
            embeddings = embed_markets(federation, prepared)
        return cls(federation, prepared, embeddings, clock)

    @property
    def stages(self) -> list[str]:
        return [seed_stage(QUANTIZER, seed) for seed in self.federation.config.seed]

    def client(self, stage: str) -> MarketClient:
        """The client of a stage, made when it is first asked for."""
        if stage not in self.stages:
            raise OrderError(f"the server asks for {stage}, which is no stage of this run")
        if stage not in self.clients:
            config = self.federation.config
            seed = config.seed[self.stages.index(stage)]
            rows = pseudo_rows(config, seed, self.embeddings)
            (self.clients[stage],) = make_clients(self.federation, seed, self.embeddings, rows)
        return self.clients[stage]

    def hello(self) -> bytes:
        (message,) = introduce(self.federation).values()
        return message

    def update(self, order: Order, send: Callable[[bytes], None]) -> None:
        client = self.client(order.stage)
        with self.clock.stage("quantizer"):
            client.local_update(order, send)

    def apply(self, message: bytes) -> None:
        """Apply an aggregate, unless that was done before."""
        header, _ = unpack(message)
        client = self.client(header.stage)
        if header.round >= client.next_round:
            client.apply(message)

    def behind(self) -> tuple[str, int] | None:
        """The first round whose aggregate this market lacks; None once it has all."""
        rounds = self.federation.config.federation.rounds
        for stage in self.stages:
            if self.client(stage).next_round < rounds:
                return stage, self.client(stage).next_round
        return None

    def conclude(self, listener: Listener) -> Metrics:
        """Codes, CTR models and metrics of this market; nothing of them is sent."""
        self.federation.forget_masks()
        quantizers = {}
        for seed, stage in zip(self.federation.config.seed, self.stages, strict=True):
            client = self.client(stage)
            name = client.plan.market
            quantizers[seed] = {name: keep_quantizer(self.federation, client)}
        publish_quantizers(self.federation, self.embeddings, quantizers)
        return conclude(self.federation, self.prepared, self.embeddings, quantizers, self.clock, listener)


class MarketService:
    """Answers requests for one market; one at a time.

    Args:
        config: the market's own configuration; the server's must agree with it.
        market: its name.
        member: its keys.
        runs: folder of the run directories.
        max_runs: how many runs the operator agrees to, earlier ones included.
        log: told what happened as (event, fields); stays in the market.
        begin: told of the directory of a new run before anything is written to it.
    """

    def __init__(
        self,
        config: Config,
        market: str,
        member: Membership,
        runs: Path,
        *,
        max_runs: int = 1,
        log: Listener = lambda event, fields: None,
        begin: Callable[[Path], None] = lambda directory: None,
    ) -> None:
        if market not in member.bundle.markets:
            raise ConfigError(f"market {market}: not in the federation of {member.directory.path}")
        torch.set_num_threads(1)
        self.market = market
        self._config, self._member, self._folder = config, member, runs
        self._max_runs, self._log, self._begin = max_runs, log, begin
        self._runs: dict[str, MarketRun] = {}
        self.finished: list[str] = []

    def answer(self, request: bytes) -> bytes:
        """The reply to a request; never raises, and tells the server nothing of the data."""
        try:
            reply = self._dispatch(_parse(request))
        except Exception as error:
            self._log("refused", {"error": repr(error), "traceback": traceback.format_exc()})
            reply = {"absent": self._reason(error)}
        return json.dumps(reply, sort_keys=True).encode()

    def _reason(self, error: Exception) -> str:
        if isinstance(error, (*_ITS_OWN, ConsentError, RequestError)):
            return str(error)
        return _FIXED.get(type(error), "failed; its operator's log says why")

    def _dispatch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        step, run = request["step"], request["run"]
        if step == "hello":
            return {"message": encode_bytes(self._open(run).hello())}
        found = self._open(run)
        for message in request["aggregates"]:
            found.apply(_bytes(message))
        if step == "finish":
            missing = found.behind()
            if missing is None and run not in self.finished:
                self.finished.append(run)
            return {"done": True} if missing is None else {"behind": missing}
        fields = request["order"]
        order = Order(fields["stage"], fields["round"], fields["attempt"], tuple(fields["cohort"]))
        missing = found.behind()
        if missing != (order.stage, order.round):
            return {"behind": missing}
        meet(found.federation, {name: _bytes(hello) for name, hello in request["hellos"].items()})
        sent: list[bytes] = []
        found.update(order, sent.append)
        self._log("update", {"run": run, "stage": order.stage, "round": order.round, "attempt": order.attempt})
        return {"message": encode_bytes(sent[0])}

    def _open(self, run: str) -> MarketRun:
        """A run that the operator agreed to; its directory is made with the first request."""
        if run not in self._runs:
            directory = self._folder / run
            if not directory.exists():
                taken = len(run_directories(self._folder))
                if taken >= self._max_runs:
                    raise ConsentError(f"its operator agreed to {self._max_runs} runs, and {taken} were made")
                rounds = self._config.federation.rounds * len(self._config.seed)
                self._member.directory.check_allowance(rounds)
                self._begin(directory)
            found = self._runs[run] = MarketRun.open(self._config, self.market, self._member, directory, run)
            self._note(run, "market", {"market": self.market, **describe(found.prepared[self.market])})
        return self._runs[run]

    def conclude_finished(self) -> list[tuple[str, Metrics]]:
        """Train and measure the market's own models of runs whose rounds are over."""
        done = []
        while self.finished:
            done.append((self.finished[0], self.conclude(self.finished[0])))
            self.finished.pop(0)
        return done

    def conclude(self, run: str) -> Metrics:
        """The market's own stages of one run."""
        return self._open(run).conclude(partial(self._note, run))

    def _note(self, run: str, event: str, fields: Mapping[str, Any]) -> None:
        self._log(event, {"run": run, **fields})


def run_directories(folder: Path) -> list[Path]:
    """Run directories in a folder, by name."""
    return sorted(path for path in folder.glob("*") if _RUN_ID.fullmatch(path.name))


def _parse(request: bytes) -> Mapping[str, Any]:
    if len(request) > MAX_REQUEST_BYTES:
        raise RequestError(f"a request of {len(request)} bytes")
    try:
        fields = json.loads(request)
        well_formed = (
            fields["step"] in ("hello", "update", "finish")
            and _RUN_ID.fullmatch(fields["run"]) is not None
            and (fields["step"] == "hello" or isinstance(fields["aggregates"], list))
            and (fields["step"] != "update" or isinstance(fields["hellos"], dict))
            and (fields["step"] != "update" or _is_order(fields["order"]))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        well_formed = False
    if not well_formed:
        raise RequestError("a malformed request")
    return dict(fields)


def _is_order(fields: Mapping[str, Any]) -> bool:
    numbers = (fields["round"], fields["attempt"])
    texts = (fields["stage"], *fields["cohort"])
    return all(type(number) is int for number in numbers) and all(type(text) is str for text in texts)


def encode_bytes(data: bytes) -> str:
    """Bytes as they stand in requests and replies."""
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError("a malformed request") from None
