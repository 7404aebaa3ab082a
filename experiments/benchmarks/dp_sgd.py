"""A DP-SGD step of the RQ-VAE beside an ordinary one, and beside the ways of others."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from fedmm_secure.config.choices import DeviceName
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.devices import deterministic, devices_here
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from fedmm_secure.randomness import torch_generator
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.randomness import LEVELS, NoiseSource

ON_GPU = ", on the GPU"
ORDINARY, PASSES = "no privacy", "two ordinary passes: the least that clipping takes"
OURS, NO_NOISE = "exact integers and exact noise", "exact integers, no noise"
HOOKS, GHOST, FUNCTIONAL = "Opacus, hooks", "Opacus, ghost clipping", "torch.func"
RATE = 0.2  # of Poisson samples
SHAPE = QuantizerShape(input_dim=8, global_codes=32, local_codes=32)  # of the shipped configurations
STEPS = 4  # of each way in a repetition
_Step = Callable[[], None]


@dataclass(frozen=True)
class StepCost:
    """What one step costs on one core, or on the GPU that is there.

    Attributes:
        what: how, and where if not on a core.
        ratio: seconds over those of a step without privacy, in the same repetition.
        low: of its interval.
        high: likewise.
        seconds: of a step.
    """

    what: str
    ratio: float
    low: float
    high: float
    seconds: Estimate


def measure_steps(batch: int, repetitions: int) -> list[StepCost]:
    """All ways in each repetition, on one thread; the first repetition warms up.

    Every way draws its own Poisson sample of ``batch`` rows on average, but the ordinary step, which takes as many.
    Seconds are processor time; where there is a GPU, of the clock, for a processor that waits for one spends none.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Opacus' hooks
            taken = _measured(_ways(batch), repetitions)
    finally:
        torch.set_num_threads(before)
    found = []
    for way, own in taken.items():
        ratio = mean_estimate(own / taken[ORDINARY])
        found.append(StepCost(way, ratio.value, ratio.low, ratio.high, mean_estimate(own)))
    return found


def _measured(ways: Mapping[str, _Step], repetitions: int) -> dict[str, FloatArray]:
    """Seconds of a step ``(repetitions,)``, by way."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in track("repetitions", range(-1, repetitions)):
        for way, step in ways.items():
            start = _now()
            for _ in range(STEPS):
                step()
            if repetition >= 0:
                seconds[way].append((_now() - start) / STEPS)
    return {way: np.array(values) for way, values in seconds.items()}


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _ways(batch: int) -> Mapping[str, _Step]:
    generator = torch_generator("bench-rows")
    rows = nn.functional.normalize(torch.randn(round(batch / RATE), SHAPE.input_dim, generator=generator), dim=1)
    choices = DPSGD(1.0, 1.0, RATE)
    found = {
        ORDINARY: _ordinary(rows, batch, passes=1),
        PASSES: _ordinary(rows, batch, passes=2),
        NO_NOISE: _ours(rows, choices, _Silence.from_entropy()),
        OURS: _ours(rows, choices, NoiseSource.from_entropy()),
        GHOST: _ghost(rows, choices),
        HOOKS: _hooks(rows, choices),
        FUNCTIONAL: _functional(rows, choices),
    }
    if "cuda" in devices_here():
        found[ORDINARY + ON_GPU] = _ordinary(rows, batch, passes=1, device="cuda")
        found[NO_NOISE + ON_GPU] = _ours(rows, choices, _Silence.from_entropy(), "cuda")
        found[OURS + ON_GPU] = _ours(rows, choices, NoiseSource.from_entropy(), "cuda")
    return found


class _Silence(NoiseSource):
    """No noise: what is left is the cost of clipping. Nothing but this measurement may use it."""

    def discrete_gaussian(self, count: int, *, levels: int = LEVELS) -> IntArray:
        return np.zeros(count, dtype=np.int64)

    def derive(self, *purpose: str | int) -> NoiseSource:
        return type(self)(bytes(32), seeded=True)


def _model() -> RQVAE:
    return RQVAE(SHAPE, torch_generator("bench-model"))


def _losses(model: Callable[..., object], rows: Tensor) -> Tensor:
    weights = LossWeights()
    return model(rows, weights.soft_temperature).total(weights)  # type: ignore[attr-defined, no-any-return]


def _ordinary(rows: Tensor, batch: int, *, passes: int, device: DeviceName = "cpu") -> _Step:
    model, generator = _model().to(device), torch_generator("bench-ordinary")
    optimizer, rows = torch.optim.Adam(model.parameters()), rows.to(device)

    def step() -> None:
        with deterministic(rows.device):
            chosen = rows[torch.randperm(len(rows), generator=generator)[:batch]]
            for _ in range(passes):
                optimizer.zero_grad()
                _losses(model, chosen).mean().backward()
            optimizer.step()

    return step


def _ours(rows: Tensor, choices: DPSGD, source: NoiseSource, device: DeviceName = "cpu") -> _Step:
    settings = TrainingSettings(device=device)
    trainer = QuantizerTrainer(_model(), rows, rows[:0], settings, PrivateSettings(choices, 1))

    def step() -> None:
        trainer.private_steps(1, source)

    return step


def _sampled(rows: Tensor, choices: DPSGD, generator: torch.Generator) -> Tensor:
    return rows[torch.rand(len(rows), generator=generator) < choices.sampling_rate]


def _noised(
    kind: type[DPOptimizer], wrapped: nn.Module, rows: Tensor, choices: DPSGD, generator: torch.Generator
) -> DPOptimizer:
    """One of Opacus' optimizers, with the same clipping and noise."""
    return kind(
        torch.optim.Adam(wrapped.parameters()),
        noise_multiplier=choices.noise_multiplier,
        max_grad_norm=choices.clipping_norm,
        expected_batch_size=choices.expected_batch(len(rows)),
        loss_reduction="mean",
        generator=generator,
    )


