"""One market's part in the rounds of the global codebook; the same code under every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm_secure.federation.canaries import RunCanaries
from fedmm_secure.federation.door import Door
from fedmm_secure.federation.messages import Header
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.quantization.movement import move
from fedmm_secure.quantization.training import QuantizerTrainer
from fedmm_secure.randomness import torch_generator
from privacy.aggregation.base import IntVector
from privacy.mechanisms.dp_sgd import NoisedSteps
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare


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
        canaries: in spare coordinates of the noised steps, if any.
    """

    market: str
    stage: str
    seed: int
    warm_up_rounds: int
    spending: SpendingPlan
    norm: float | None = None
    canaries: RunCanaries | None = None

    def spare(self, count: int, round: int) -> Spare:
        """Spare coordinates of each of a round's steps."""
        if self.canaries is None or not count:
            return Spare(count)
        return self.canaries.spare(count, self.spending, self.stage, round)


class MarketClient(RoundClient):
    """Trains locally, releases the movement of its global codebook, applies the cohort's average.

    Encoder, decoder and local codebook never leave.
    """

    def __init__(self, plan: ClientPlan, trainer: QuantizerTrainer, door: Door, state_dir: Path) -> None:
        super().__init__(plan.market, plan.stage, plan.spending, door, state_dir / f"{plan.market}.pt")
        self.plan, self.trainer = plan, trainer
        self._start = self._codebook()
        self._begin()

    def _computed(self, round: int, paid: Transaction) -> tuple[IntVector, IntVector | None]:
        steps, values = self._train(round, paid.source if paid.charge.key else None)
        self.last = steps.statistics
        return values, steps.spare.ravel() if steps.spare.size else None

    def _train(self, round: int, source: NoiseSource | None) -> tuple[NoisedSteps, IntVector]:
        """The steps of a round, and the integers ``(length,)`` that are to be summed."""
        generator = torch_generator("quantizer", self.plan.market, self.plan.seed, round)
        if self.spending.sends_gradient(round):
            if source is None:
                raise ValueError("a part of the noise needs randomness")
            return self.trainer.gradient_round(generator, source, self._spare(round))
        warm_up = round < self.plan.warm_up_rounds
        steps = self.trainer.train_round(generator, warm_up=warm_up, noise=source, spare=self._spare(round))
        movement = (self._codebook() - self._start).ravel().astype(np.float64)
        return steps, self.door.channel.codec.encode(self._bounded(movement))

    def _spare(self, round: int) -> Spare:
        return self.plan.spare(0 if self.trainer.private is None else self.trainer.private.spare, round)

    def _bounded(self, delta: np.ndarray) -> np.ndarray:
        """Scale down to the norm that all markets agreed on; after the noise, so that it is post-processing."""
        norm = float(np.linalg.norm(delta))
        if self.plan.norm is None or norm <= self.plan.norm:
            return delta
        return delta * (self.plan.norm / norm)

    def _move(self, header: Header, total: IntVector) -> None:
        """Move the global codebook by the cohort's mean."""
        shared = self.spending.shared
        if shared is not None and self.spending.sends_gradient(header.round):
            self.trainer.apply_gradient(total, shared.unit)
        else:
            mean = self.door.channel.codec.decode(total).reshape(self._start.shape) / len(header.cohort)
            move(self.trainer.model.global_codebook.codewords, self._start, mean)
        self._start = self._codebook()

    def _codebook(self) -> np.ndarray:
        return self.trainer.model.global_codebook.codewords.detach().numpy().copy()

    def _kept(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state_dict(), "start": torch.from_numpy(self._start)}

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        self.trainer.load_state_dict(kept["trainer"])
        self._start = kept["start"].numpy()
