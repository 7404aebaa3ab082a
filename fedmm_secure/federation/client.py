"""One market's part in the federation; the same code under every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm_secure.federation.door import Door, Transaction
from fedmm_secure.federation.messages import Header, MessageError, verify
from fedmm_secure.federation.server import Order
from fedmm_secure.guarantee.plan import SpendingPlan, again
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.quantization.movement import move
from fedmm_secure.quantization.training import QuantizerTrainer
from fedmm_secure.randomness import torch_generator
from fedmm_secure.storage import torch_bytes, write_atomic
from privacy.aggregation.base import IntVector
from privacy.aggregation.keys import SERVER, Bundle
from privacy.mechanisms.dp_sgd import NoisedSteps, StepStatistics
from privacy.mechanisms.randomness import NoiseSource


class CohortChangedError(Exception):
    """A sum that lacks markets whose noise the guarantee counts on."""


class OrderError(Exception):
    """The server asks for what a market must not send."""


@dataclass(frozen=True)
class ClientPlan:
    """What a market does in the rounds of one repetition.

    Attributes:
        market: its name.
        stage: stage name in ledger and transcript.
        seed: seed of the public choices (never of noise).
        warm_up_rounds: first rounds, in which DP training reads no user row.
        spending: what its releases spend.
        bundle: the parties of the federation.
        min_cohort: fewer markets than this are not joined in a sum.
        norm: largest Euclidean norm of an update, None where nothing bounds it.
    """

    market: str
    stage: str
    seed: int
    warm_up_rounds: int
    spending: SpendingPlan
    bundle: Bundle
    min_cohort: int
    norm: float | None = None


class MarketClient:
    """Trains locally, releases the movement of its global codebook, applies the cohort's average.

    Encoder, decoder and local codebook never leave. The state is kept in ``state_dir`` at each step, so that a
    killed run goes on from the noised state it had instead of drawing noise again.
    """

    def __init__(self, plan: ClientPlan, trainer: QuantizerTrainer, door: Door, state_dir: Path) -> None:
        self.plan = plan
        self.trainer = trainer
        self.door = door
        self._state_file = state_dir / f"{plan.market}.pt"
        self.next_round = 0
        self.last: StepStatistics | None = None
        self._pending: dict[str, Any] | None = None
        self._start = self._codebook()
        self._stale = False
        if not self._state_file.exists():
            self._save()
        self._load()

    def local_update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Train from the round's start and release the difference of the global codebook.

        A later attempt of the same round sends the same difference for a smaller cohort; an order that was carried
        out before is answered with the same bytes. An order that fails leaves everything as it was, but for the charge.

        Raises:
            OrderError: another stage or round, a cohort that is too small or lacks this market, or an attempt that
                is out of bounds or contradicts an earlier one.
            CohortChangedError: the cohort lacks a part of the noise that the ledger counts on.
            BudgetExceededError: the ledger does not allow it; nothing was computed.
        """
        self._restore()
        self._check(order)
        self.door.ready(order.cohort)
        first = self.door.charged(order.stage, order.round)
        release = self.plan.spending.round(self.plan.seed, order.round, order.attempt)
        if first is None:
            first = self.door.begin(release)
        elif first.charge.entry.attempt != order.attempt:
            release = again(release, order.attempt)
        self._stale = True  # what private rows moved must not stay if anything fails: the disk is the truth then
        try:
            if self._pending is None:
                self._pending = self._trained(order.round, first)
            self._send(order, release, first, send)
        except BaseException:
            self._restore()  # or, where that fails too, before anything else happens
            raise
        self._stale = False

    def _trained(self, round: int, paid: Transaction) -> dict[str, Any]:
        """The update of a round, from the randomness that was charged for it."""
        steps, values = self._train(round, paid.source if paid.charge.key else None)
        self.last = steps.statistics
        meter = torch.from_numpy(steps.spare.ravel()) if steps.spare.size else None
        return {"round": round, "values": torch.from_numpy(values), "meter": meter, "attempt": None, "cohort": []}

    def _send(self, order: Order, release: Release, first: Transaction, send: Callable[[bytes], None]) -> None:
        pending = self._pending
        assert pending is not None
        values = pending["values"].numpy()
        meter = None if pending["meter"] is None else pending["meter"].numpy()
        transaction, of_first = first, first.charge.entry.attempt == order.attempt
        if not of_first:
            if first.digest is None:  # its attempt was given up before anything was sent
                self._keep(pending)
                self.door.withhold(first, values, meter)
            transaction = self.door.begin(release)
        if pending["attempt"] != order.attempt:
            message = self.door.protect(release, values, order.cohort)
            pending = {**pending, "attempt": order.attempt, "cohort": list(order.cohort), "message": message}
            self._keep(pending)
        self.door.send(transaction, values, pending["message"], send, meter if of_first else None)

    def _train(self, round: int, source: NoiseSource | None) -> tuple[NoisedSteps, IntVector]:
        """The steps of a round, and the integers ``(length,)`` that are to be summed."""
        generator = torch_generator("quantizer", self.plan.market, self.plan.seed, round)
        if self.plan.spending.sends_gradient(round):
            if source is None:
                raise ValueError("a part of the noise needs randomness")
            return self.trainer.gradient_round(generator, source)
        steps = self.trainer.train_round(generator, warm_up=round < self.plan.warm_up_rounds, noise=source)
        movement = (self._codebook() - self._start).ravel().astype(np.float64)
        return steps, self.door.channel.codec.encode(self._bounded(movement))

    def _bounded(self, delta: np.ndarray) -> np.ndarray:
        """Scale down to the norm that all markets agreed on; after the noise, so that it is post-processing."""
        norm = float(np.linalg.norm(delta))
        if self.plan.norm is None or norm <= self.plan.norm:
            return delta
        return delta * (self.plan.norm / norm)

    def _check(self, order: Order) -> None:
        plan = self.plan
        known = set(order.cohort) <= set(plan.bundle.markets) and order.cohort == tuple(sorted(set(order.cohort)))
        problem = None
        if (order.stage, order.round) != (plan.stage, self.next_round):
            problem = f"asks for {order.stage}, round {order.round}; round {self.next_round} of {plan.stage} is next"
        elif not known or plan.market not in order.cohort:
            problem = f"the cohort {', '.join(order.cohort)} is not one of this market's"
        elif not 0 <= order.attempt < len(plan.bundle.markets):
            problem = f"asks for attempt {order.attempt}; each has fewer markets than the one before"
        elif len(order.cohort) < plan.min_cohort:
            problem = f"a cohort of {len(order.cohort)}, {plan.min_cohort} are needed"
        elif self._pending is not None and self._pending["attempt"] is not None:
            kept = tuple(self._pending["cohort"])
            same = order.attempt == self._pending["attempt"] and order.cohort == kept
            fewer = order.attempt > self._pending["attempt"] and set(order.cohort) < set(kept)
            if not same and not fewer:
                problem = f"attempt {order.attempt} contradicts attempt {self._pending['attempt']}"
        if problem:
            raise OrderError(f"market {plan.market}, {plan.stage}, round {self.next_round}: the server {problem}")
        self._need_whole_noise(order.round, order.cohort)

    def apply(self, message: bytes) -> np.ndarray:
        """Move the global codebook by the cohort's mean; returns the integer sum.

        Raises:
            MessageError: not the server's aggregate of the round that this market is in.
            CohortChangedError: the sum lacks a part of the noise that its ledger lines count on.
            AggregationError: the sum is outside the range of its cohort.
        """
        self._restore()
        header, payload = self._open(message)
        total = self.door.receive(header, message, payload)
        self._stale = True
        self._move(header, total)
        self._start = self._codebook()
        self.next_round = header.round + 1
        self._pending = None
        self._save()
        self._stale = False
        return total

    def _move(self, header: Header, total: IntVector) -> None:
        shared = self.plan.spending.shared
        if shared is not None and self.plan.spending.sends_gradient(header.round):
            self.trainer.apply_gradient(total, shared.unit)
            return
        mean = self.door.channel.codec.decode(total).reshape(self._start.shape) / len(header.cohort)
        move(self.trainer.model.global_codebook.codewords, self._start, mean)

    def _open(self, message: bytes) -> tuple[Header, bytes]:
        plan, channel = self.plan, self.door.channel
        header, payload = verify(message, plan.bundle.cards[SERVER])
        found = (header.kind, header.run, header.stage, header.round, header.parameters)
        wanted = ("aggregate", channel.run, plan.stage, self.next_round, channel.parameters)
        if found != wanted or self.next_round >= plan.spending.config.federation.rounds:
            raise MessageError(f"market {plan.market}: an aggregate of {found}, {wanted} was expected")
        if not set(header.cohort) <= set(plan.bundle.markets) or len(header.cohort) < plan.min_cohort:
            raise MessageError(f"market {plan.market}: a sum over {header.cohort}, {plan.min_cohort} are needed")
        sent = None if self._pending is None else (self._pending["attempt"], tuple(self._pending["cohort"]))
        if plan.market in header.cohort and (sent is None or sent[0] != header.attempt):
            raise MessageError(f"market {plan.market}: a sum over {header.cohort} counts an update it did not send")
        self._need_whole_noise(header.round, header.cohort)
        return header, payload

    def _need_whole_noise(self, round: int, cohort: tuple[str, ...]) -> None:
        everyone = len(self.plan.bundle.markets)
        if self.plan.spending.sends_gradient(round) and len(cohort) != everyone:
            raise CohortChangedError(
                f"market {self.plan.market}, round {round}: {len(cohort)} of {everyone} markets are in the "
                "sum, whose noise would be short of what the ledger states; stopped"
            )

    def _codebook(self) -> np.ndarray:
        return self.trainer.model.global_codebook.codewords.detach().numpy().copy()

    def _keep(self, pending: dict[str, Any]) -> None:
        self._pending = pending
        self._save()

    def _save(self) -> None:
        state = {
            "trainer": self.trainer.state_dict(),
            "start": torch.from_numpy(self._start),
            "next_round": self.next_round,
            "pending": self._pending,
        }
        write_atomic(self._state_file, torch_bytes(state))

    def _restore(self) -> None:
        """After a failure, the state that was kept last; before anything else happens."""
        if self._stale:
            self._load()
            self._stale = False

    def _load(self) -> None:
        state = torch.load(self._state_file, weights_only=True)
        self.trainer.load_state_dict(state["trainer"])
        self._start = state["start"].numpy()
        self.next_round = state["next_round"]
        self._pending = state["pending"]
