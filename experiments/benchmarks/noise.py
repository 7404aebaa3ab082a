"""Exact draws against PyTorch's generator, and a DP-SGD step against Opacus' own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from fedmm_secure.randomness import torch_generator
from privacy.mechanisms.discrete_gaussian import MOST_LEVELS
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.randomness import NoiseSource

TORCH, OPACUS = "torch.randn, double precision", "Opacus, 32-bit seed, floating point"
OURS = "exact integers"
RATE = 0.2  # of Poisson samples
SHAPE = QuantizerShape(input_dim=8, global_codes=32, local_codes=32)  # of the shipped configurations


@dataclass(frozen=True)
class NoiseCost:
    """What noise costs on one core.

    Attributes:
        what: ``draws``, or ``step``: one DP-SGD step of the RQ-VAE.
        way: how.
        seconds: of all draws, or of one step.
        rate: millions of draws a second, or steps a second.
        slower: seconds over those of the first way, paired by repetition.
    """

    what: str
    way: str
    seconds: Estimate
    rate: Estimate
    slower: Estimate


def measure_noise(draws: int, batch: int, repetitions: int) -> list[NoiseCost]:
    """All ways in each repetition, on one thread; the first repetition warms up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sampling = _costs("draws", _ways_to_draw(draws), repetitions, draws / 1e6)
        return sampling + _costs("step", _ways_to_step(batch), repetitions, 1.0)
    finally:
        torch.set_num_threads(before)


def _costs(what: str, ways: Mapping[str, Callable[[], object]], repetitions: int, work: float) -> list[NoiseCost]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in track(f"repetitions, {what}", range(-1, repetitions)):
        for way, run in ways.items():
            start = time.process_time()
            run()
            if repetition >= 0:
                seconds[way].append(time.process_time() - start)
    taken = {way: np.array(values) for way, values in seconds.items()}
    first = next(iter(taken.values()))
    return [
        NoiseCost(what, way, mean_estimate(own), mean_estimate(work / own), mean_estimate(own / first))
        for way, own in taken.items()
    ]


def _ways_to_draw(draws: int) -> dict[str, Callable[[], object]]:
    noise, generator = NoiseSource.from_entropy(), torch_generator("bench-noise")
    ways: dict[str, Callable[[], object]] = {
        TORCH: lambda: torch.randn(draws, generator=generator, dtype=torch.float64)
    }
    for levels in range(1, MOST_LEVELS + 1):
        ways[f"discrete Gaussian, levels: {levels}"] = _drawer(noise, draws, levels)
    return ways


def _drawer(noise: NoiseSource, draws: int, levels: int) -> Callable[[], object]:
    return lambda: noise.discrete_gaussian(draws, levels=levels)


def _ways_to_step(batch: int) -> dict[str, Callable[[], object]]:
    rows = torch.nn.functional.normalize(
        torch.randn(round(batch / RATE), SHAPE.input_dim, generator=torch_generator("bench-rows")), dim=1
    )
    choices, source = DPSGD(1.0, 1.0, RATE), NoiseSource.from_entropy()
    model = RQVAE(SHAPE, torch_generator("bench-model"))
    trainer = QuantizerTrainer(model, rows, rows[:0], TrainingSettings(), PrivateSettings(choices, 1))
    return {OPACUS: _opacus(rows, choices), OURS: lambda: trainer.private_steps(1, source)}


def _opacus(rows: torch.Tensor, choices: DPSGD) -> Callable[[], object]:
    generator, weights = torch_generator("bench-opacus"), LossWeights()
    wrapped = GradSampleModule(RQVAE(SHAPE, torch_generator("bench-model")), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.Adam(wrapped.parameters()),
        noise_multiplier=choices.noise_multiplier,
        max_grad_norm=choices.clipping_norm,
        expected_batch_size=choices.expected_batch(len(rows)),
        loss_reduction="mean",
        generator=generator,
    )

    def step() -> None:
        chosen = torch.rand(len(rows), generator=generator) < choices.sampling_rate
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped(rows[chosen], weights.soft_temperature).total(weights).sum().backward()
        optimizer.step()

    return step
