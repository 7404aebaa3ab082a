"""Local training of an RQ-VAE between two rounds, with or without DP-SGD."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmm_secure.config.choices import DeviceName
from fedmm_secure.devices import training_on
from fedmm_secure.quantization.codebook import Codebook, CodebookGradient
from fedmm_secure.quantization.movement import SharedSteps
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, Quantized
from privacy.arrays import IntArray
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, NoisedSteps, SharedGroup, StepStatistics
from privacy.mechanisms.factored_sums import FactoredGradients, LinearGradient, Rule
from privacy.mechanisms.per_example import BatchLoss
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare


@dataclass(frozen=True)
class TrainingSettings:
    """How a market trains its RQ-VAE within one round, and where."""

    learning_rate: float = 3e-3
    batch_size: int = 256
    local_epochs: int = 3
    weights: LossWeights = field(default_factory=LossWeights)
    device: DeviceName = "cpu"


@dataclass(frozen=True)
class PrivateSettings:
    """How it does so under DP-SGD: ``steps`` noised steps on users a round.

    Attributes:
        choices: clipping, noise and sampling.
        steps: of a round.
        learning_rate: of the noised steps.
        spare: noised sums of each step that no user reaches.
        shared: distributed noise, if any: what this market adds on the global codebook is a part.
    """

    choices: DPSGD
    steps: int
    learning_rate: float = 1e-3
    spare: int = 0
    shared: PartOfNoise | None = None


@dataclass(frozen=True)
class PartOfNoise:
    """Noise of the global codebook that the cohort's sum carries, in a unit that all markets share.

    Attributes:
        step: grid unit of the codebook's gradient, ``SharedGroup.step_for`` of the most sensitive market's noise.
        honest_parts: markets whose noise is in a sum after colluders have subtracted theirs.
    """

    step: float
    honest_parts: int


_NO_STEPS = np.zeros((0, 0), dtype=np.int64)


class QuantizerTrainer:
    """Trains on user rows and on free rows of unit norm, ``(n, input_dim)``.

    Without DP all rows are shuffled together. Under DP-SGD, free rows (items, pseudo-users) are fixed given the
    embeddings, so they train by ordinary steps; one example = one user's row.
    """

    def __init__(
        self,
        model: RQVAE,
        user_rows: Tensor,
        free_rows: Tensor,
        settings: TrainingSettings,
        private: PrivateSettings | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.private = private
        self._users, self._free = user_rows, free_rows
        self._optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        self._optimizers = [self._optimizer]
        self._private_trainer: DPSGDTrainer | None = None
        if private is not None:
            self._noised = torch.optim.Adam(model.parameters(), lr=private.learning_rate)
            self._optimizers.append(self._noised)
            codewords = model.global_codebook.codewords
            shared = None
            if private.shared is not None:
                shared = SharedGroup(codewords, private.shared.step, private.shared.honest_parts)
            self._private_trainer = DPSGDTrainer(
                factored_gradients(model, self._per_example, settings.weights),
                self._noised,
                private.choices,
                len(user_rows),
                shared,
            )
            self._shared = SharedSteps(codewords, private.learning_rate)

    def train_round(
        self,
        generator: torch.Generator,
        *,
        warm_up: bool,
        noise: NoiseSource | None = None,
        spare: Spare | None = None,
    ) -> NoisedSteps:
        """One round of local training; a warm-up round reads no user row under DP, any other needs the round's noise.

        ``spare`` sums of each step as in ``PrivateSettings``, by default, without canaries.

        ``generator`` shuffles rows: those that cost no budget or, without DP, all.
        """
        with self._training():
            if self._private_trainer is None or self.private is None:
                return _unnoised(self._epochs(torch.cat([self._users, self._free]), generator))
            loss = self._epochs(self._free, generator)
            if warm_up:
                return _unnoised(loss)
            if noise is None:
                raise ValueError("a round on users' rows needs noise")
            return self.private_steps(self.private.steps, noise, spare=spare)

    def private_steps(
        self,
        count: int,
        noise: NoiseSource,
        after: Callable[[], None] | None = None,
        *,
        spare: Spare | None = None,
    ) -> NoisedSteps:
        """Noised steps alone; ``after`` follows each, while the noised gradients are there to be read."""
        if self._private_trainer is None or self.private is None:
            raise ValueError("noised steps need DP-SGD")
        found = Spare(self.private.spare) if spare is None else spare
        with self._training() as device:
            return self._private_trainer.steps(self._users.to(device), count, noise, after, spare=found)

    def gradient_round(
        self, generator: torch.Generator, noise: NoiseSource, spare: Spare | None = None
    ) -> tuple[NoisedSteps, IntArray]:
        """One noised step on the local parameters; returns the noised gradient sum of the global codebook as well.

        The sum ``(n_codes · latent_dim,)`` is of integers, in units of ``PartOfNoise.step``, and carries this market's
        part of the noise. The global codebook stays as it is: all markets step it by the cohort's mean gradient,
        ``apply_gradient``. A sum of gradients carries the sum of their noise, which a sum of movements would not.
        """
        with self._training():
            codewords = self.model.global_codebook.codewords
            start = codewords.detach().clone()
            self._epochs(self._free, generator)
            with torch.no_grad():
                codewords.copy_(start)
            found = self.private_steps(1, noise, spare=spare)
        return found, found.shared[0]

    def apply_gradient(self, total: IntArray, unit: float) -> None:
        """Step the global codebook by the cohort's sum, in units of ``unit``: ``SharedSteps``."""
        self._shared.apply(total, unit)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, but for its private randomness."""
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._private_trainer is not None:
            state |= {"noised": self._noised.state_dict(), "shared": self._shared.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._private_trainer is not None:
            self._noised.load_state_dict(state["noised"])
            self._shared.load_state_dict(state["shared"])

    def _training(self) -> AbstractContextManager[torch.device]:
        """The model where it trains: between rounds it is on the processor, as is what moves the global codebook."""
        return training_on(self.settings.device, self.model, *self._optimizers)

    def _epochs(self, rows: Tensor, generator: torch.Generator) -> float:
        """Mean loss; rows are drawn on the processor, in one order on every device."""
        rows = rows.to(self.model.global_codebook.codewords.device)
        total, seen = rows.new_zeros((), dtype=torch.float64), 0
        for _ in range(self.settings.local_epochs):
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            for chosen in order.split(self.settings.batch_size):
                self._optimizer.zero_grad()
                loss = self._per_example(self.model, rows[chosen])
                loss.mean().backward()
                self._optimizer.step()
                total, seen = total + loss.detach().sum(), seen + len(chosen)
        return float(total) / max(seen, 1)

    def _per_example(self, model: nn.Module, batch: Tensor) -> Tensor:
        weights = self.settings.weights
        return losses_of_rows(model(batch, weights.soft_temperature), batch, weights)


def losses_of_rows(quantized: Quantized, rows: Tensor, weights: LossWeights) -> Tensor:
    """Losses ``(n,)``, 0 of a row of zeros: it is that of a user of whom there is no row.

    How many users there are is public, so neighbours may count the same ones. Were a user without a row to have a
    gradient, that of the user's rows would take its place, and a sum move by both: up to twice the clipping norm.
    """
    return torch.where((rows != 0.0).any(dim=1), quantized.total(weights), 0.0)


def _unnoised(loss: float) -> NoisedSteps:
    return NoisedSteps(StepStatistics(loss, 0.0, float("inf")), _NO_STEPS, _NO_STEPS)


def factored_gradients(model: RQVAE, loss: BatchLoss, weights: LossWeights) -> FactoredGradients:
    """Gradients of single rows of an RQ-VAE: the entropy of soft assignments alone reaches codewords not chosen."""
    codebook = partial(CodebookGradient, chosen_alone=not weights.entropy)
    rules: dict[type[nn.Module], Rule] = {nn.Linear: LinearGradient, Codebook: codebook}
    return FactoredGradients(model, loss, rules)
