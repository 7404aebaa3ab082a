"""Local training of an RQ-VAE between two rounds, with or without DP-SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, Quantized
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, HookGradients, StepStatistics
from privacy.mechanisms.noise import NoiseSource


@dataclass(frozen=True)
class TrainingSettings:
    """How a market trains its RQ-VAE within one round."""

    learning_rate: float = 3e-3
    batch_size: int = 256
    local_epochs: int = 3
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class PrivateSettings:
    """How it does so under DP-SGD: ``steps`` noised steps on users a round.

    ``codebook_noise_share`` below 1 is distributed noise: the part of the noise's standard deviation that this market
    adds on the global codebook; the sum over the cohort carries all of it.
    """

    choices: DPSGD
    steps: int
    noise: NoiseSource
    learning_rate: float = 1e-3
    codebook_noise_share: float = 1.0


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
        self._private_trainer: DPSGDTrainer | None = None
        if private is not None:
            self._noised = torch.optim.Adam(model.parameters(), lr=private.learning_rate)
            codewords = model.global_codebook.codewords
            self._private_trainer = DPSGDTrainer(
                HookGradients(model, self._per_example),
                self._noised,
                private.choices,
                len(user_rows),
                private.noise,
                {codewords: private.codebook_noise_share} if private.codebook_noise_share < 1.0 else None,
            )
            self._shared = torch.optim.Adam([codewords], lr=private.learning_rate)

    def train_round(self, generator: torch.Generator, *, warm_up: bool) -> StepStatistics:
        """One round of local training; a warm-up round reads no user row under DP."""
        if self._private_trainer is None or self.private is None:
            loss = self._epochs(torch.cat([self._users, self._free]), generator)
            return StepStatistics(loss, 0.0, float("inf"))
        loss = self._epochs(self._free, generator)
        if warm_up:
            return StepStatistics(loss, 0.0, float("inf"))
        return self.private_steps(self.private.steps)

    def private_steps(self, count: int, after: Callable[[], None] | None = None) -> StepStatistics:
        """Noised steps alone; ``after`` follows each, while the noised gradients are there to be read."""
        if self._private_trainer is None:
            raise ValueError("noised steps need DP-SGD")
        return self._private_trainer.steps(self._users, count, after=after)

    def gradient_round(self, generator: torch.Generator) -> tuple[StepStatistics, Tensor]:
        """One noised step on the local parameters; returns the noised gradient of the global codebook as well.

        The global codebook stays as it is: all markets step it by the cohort's mean gradient, ``apply_gradient``. A
        sum of gradients carries the sum of their noise, which a sum of movements would not.
        """
        codewords = self.model.global_codebook.codewords
        start, found = codewords.detach().clone(), torch.zeros_like(codewords)
        self._epochs(self._free, generator)
        with torch.no_grad():
            codewords.copy_(start)

        def keep() -> None:
            assert codewords.grad is not None
            found.copy_(codewords.grad)

        statistics = self.private_steps(1, after=keep)
        with torch.no_grad():
            codewords.copy_(start)
        return statistics, found

    def apply_gradient(self, gradient: Tensor) -> None:
        """Step the global codebook; the same in every market, for the same gradients."""
        self.model.global_codebook.codewords.grad = gradient.clone()
        self._shared.step()
        self._shared.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._private_trainer is not None:
            state |= {"noised": self._noised.state_dict(), "shared": self._shared.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._private_trainer is not None:
            self._noised.load_state_dict(state["noised"])
            self._shared.load_state_dict(state["shared"])

    def _epochs(self, rows: Tensor, generator: torch.Generator) -> float:
        total, seen = 0.0, 0
        for _ in range(self.settings.local_epochs):
            order = torch.randperm(len(rows), generator=generator)
            for chosen in order.split(self.settings.batch_size):
                self._optimizer.zero_grad()
                loss = self._per_example(self.model, rows[chosen])
                loss.mean().backward()
                self._optimizer.step()
                total, seen = total + float(loss.detach().sum()), seen + len(chosen)
        return total / max(seen, 1)

    def _per_example(self, model: nn.Module, batch: Tensor) -> Tensor:
        quantized: Quantized = model(batch, self.settings.weights.soft_temperature)
        return quantized.total(self.settings.weights)
