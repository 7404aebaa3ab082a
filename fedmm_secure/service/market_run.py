"""One market in one run: its doors, its clients by stage, and the stages that it does for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.head_client import HeadClient
from fedmm_secure.federation.introductions import introduce
from fedmm_secure.federation.members import Membership
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.parties import (
    Federation,
    make_clients,
    open_federation,
)
from fedmm_secure.federation.releases import discover_catalogues
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.shared_catalogue import sum_client
from fedmm_secure.guarantee.stages import HEAD, QUANTIZER, scheduled, seed_stage
from fedmm_secure.pipeline import (
    Embeddings,
    Listener,
    conclude,
    embed_markets,
    keep_quantizer,
    pseudo_rows,
    publish_quantizers,
)
from fedmm_secure.results.metrics import RunMetrics
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.stopwatch import Stopwatch


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
    clock: Stopwatch
    clients: dict[str, RoundClient] = field(default_factory=dict)

    @classmethod
    def open(
        cls, config: Config, data: PreparedMarket, market: str, member: Membership, directory: Path, run: str
    ) -> MarketRun:
        """Open the market's ledger; what was done before is read from ``directory``."""
        prepared: Mapping[str, PreparedMarket] = {market: data}
        clock = Stopwatch(RunDirectory(directory).state)
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
            made = HeadClient(self.federation, prepared) if stage == HEAD else None
            self.clients[stage] = made or sum_client(self.federation, prepared, stage)
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
        """What the market has agreed to."""
        (door,) = self.federation.doors.values()
        return door.agreement

    def hello(self, start: bytes) -> bytes:
        """The market's signed answer to a start, with its mask key."""
        (message,) = introduce(self.federation, start).values()
        return message

    def update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Carry out an order that the cohort has agreed on."""
        client = self.client(order.stage)
        clock = "quantizer" if order.stage in self.seeds else HEAD if order.stage == HEAD else "sums"
        with self.clock.stage(clock):
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

    def conclude(self, listener: Listener) -> RunMetrics:
        """Codes, CTR models and metrics of this market; nothing of them is sent."""
        self.federation.forget_masks()
        if HEAD in self.stages:
            head = self.client(HEAD)
            assert isinstance(head, HeadClient)
            head.save()
        quantizers = {}
        for stage, seed in self.seeds.items():
            client = self.trained(stage)
            name = client.market
            quantizers[seed] = {name: keep_quantizer(self.federation, client)}
        publish_quantizers(self.federation, self.embeddings, quantizers)
        return conclude(self.federation, self.prepared, self.embeddings, quantizers, self.clock, listener)
