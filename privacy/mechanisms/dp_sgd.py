"""DP-SGD (Abadi et al., CCS 2016) with Opacus' optimizer, one example = one privacy unit.

Poisson sampling, per-example clipping over all parameters together, Gaussian noise on all of them, division
by the *expected* batch size: the realised one is itself private.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from dp_accounting.dp_event import DpEvent
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from privacy.accounting.events import dp_sgd_event
from privacy.mechanisms.noise import NoiseSource

# Opacus' hooks warn where a module's inputs are data and need no gradient themselves; per-example gradients of the
# parameters are complete all the same (a test compares them with single backward passes)
warnings.filterwarnings("ignore", message=".*[Ff]ull backward hook is firing.*", category=UserWarning)

Clipping = Literal["flat", "automatic"]
Batch = tuple[Tensor, ...]
BatchLoss = Callable[[nn.Module, Tensor], Tensor]
ExampleLoss = Callable[[Callable[..., Tensor], Batch], Tensor]
MAX_PHYSICAL_BATCH = 512
AUTOMATIC_STABILITY = 0.01  # of the clipping norm


@dataclass(frozen=True)
class DPSGD:
    """Choices of a DP-SGD stage.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: largest L2 norm that one example's gradient keeps.
        sampling_rate: probability with which each example enters a batch.
        clipping: ``flat`` scales down what exceeds the norm; ``automatic`` scales every gradient to about the norm
            (Bu, Wang, Zha, Karypis, "Automatic clipping", NeurIPS 2023). Sensitivity is the norm either way.
        max_physical_batch: examples whose gradients are held in memory at a time; changes no result.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float
    clipping: Clipping = "flat"
    max_physical_batch: int = MAX_PHYSICAL_BATCH

    def event(self, steps: int) -> DpEvent:
        """What ``steps`` steps release."""
        return dp_sgd_event(self.noise_multiplier, self.sampling_rate, steps)


@dataclass(frozen=True)
class StepStatistics:
    """Private values of the steps just taken; they stay in the market's own log.

    Attributes:
        loss: mean loss per sampled example.
        clipped_fraction: share of sampled examples whose gradient exceeded the clipping norm.
        signal_to_noise: norm of the summed clipped gradients over the norm of the noise, root mean square.
    """

    loss: float
    clipped_fraction: float
    signal_to_noise: float


