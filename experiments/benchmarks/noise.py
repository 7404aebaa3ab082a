"""Exact draws against PyTorch's generator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from fedmm_secure.randomness import torch_generator
from privacy.mechanisms.discrete_gaussian import MOST_LEVELS
from privacy.mechanisms.randomness import NoiseSource

TORCH = "torch.randn, double precision"


@dataclass(frozen=True)
class NoiseCost:
    """What noise costs on one core.

    Attributes:
        way: how.
        seconds: of all draws.
        rate: millions of draws a second.
        slower: seconds over those of the first way, paired by repetition.
    """

    way: str
    seconds: Estimate
    rate: Estimate
    slower: Estimate


def measure_noise(draws: int, repetitions: int) -> list[NoiseCost]:
    """All ways in each repetition, on one thread; the first repetition warms up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = _ways_to_draw(draws)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repetition in track("repetitions", range(-1, repetitions)):
            for way, run in ways.items():
                start = time.process_time()
                run()
                if repetition >= 0:
                    seconds[way].append(time.process_time() - start)
    finally:
        torch.set_num_threads(before)
    taken = {way: np.array(values) for way, values in seconds.items()}
    return [
        NoiseCost(way, mean_estimate(own), mean_estimate(draws / 1e6 / own), mean_estimate(own / taken[TORCH]))
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
