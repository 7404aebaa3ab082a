"""One market's part of a deployed run: answers what the server asks, with the same ``MarketClient`` as in process.

A home folder holds all that the market needs: ``config.yaml``, ``keys/``, the market's data, and ``runs/<run id>/``,
one run directory for each run that it took part in. The server can ask for four things: who are you (``hello``), a
statement that you take part in a round (``state``), an update (``update``), and to end (``finish``). It gets signed
messages, or a reason that says nothing of the data. A sum that it brings is answered before it is opened, so no answer
depends on what is in it; if it is not what the markets sent, the run is over here, and the shared key is given up.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket, load_one_market, prepare
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.agreement import Agreement, check_start, ended_file
from fedmm_secure.federation.budget import BudgetExceededError
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.closing import is_closed
from fedmm_secure.federation.introductions import introduce, meet
from fedmm_secure.federation.lobby import Lobby
from fedmm_secure.federation.members import Membership, load_masks
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.orders import Order, OrderError, RunEndedError
from fedmm_secure.federation.parties import (
    Federation,
    make_agreement,
    make_clients,
    market_sizes,
    mask_file,
    open_federation,
    start_of,
)
from fedmm_secure.federation.releases import discover_catalogues
from fedmm_secure.federation.requests import Reply, Request, RequestError, is_run_id, longest_request
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.shared_catalogue import sum_client
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.guarantee.stages import QUANTIZER, scheduled, seed_stage
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
from fedmm_secure.results.metrics import Metrics, describe
from privacy.aggregation.keys import KeyBurnedError, KeyExhaustedError

# what a server may learn of a refusal: errors whose text comes from its own request, and fixed words for the rest
_FIXED: Mapping[type[Exception], str] = {
    BudgetExceededError: "its privacy budget is spent",
    KeyExhaustedError: "its key must be rotated",
    KeyBurnedError: str(RunEndedError()),  # a crash between the key and the mark of the run: nobody can tell
}
_IN_FULL = 20  # refusals of one kind that are logged with all that is known of them


class ConsentError(Exception):
    """The market's operator has not agreed to another run."""


_ITS_OWN = (OrderError, MessageError, RunEndedError, ConsentError, RequestError)


