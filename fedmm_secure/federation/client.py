"""One market's part in the federation; the same code under every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm_secure.federation.door import Door
from fedmm_secure.federation.messages import Header, MessageError, unpack
from fedmm_secure.federation.orders import Order, OrderError, Place
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.guarantee.plan import SpendingPlan, again
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.quantization.movement import move
from fedmm_secure.quantization.training import QuantizerTrainer
from fedmm_secure.randomness import torch_generator
from fedmm_secure.storage import torch_bytes, write_atomic
from privacy.aggregation.base import IntVector
from privacy.mechanisms.dp_sgd import NoisedSteps, StepStatistics
from privacy.mechanisms.randomness import NoiseSource


@dataclass(frozen=True)
class ClientPlan:
    """What a market does in the rounds of one repetition.

    Attributes:
        market: its name.
        stage: stage name in ledger and transcript.
        seed: seed of the public choices (never of noise).
        warm_up_rounds: first rounds, in which DP training reads no user row.
        spending: what its releases spend.
        norm: largest Euclidean norm of an update, None where nothing bounds it.
    """

    market: str
    stage: str
    seed: int
    warm_up_rounds: int
    spending: SpendingPlan
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

    @property
    def place(self) -> Place:
        """The round that this market is in."""
        return self.plan.stage, self.next_round

    def state(self, order: Order) -> bytes:
        """This market's signed statement that it takes part in an attempt of a round.

        Raises:
            OrderError: see ``Agreement.state``.
        """
        return self.door.agreement.state(order)

    def agree(self, order: Order, statements: Mapping[str, bytes]) -> None:
        """See that all markets of a cohort have stated the same as this one; only then it trains.

        Raises:
            OrderError, MessageError: see ``Agreement.agree``.
        """
        self.door.agreement.agree(order, statements)

    def local_update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Train from the round's start and release the difference of the global codebook.

        A later attempt of the same round sends the same difference for a smaller cohort; an order that was carried
        out before is answered with the same bytes. An order that fails leaves everything as it was, but for the charge.

        Raises:
            OrderError: its cohort has not agreed on it, or it is of another round than this market is in.
            BudgetExceededError: the ledger does not allow it; nothing was computed.
        """
        self._restore()
        self.door.ready(order)
        if order.place != self.place:
            raise OrderError(f"market {self.plan.market}: {order.stage}, round {order.round} is not where it is")
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

    def take(self, message: bytes, statements: Mapping[str, bytes] | None = None) -> None:
        """Keep the aggregate of this round, unopened; ``statements`` of its cohort where this market was not in it.

        Raises:
            MessageError: see ``Agreement.take``, or it counts an update that this market did not send.
        """
        self._restore()
        self._refuse_unsent(message)
        self.door.take(message, self.place, statements)

    def _refuse_unsent(self, message: bytes) -> None:
        header, _ = unpack(message)
        sent = None if self._pending is None else self._pending["attempt"]
        if self.plan.market in header.cohort and sent != header.attempt:
            raise MessageError(
                f"market {self.plan.market}: a sum over {header.cohort} counts an update it did not send"
            )

    def settle(self) -> np.ndarray | None:
        """Open the aggregate that was taken, if one was, and move the global codebook by the cohort's mean.

        Returns the integer sum. The door ends the run where the sum is not what the cohort sent.

        Raises:
            AggregationError: it is not.
        """
        self._restore()
        message = self.door.agreement.taken(self.place)
        if message is None:
            return None
        self._refuse_unsent(message)
        header, total = self.door.receive(self.place)
        self._stale = True
        self._move(header, total)
        self._start = self._codebook()
        self.next_round = header.round + 1
        self._pending = None
        self._save()
        self._stale = False
        return total

    def apply(self, message: bytes) -> np.ndarray | None:
        """``take`` and ``settle`` at once, where nobody waits for an answer between them."""
        self.take(message)
        return self.settle()

    def _move(self, header: Header, total: IntVector) -> None:
        shared = self.plan.spending.shared
        if shared is not None and self.plan.spending.sends_gradient(header.round):
            self.trainer.apply_gradient(total, shared.unit)
            return
        mean = self.door.channel.codec.decode(total).reshape(self._start.shape) / len(header.cohort)
        move(self.trainer.model.global_codebook.codewords, self._start, mean)

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