def _hooks(rows: Tensor, choices: DPSGD) -> _Step:
    generator, wrapped = torch_generator("bench-opacus"), GradSampleModule(_model(), loss_reduction="sum")
    optimizer = _noised(DPOptimizer, wrapped, rows, choices, generator)

    def step() -> None:
        optimizer.zero_grad()
        _losses(wrapped, _sampled(rows, choices, generator)).sum().backward()
        optimizer.step()

    return step


def _ghost(rows: Tensor, choices: DPSGD) -> _Step:
    generator = torch_generator("bench-ghost")
    wrapped = GradSampleModuleFastGradientClipping(
        _model(), loss_reduction="sum", max_grad_norm=choices.clipping_norm, use_ghost_clipping=True
    )
    optimizer = _noised(DPOptimizerFastGradientClipping, wrapped, rows, choices, generator)

    def step() -> None:
        losses = _losses(wrapped, _sampled(rows, choices, generator))
        DPTensorFastGradientClipping(wrapped, optimizer, losses, loss_reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _functional(rows: Tensor, choices: DPSGD) -> _Step:
    model, generator = _model(), torch_generator("bench-functional")
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.Adam(parameters.values())

    def one(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return _losses(lambda *inputs: functional_call(model, values, inputs), row[None])[0]

    differentiate = vmap(grad(one), in_dims=(None, 0))

    def step() -> None:
        detached = {name: parameter.detach() for name, parameter in parameters.items()}
        found = differentiate(detached, _sampled(rows, choices, generator))
        norms = torch.stack([part.flatten(1).norm(dim=1) for part in found.values()]).norm(dim=0)
        factor = (choices.clipping_norm / norms).clamp(max=1.0)
        deviation = choices.noise_multiplier * choices.clipping_norm
        for name, parameter in parameters.items():
            total = torch.tensordot(factor, found[name], dims=1)
            noise = deviation * torch.randn(total.shape, generator=generator)
            parameter.grad = (total + noise) / choices.expected_batch(len(rows))
        optimizer.step()

    return step