@dataclass
class MarketRun:
    """One market in one run, from where its kept state stands.

    Attributes:
        federation: doors, keys, transcript of this market.
        prepared: its data.
        clients: by stage.
    """

    federation: Federation
    prepared: Mapping[str, PreparedMarket]
    clock: Clock
    clients: dict[str, RoundClient] = field(default_factory=dict)

    @classmethod
    def open(
        cls, config: Config, data: PreparedMarket, market: str, member: Membership, directory: Path, run: str
    ) -> MarketRun:
        """Open the market's ledger; what was done before is read from ``directory``."""
        prepared: Mapping[str, PreparedMarket] = {market: data}
        clock = Clock(directory / "state")
        account = account_of(config, directory, home=True)
        federation = open_federation(config, prepared, directory, run=run, members={market: member}, account=account)
        with clock.stage("catalogue"):
            federation, prepared = discover_catalogues(federation, prepared)
        return cls(federation, prepared, clock)

    @cached_property
    def embeddings(self) -> Embeddings:
        """Of the market's users and items; they may build on what was summed over markets."""
        with self.clock.stage("embedding"):
            return embed_markets(self.federation, self.prepared)

    @property
    def seeds(self) -> dict[str, int]:
        """Seed of each stage that trains codebooks."""
        return {seed_stage(QUANTIZER, seed): seed for seed in self.federation.config.seed}

    def client(self, stage: str) -> RoundClient:
        """The client of a stage, made when it is first asked for, once the sums of earlier stages are there."""
        if stage not in self.stages:
            raise OrderError(f"the server asks for {stage}, which is no stage of this run")
        if stage not in self.clients:
            if stage in self.seeds:
                return self.trained(stage)
            (prepared,) = self.prepared.values()
            self.clients[stage] = sum_client(self.federation, prepared, stage)
        return self.clients[stage]

    def trained(self, stage: str) -> MarketClient:
        """The client of a stage that trains codebooks."""
        found = self.clients.get(stage)
        if not isinstance(found, MarketClient):
            seed = self.seeds[stage]
            rows = pseudo_rows(self.federation.config, seed, self.embeddings)
            (found,) = make_clients(self.federation, seed, self.embeddings, rows)
            self.clients[stage] = found
        return found

    @property
    def stages(self) -> dict[str, int]:
        """Stages with rounds, in order, and how many each has."""
        return dict(scheduled(self.federation.config))

    @property
    def agreement(self) -> Agreement:
        (door,) = self.federation.doors.values()
        return door.agreement

    def hello(self, start: bytes) -> bytes:
        (message,) = introduce(self.federation, start).values()
        return message

    def update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Carry out an order that the cohort has agreed on."""
        client = self.client(order.stage)
        with self.clock.stage("quantizer" if order.stage in self.seeds else "sums"):
            client.local_update(order, send)

    def take(self, message: bytes, statements: Mapping[str, bytes] | None) -> None:
        """Keep the aggregate of the round that this market is in, unopened; one that it has already changes nothing."""
        if self.agreement.already_taken(message):
            return
        client = self._current()
        if client is None:
            raise MessageError("a sum after the last round")
        client.take(message, statements)

    def settle(self) -> None:
        """Open the aggregate that was taken, if there is one."""
        client = self._current()
        if client is not None:
            client.settle()

    @property
    def settled(self) -> bool:
        """Whether every aggregate that was taken has been opened."""
        client = self._current()
        return client is None or self.agreement.taken(client.place) is None

    def _current(self) -> RoundClient | None:
        """The client of the first stage with rounds left."""
        left = (self.client(stage) for stage, rounds in self.stages.items() if self.client(stage).next_round < rounds)
        return next(left, None)

    def conclude(self, listener: Listener) -> Metrics:
        """Codes, CTR models and metrics of this market; nothing of them is sent."""
        self.federation.forget_masks()
        quantizers = {}
        for stage, seed in self.seeds.items():
            client = self.trained(stage)
            name = client.market
            quantizers[seed] = {name: keep_quantizer(self.federation, client)}
        publish_quantizers(self.federation, self.embeddings, quantizers)
        return conclude(self.federation, self.prepared, self.embeddings, quantizers, self.clock, listener)


class MarketService:
    """Answers requests for one market; one at a time.

    Its data are read, prepared and compared with the bundle when it is made, and never again: whatever is wrong with a
    row, its operator learns before there is anybody who could be answered. So no answer depends on rows but by what is
    charged.

    Args:
        config: the market's own configuration; the server's must agree with it.
        market: its name.
        member: its keys.
        runs: folder of the run directories.
        max_runs: how many runs the operator agrees to, earlier ones included.
        log: told what happened as (event, fields); stays in the market, and never raises.
        begin: told of the directory of a new run before anything of its data is written to it.

    Raises:
        InputError: configuration, keys or data cannot be used, or the bundle states another size than the data have.
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
        self._data = prepare(load_one_market(config.data, market), config.data)
        sizes = market_sizes(config, member.bundle.markets, {market: self._data}, member.bundle.sizes)
        self.market = market
        self._config, self._member, self._folder = config, member, runs
        self._max_runs, self._log, self._begin = max_runs, log, begin
        self._lobby, self._seen = Lobby(runs), Counter[str]()
        self._runs: dict[str, MarketRun] = {}
        self.finished: list[str] = []
        stages = dict(scheduled(config))
        plan = AggregationPlan.of(config, sizes)
        longest = max((plan.of_stage(stage).server().aggregate_bytes for stage in stages), default=0)
        self.longest_request = longest_request(member.bundle.markets, longest, sum(stages.values()))

    def answer(self, request: bytes) -> bytes:
        """The reply to a request; never raises, and tells the server nothing of the data.

        What it brings to be opened is opened by ``settle``, which is to be called once the reply is on its way.
        """
        self.settle()
        try:
            reply = self._dispatch(Request.from_bytes(request, self.longest_request))
        except Exception as error:
            self._note_refusal(error)
            reply = Reply(absent=str(error) if isinstance(error, _ITS_OWN) else self._words(error))
        return reply.to_bytes()

    def settle(self) -> None:
        """Open the sums that were taken; a run whose sum is not what the markets sent is over. Never raises."""
        for run, found in list(self._runs.items()):
            self._settle(run, found)

    def _settle(self, run: str, found: MarketRun) -> None:
        try:
            found.settle()
        except Exception as error:
            self._note_refusal(error)
            with suppress(OSError):  # a disk that fails: the run is over when it can say so
                if found.agreement.ended:
                    self._runs.pop(run, None)

    @staticmethod
    def _words(error: Exception) -> str:
        return _FIXED.get(type(error), "failed; its operator's log says why")

    def _note_refusal(self, error: Exception) -> None:
        kind = type(error).__name__

        def fields() -> dict[str, object]:
            text = "".join(traceback.format_exception(error))
            return {"kind": kind, "error": repr(error)[:500], "traceback": text[-2000:]}

        self._note_often(kind, _IN_FULL, "refused", fields)

    def _note_often(self, kind: str, in_full: int, event: str, fields: Callable[[], Mapping[str, object]]) -> None:
        """What the server can bring about as often as it likes: the first of each kind in full, then how many there
        were, at each doubling. So the log stays small."""
        self._seen[kind] += 1
        count = self._seen[kind]
        if count <= in_full:
            self._log(event, fields())
        elif count & (count - 1) == 0:
            self._log(event, {"kind": kind, "count": count})

    def _dispatch(self, request: Request) -> Reply:
        run = request.run
        if ended_file(self._folder / run, self.market).exists():
            raise RunEndedError
        if not (self._folder / run).exists():
            return self._before(request)
        if run not in self._runs and is_closed(self._folder / run, (self.market,)):
            return self._after(request)
        return self._within(request, self._open(run))

    def _before(self, request: Request) -> Reply:
        """Answers of a run that has not begun: it is announced, at most. Charges nothing."""
        run = request.run
        if request.step == "hello":
            check_start(request.start, run, start_of(self._config), self._member.bundle)
            self._refuse_more_runs()
            directory = self._lobby.enter(run)
            masks = load_masks(self.market, mask_file(directory, self.market), [])
            return Reply(message=self._agreement(run).hello(request.start, masks.public))
        if run not in self._lobby or request.order is None:
            raise RequestError("no run of that name was announced")
        agreement = self._agreement(run)
        if request.step == "state":
            if request.hellos:
                agreement.meet(request.hellos)
            return Reply(message=agreement.state(request.order))
        agreement.agree(request.order, request.statements)
        self._refuse_more_runs()
        self._begin(self._lobby.path(run))
        self._lobby.leave(run)
        return self._within(request, self._open(run))

    def _within(self, request: Request, run: MarketRun) -> Reply:
        """Answers of a run that has begun."""
        if request.step == "hello":
            return Reply(message=run.hello(request.start))
        if request.aggregate:
            run.take(request.aggregate, request.statements or None)
        place, order = run.agreement.place, request.order
        if order is None:  # finish
            if place is None and request.run not in self.finished:
                self.finished.append(request.run)
            return Reply(done=True) if place is None else Reply(behind=place)
        if place is not None and order.place != place:
            return Reply(behind=place)
        if request.step == "state":
            if request.hellos:
                meet(run.federation, request.hellos)
            return Reply(message=run.agreement.state(order))
        run.agreement.agree(order, request.statements)
        sent: list[bytes] = []
        run.update(order, sent.append)
        fields = {"run": request.run, "stage": order.stage, "round": order.round, "attempt": order.attempt}
        self._note_often(f"update {fields}", 1, "update", lambda: fields)
        return Reply(message=sent[0])

    @staticmethod
    def _after(request: Request) -> Reply:
        """Answers of a run that is concluded, however often it is asked: nothing is opened for it again."""
        if request.step != "finish":
            raise OrderError("this run is concluded at this market")
        return Reply(done=True)

    def _refuse_more_runs(self) -> None:
        taken = len(run_directories(self._folder))
        if taken >= self._max_runs:
            raise ConsentError(f"its operator agreed to {self._max_runs} runs, and {taken} were made")
        directory, bundle = self._member.directory, self._member.bundle
        directory.key(self._member.identity, bundle)
        directory.check_allowance(bundle, len(start_of(self._config).places))

    def _agreement(self, run: str) -> Agreement:
        """What was agreed on in a run that has not begun."""
        directory = self._lobby.path(run)
        transcript = Transcript(directory / "transcript")
        member = self._member
        return make_agreement(self._config, self.market, member.identity, member.bundle, directory, run, transcript)

    def _open(self, run: str) -> MarketRun:
        """A run that has begun, from where its kept state stands."""
        if run not in self._runs:
            found = MarketRun.open(self._config, self._data, self.market, self._member, self._folder / run, run)
            self._runs[run] = found
            self._note(run, "market", {"market": self.market, **describe(found.prepared[self.market])})
            self._settle(run, found)  # a process that was killed had taken it and not opened it
        if run not in self._runs or not self._runs[run].settled:
            raise RunEndedError  # or a disk that fails: the server cannot tell
        return self._runs[run]

    def conclude_finished(self) -> list[tuple[str, Metrics]]:
        """Train and measure the market's own models of runs whose rounds are over."""
        self.settle()
        done = []
        while self.finished:
            if self.finished[0] in self._runs:
                done.append((self.finished[0], self.conclude(self.finished[0])))
            self.finished.pop(0)
        return done

    def conclude(self, run: str) -> Metrics:
        """The market's own stages of one run, after which its ledger is closed."""
        metrics = self._open(run).conclude(partial(self._note, run))
        del self._runs[run]
        return metrics

    @property
    def concluded(self) -> int:
        """How many runs are concluded, those of earlier processes included."""
        return sum(is_closed(directory, (self.market,)) for directory in run_directories(self._folder))

    def _note(self, run: str, event: str, fields: Mapping[str, object]) -> None:
        self._log(event, {"run": run, **fields})


def run_directories(folder: Path) -> list[Path]:
    """Run directories in a folder, by name."""
    return sorted(path for path in folder.glob("*") if is_run_id(path.name))
