"""DP-SGD (Abadi et al., CCS 2016) through Opacus, one example = one privacy unit.

Poisson sampling, per-example clipping over all parameters together, Gaussian noise on all of them, division
by the *expected* batch size: the realised one is itself private.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from dp_accounting.dp_event import DpEvent
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from privacy.accounting.events import dp_sgd_event
from privacy.mechanisms.noise import NoiseSource

# Opacus' hooks warn where a module's inputs are data and need no gradient themselves; per-example gradients of the
# parameters are complete all the same (a test compares them with single backward passes)
warnings.filterwarnings("ignore", message=".*[Ff]ull backward hook is firing.*", category=UserWarning)

PerExampleLoss = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class DPSGD:
    """Choices of a DP-SGD stage.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: largest L2 norm that one example's gradient keeps.
        sampling_rate: probability with which each example enters a batch.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float

    def event(self, steps: int) -> DpEvent:
        """What ``steps`` steps release."""
        return dp_sgd_event(self.noise_multiplier, self.sampling_rate, steps)


@dataclass(frozen=True)
class StepStatistics:
    """Private values of the steps just taken; they stay in the market's own log.

    Attributes:
        loss: mean loss per sampled example.
        clipped_fraction: share of sampled examples whose gradient was clipped.
        signal_to_noise: norm of the summed clipped gradients over the norm of the noise, root mean square.
    """

    loss: float
    clipped_fraction: float
    signal_to_noise: float


class DPSGDTrainer:
    """Takes noised steps on a model; wraps it with Opacus once.

    ``loss`` maps (model, batch ``(n, …)``) to per-example losses ``(n,)``; the loss of one example must depend
    on that example alone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: PerExampleLoss,
        choices: DPSGD,
        n_examples: int,
        noise: NoiseSource,
    ) -> None:
        self.choices = choices
        self._noise = noise
        self._loss = loss
        self._wrapped = GradSampleModule(model, loss_reduction="sum")
        self._optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=choices.noise_multiplier,
            max_grad_norm=choices.clipping_norm,
            # "mean" divides by this public constant, whatever the batch drawn
            expected_batch_size=max(1, round(choices.sampling_rate * n_examples)),
            loss_reduction="mean",
            generator=noise.generator,
        )

    def steps(self, examples: Tensor, count: int) -> StepStatistics:
        """Take ``count`` steps on Poisson samples of ``examples``."""
        losses, clipped, seen, signal, noise = 0.0, 0, 0, 0.0, 0.0
        for _ in range(count):
            chosen = torch.rand(len(examples), generator=self._noise.generator) < self.choices.sampling_rate
            batch = examples[chosen]
            self._optimizer.zero_grad()
            if len(batch):
                per_example = self._loss(self._wrapped, batch)
                per_example.sum().backward()
                losses += float(per_example.detach().sum())
                norms = torch.stack([_sample_norms(p) for p in self._wrapped.parameters()]).norm(dim=0)
                clipped += int((norms > self.choices.clipping_norm).sum())
                seen += len(batch)
            else:  # an empty sample still adds its noise
                for parameter in self._wrapped.parameters():
                    parameter.grad_sample = torch.zeros(1, *parameter.shape)
            self._optimizer.step()
            for parameter in self._wrapped.parameters():
                summed = float(parameter.summed_grad.square().sum())
                signal += summed
                noise += parameter.numel() * (self.choices.noise_multiplier * self.choices.clipping_norm) ** 2
        ratio = (signal / noise) ** 0.5 if noise else float("inf")
        return StepStatistics(losses / max(seen, 1), clipped / max(seen, 1), ratio)


def _sample_norms(parameter: nn.Parameter) -> Tensor:
    gradient: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
    return torch.as_tensor(gradient.flatten(1).norm(dim=1))