class PerExampleGradients(Protocol):
    """Sets ``grad_sample`` of every parameter ``(n, *shape)`` for a batch; returns losses ``(n,)``."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    def __call__(self, batch: Batch, /) -> Tensor: ...


class HookGradients:
    """Through Opacus' hooks: fast, for modules whose layers have a gradient sampler.

    ``loss`` maps (model, examples ``(n, …)``) to losses ``(n,)``; the loss of one example must depend on that
    example alone.
    """

    def __init__(self, model: nn.Module, loss: BatchLoss) -> None:
        self._wrapped = GradSampleModule(model, loss_reduction="sum")
        self._loss = loss
        self.parameters: Sequence[nn.Parameter] = list(self._wrapped.parameters())
        self._wrapped.disable_hooks()

    def __call__(self, batch: Batch) -> Tensor:
        self._wrapped.enable_hooks()
        try:
            return self._backward(batch)
        finally:  # ordinary steps on rows that cost no budget need no gradients of single examples
            self._wrapped.disable_hooks()

    def _backward(self, batch: Batch) -> Tensor:
        losses = self._loss(self._wrapped, batch[0])
        losses.sum().backward()
        return losses.detach()


class FunctionalGradients:
    """Through ``torch.func``: for any module, and for examples that are bags of rows.

    ``loss`` maps (forward, one example) to a scalar, where ``forward`` is the model with its parameters bound.
    """

    def __init__(self, model: nn.Module, loss: ExampleLoss) -> None:
        self._named = dict(model.named_parameters())
        self.parameters: Sequence[nn.Parameter] = list(self._named.values())

        def one(parameters: Mapping[str, Tensor], *example: Tensor) -> Tensor:
            return loss(lambda *inputs: functional_call(model, dict(parameters), inputs), example)

        self._differentiate = grad_and_value(one)

    def __call__(self, batch: Batch) -> Tensor:
        axes = (None, *(0 for _ in batch))
        detached = {name: parameter.detach() for name, parameter in self._named.items()}
        gradients, losses = vmap(self._differentiate, in_dims=axes)(detached, *batch)
        for name, parameter in self._named.items():
            parameter.grad_sample = gradients[name].detach()  # type: ignore[attr-defined]
        return torch.as_tensor(losses)


class DPSGDTrainer:
    """Takes noised steps on a model.

    Args:
        gradients: how per-example gradients are computed.
        optimizer: what turns noised gradients into steps; post-processing.
        choices: clipping, noise and sampling.
        n_examples: number of privacy units, a public constant.
        noise: generator of noise and of Poisson samples.
        noise_share: by parameter, the part of the noise's standard deviation that is added here; the rest is added
            by others before anybody observes the sum. Parameters without an entry get all of it.
    """

    def __init__(
        self,
        gradients: PerExampleGradients,
        optimizer: torch.optim.Optimizer,
        choices: DPSGD,
        n_examples: int,
        noise: NoiseSource,
        noise_share: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self.choices = choices
        self._gradients, self._noise = gradients, noise
        self._optimizer = _SharedNoiseOptimizer(
            optimizer,
            noise_multiplier=choices.noise_multiplier,
            max_grad_norm=choices.clipping_norm,
            # "mean" divides by this public constant, whatever the batch drawn
            expected_batch_size=max(1, round(choices.sampling_rate * n_examples)),
            loss_reduction="mean",
            generator=noise.generator,
        )
        self._optimizer.noise_share = dict(noise_share or {})

    def steps(self, examples: Tensor | Batch, count: int, after: Callable[[], None] | None = None) -> StepStatistics:
        """Take ``count`` steps on Poisson samples of ``examples (n_examples, …)``; ``after`` follows each step."""
        parts = examples if isinstance(examples, tuple) else (examples,)
        losses, clipped, seen, signal, noise = 0.0, 0, 0, 0.0, 0.0
        for _ in range(count):
            chosen = self._sample(len(parts[0]))
            found, over, size = self._accumulate(tuple(part[chosen] for part in parts))
            losses, clipped, seen = losses + found, clipped + over, seen + size
            self._optimizer.step()
            for parameter in self._gradients.parameters:
                signal += float(parameter.summed_grad.square().sum())  # type: ignore[attr-defined]
                scale = self._optimizer.noise_share.get(parameter, 1.0)
                noise += parameter.numel() * (scale * self.choices.noise_multiplier * self.choices.clipping_norm) ** 2
            if after is not None:
                after()
            self._optimizer.zero_grad()
        ratio = (signal / noise) ** 0.5 if noise else float("inf")
        return StepStatistics(losses / max(seen, 1), clipped / max(seen, 1), ratio)

    def _sample(self, n_examples: int) -> Tensor:
        """A Poisson sample: each example by itself, drawn anew for every step."""
        return torch.rand(n_examples, generator=self._noise.generator) < self.choices.sampling_rate

    def _accumulate(self, batch: Batch) -> tuple[float, int, int]:
        """Clip and sum a batch, a physical part at a time; the last part is left for the step that adds noise."""
        size = len(batch[0])
        losses, over = 0.0, 0
        self._optimizer.zero_grad()
        starts = range(0, size, self.choices.max_physical_batch)
        for start in starts:
            part = tuple(tensor[start : start + self.choices.max_physical_batch] for tensor in batch)
            losses += float(self._gradients(part).sum())
            over += self._bound()
            if start != starts[-1]:
                self._optimizer.signal_skip_step(do_skip=True)
                self._optimizer.step()
                self._optimizer.zero_grad()
        if not size:  # an empty sample still adds its noise
            for parameter in self._gradients.parameters:
                parameter.grad_sample = torch.zeros(1, *parameter.shape)  # type: ignore[attr-defined]
        self._optimizer.signal_skip_step(do_skip=False)
        return losses, over, size

    def _bound(self) -> int:
        """How many gradients exceed the norm; under automatic clipping all are scaled to about the norm first."""
        parameters = self._gradients.parameters
        norms = torch.stack([_sample_norms(parameter) for parameter in parameters]).norm(dim=0)
        norm = self.choices.clipping_norm
        if self.choices.clipping == "automatic":
            factor = norm / (norms + AUTOMATIC_STABILITY * norm)
            for parameter in parameters:
                samples: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
                parameter.grad_sample = torch.einsum("i,i...->i...", factor, samples)  # type: ignore[attr-defined]
        return int((norms > norm).sum())


class _SharedNoiseOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with less noise where others add the rest; equal to it without shares."""

    noise_share: dict[nn.Parameter, float]

    def add_noise(self) -> None:
        if not self.noise_share:
            super().add_noise()
            return
        for parameter in self.params:
            scale = self.noise_share.get(parameter, 1.0) * self.noise_multiplier * self.max_grad_norm
            summed = parameter.summed_grad
            drawn = torch.randn(summed.shape, generator=self.generator, dtype=summed.dtype)
            parameter.grad = (summed + scale * drawn).view_as(parameter)


def _sample_norms(parameter: nn.Parameter) -> Tensor:
    gradient: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
    return torch.as_tensor(gradient.flatten(1).norm(dim=1))
