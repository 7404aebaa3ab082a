"""One market's part in the federation; the same code under every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dp_accounting import dp_event

from fedmm_secure.federation.door import Door, Release
from fedmm_secure.federation.messages import Header, MessageError, verify
from fedmm_secure.federation.server import Order
from fedmm_secure.quantization.training import QuantizerTrainer
from fedmm_secure.randomness import noise_source, torch_generator
from fedmm_secure.storage import torch_bytes, write_atomic
from privacy.aggregation import AggregationError
from privacy.aggregation.keys import SERVER, Bundle
from privacy.mechanisms.dp_sgd import StepStatistics


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
        depends_on: stages that produced the rows.
        audience: views that observe the decrypted aggregate.
        bundle: the parties of the federation.
        min_cohort: fewer markets than this are not joined in a sum.
        norm: largest Euclidean norm of an update, None where nothing bounds it.
        remark: goes into every ledger line.
        distributed: whether the cohort's sum, not each update, carries the noise of the global codebook.
        masked: whether single updates stay hidden from whoever opens a ciphertext.
        noise_seed: tests only.
        expected_batch: of this market, by which its noised sums are divided.
    """

    market: str
    stage: str
    seed: int
    warm_up_rounds: int
    depends_on: tuple[str, ...]
    audience: tuple[str, ...]
    bundle: Bundle
    min_cohort: int
    norm: float | None = None
    remark: str | None = None
    distributed: bool = False
    masked: bool = False
    noise_seed: int | None = None
    expected_batch: int = 1


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
        if self._state_file.exists():
            self._load()

    def local_update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Train from the round's start and release the difference of the global codebook.

        A later attempt of the same round sends the same difference for a smaller cohort; an order that was carried
        out before is answered with the same bytes.

        Raises:
            OrderError: another stage or round, a cohort that is too small or lacks this market, or an attempt that
                contradicts an earlier one.
            CohortChangedError: the cohort lacks a part of the noise that the ledger counts on.
        """
        self._check(order)
        pending = self._pending if self._pending is not None and self._pending["round"] == order.round else None
        sealed = None
        if pending is None:
            delta = self._bounded(self._train(order.round))
        else:  # an interrupted round, or the next attempt of one
            delta = pending["delta"].numpy()
            sealed = pending["sealed"] if pending["attempt"] == order.attempt else None
        release = self._release(order)
        if pending is not None and pending["attempt"] != order.attempt:
            release = replace(
                release, event=dp_event.NoOpDpEvent(), view_events={}, mechanism="the same update, for a smaller cohort"
            )
        self.door.send(
            release,
            delta.astype(np.float64),
            send,
            cohort=order.cohort,
            keep=lambda sealed: self._keep(order, delta, sealed),
            sealed=sealed,
        )

    def _train(self, round: int) -> np.ndarray:
        plan, private = self.plan, self.trainer.private
        generator = torch_generator("quantizer", plan.market, plan.seed, round)
        noise = noise_source(plan.noise_seed, plan.market, plan.stage, round)
        if self._sends_gradient(round) and private is not None and private.shared is not None:
            found, summed = self.trainer.gradient_round(generator, noise)
            self.last = found.statistics
            return summed * (private.shared.step / plan.expected_batch)
        self.last = self.trainer.train_round(generator, warm_up=round < plan.warm_up_rounds, noise=noise).statistics
        return np.asarray((self._codebook() - self._start).ravel())

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
        elif len(order.cohort) < plan.min_cohort:
            problem = f"a cohort of {len(order.cohort)}, {plan.min_cohort} are needed"
        elif self._pending is not None and self._pending["round"] == order.round:
            kept = tuple(self._pending["cohort"])
            again = order.attempt == self._pending["attempt"] and order.cohort == kept
            fewer = order.attempt > self._pending["attempt"] and set(order.cohort) < set(kept)
            if not again and not fewer:
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
        header, payload = self._open(message)
        channel = self.door.channel
        total = channel.aggregator.reveal(payload)
        largest = len(header.cohort) * 2**channel.codec.bits
        if np.abs(total).max(initial=0) > largest:
            raise AggregationError(f"market {self.plan.market}, round {header.round}: a sum is outside ±{largest}")
        mean = channel.codec.decode(total).reshape(self._start.shape) / len(header.cohort)
        if self._sends_gradient(header.round):
            self.trainer.apply_gradient(torch.from_numpy(mean.astype(np.float32)))
        else:
            moved = (self._start.astype(np.float64) + mean).astype(np.float32)
            with torch.no_grad():
                self.trainer.model.global_codebook.codewords.copy_(torch.from_numpy(moved))
        self._start = self._codebook()
        self.next_round = header.round + 1
        self._pending = None
        self._save()
        return total

    def _open(self, message: bytes) -> tuple[Header, bytes]:
        plan, channel = self.plan, self.door.channel
        header, payload = verify(message, plan.bundle.cards[SERVER])
        found = (header.kind, header.run, header.stage, header.round, header.parameters)
        wanted = ("aggregate", channel.run, plan.stage, self.next_round, channel.parameters)
        if found != wanted:
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
        if self._sends_gradient(round) and len(cohort) != everyone:
            raise CohortChangedError(
                f"market {self.plan.market}, round {round}: {len(cohort)} of {everyone} markets are in the "
                "sum, whose noise would be short of what the ledger states; stopped"
            )

    def _sends_gradient(self, round: int) -> bool:
        return self.plan.distributed and round >= self.plan.warm_up_rounds

    def _release(self, order: Order) -> Release:
        private, round = self.trainer.private, order.round
        view_events: dict[str, dp_event.DpEvent] = {}
        if private is None:
            event: dp_event.DpEvent = dp_event.NonPrivateDpEvent()
            mechanism, sensitivity = "none: training without differential privacy", None
        elif round < self.plan.warm_up_rounds:
            event, mechanism, sensitivity = dp_event.NoOpDpEvent(), "warm-up: reads no user row", 0.0
        else:
            event = private.choices.event(private.steps)
            mechanism, sensitivity = "DP-SGD", private.choices.clipping_norm
            if self.plan.distributed:
                mechanism = f"DP-SGD, noise distributed over {len(self.plan.bundle.markets)} markets"
                if not self.plan.masked:
                    # whoever opens single updates (the server with one key holder) finds this market's part alone
                    assert private.shared is not None
                    noise = private.choices.noise_multiplier / private.shared.honest_parts**0.5
                    part = replace(private.choices, noise_multiplier=noise)
                    view_events["collusion"] = part.event(private.steps)
        return Release(
            stage=self.plan.stage,
            round=round,
            attempt=order.attempt,
            mechanism=mechanism,
            event=event,
            sensitivity=sensitivity,
            audience=self.plan.audience,
            depends_on=self.plan.depends_on,
            remark=self.plan.remark,
            view_events=view_events,
        )

    def _codebook(self) -> np.ndarray:
        return self.trainer.model.global_codebook.codewords.detach().numpy().copy()

    def _keep(self, order: Order, delta: np.ndarray, sealed: bytes) -> None:
        self._pending = {
            "round": order.round,
            "attempt": order.attempt,
            "cohort": list(order.cohort),
            "delta": torch.from_numpy(delta),
            "sealed": sealed,
        }
        self._save()

    def _save(self) -> None:
        state = {
            "trainer": self.trainer.state_dict(),
            "start": torch.from_numpy(self._start),
            "next_round": self.next_round,
            "pending": self._pending,
        }
        write_atomic(self._state_file, torch_bytes(state))

    def _load(self) -> None:
        state = torch.load(self._state_file, weights_only=True)
        self.trainer.load_state_dict(state["trainer"])
        self._start = state["start"].numpy()
        self.next_round = state["next_round"]
        self._pending = state["pending"]
