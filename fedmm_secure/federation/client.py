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
from fedmm_secure.quantization.training import QuantizerTrainer
from fedmm_secure.randomness import torch_generator
from fedmm_secure.storage import torch_bytes, write_atomic
from privacy.aggregation import FixedPointCodec, MarketAggregator
from privacy.mechanisms.dp_sgd import StepStatistics


class CohortChangedError(Exception):
    """A sum that lacks markets whose noise the guarantee counts on."""


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
        remark: goes into every ledger line.
        cohort: markets of the federation.
        distributed: whether the cohort's sum, not each update, carries the noise of the global codebook.
    """

    market: str
    stage: str
    seed: int
    warm_up_rounds: int
    depends_on: tuple[str, ...]
    audience: tuple[str, ...]
    remark: str | None = None
    cohort: int = 1
    distributed: bool = False


class MarketClient:
    """Trains locally, releases the movement of its global codebook, applies the cohort's average.

    Encoder, decoder and local codebook never leave. The state is kept in ``state_dir`` at each step, so that a
    killed run goes on from the noised state it had instead of drawing noise again.
    """

    def __init__(
        self,
        plan: ClientPlan,
        trainer: QuantizerTrainer,
        door: Door,
        codec: FixedPointCodec,
        aggregator: MarketAggregator,
        state_dir: Path,
    ) -> None:
        self.plan = plan
        self.trainer = trainer
        self.door = door
        self._codec, self._aggregator = codec, aggregator
        self._state_file = state_dir / f"{plan.market}.pt"
        self.next_round = 0
        self.last: StepStatistics | None = None
        self._pending: dict[str, Any] | None = None
        self._start = self._codebook()
        if self._state_file.exists():
            self._load()

    def local_update(self, round: int, send: Callable[[bytes], None]) -> None:
        """Train from the round's start and release the difference of the global codebook."""
        if self._pending is not None and self._pending["round"] == round:  # an interrupted round
            delta, sealed = self._pending["delta"].numpy(), self._pending["sealed"]
        else:
            generator = torch_generator("quantizer", self.plan.market, self.plan.seed, round)
            if self._sends_gradient(round):
                self.last, gradient = self.trainer.gradient_round(generator)
                delta = gradient.numpy().ravel()
            else:
                self.last = self.trainer.train_round(generator, warm_up=round < self.plan.warm_up_rounds)
                delta = (self._codebook() - self._start).ravel()
            sealed = None
        self.door.send(
            self._release(round),
            delta.astype(np.float64),
            send,
            keep=lambda sealed: self._keep(round, delta, sealed),
            sealed=sealed,
        )

    def apply(self, round: int, aggregate: bytes, cohort_size: int) -> np.ndarray:
        """Move the global codebook by the cohort's mean; returns the integer sum.

        Raises:
            CohortChangedError: the sum lacks a part of the noise that its ledger lines count on.
        """
        if self._sends_gradient(round) and cohort_size != self.plan.cohort:
            raise CohortChangedError(
                f"market {self.plan.market}, round {round}: {cohort_size} of {self.plan.cohort} markets are in the "
                "sum, whose noise would be short of what the ledger states; stopped"
            )
        total = self._aggregator.reveal(aggregate)
        mean = self._codec.decode(total).reshape(self._start.shape) / cohort_size
        if self._sends_gradient(round):
            self.trainer.apply_gradient(torch.from_numpy(mean.astype(np.float32)))
        else:
            moved = (self._start.astype(np.float64) + mean).astype(np.float32)
            with torch.no_grad():
                self.trainer.model.global_codebook.codewords.copy_(torch.from_numpy(moved))
        self._start = self._codebook()
        self.next_round = round + 1
        self._pending = None
        self._save()
        return total

    def _sends_gradient(self, round: int) -> bool:
        return self.plan.distributed and round >= self.plan.warm_up_rounds

    def _release(self, round: int) -> Release:
        private = self.trainer.private
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
                mechanism = f"DP-SGD, noise distributed over {self.plan.cohort} markets"
                # whoever opens single updates (the server with one key holder) finds this market's part alone
                noise = private.choices.noise_multiplier * private.codebook_noise_share
                part = replace(private.choices, noise_multiplier=noise)
                view_events["collusion"] = part.event(private.steps)
        return Release(
            stage=self.plan.stage,
            round=round,
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

    def _keep(self, round: int, delta: np.ndarray, sealed: bytes) -> None:
        self._pending = {"round": round, "delta": torch.from_numpy(delta), "sealed": sealed}
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
