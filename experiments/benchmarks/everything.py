"""The measurements that need no data of anybody's, in one table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks.metrics import Estimate
from experiments.benchmarks.aggregation import codebook_length, measure_aggregation
from experiments.benchmarks.dp_sgd import measure_steps
from experiments.benchmarks.noise import measure_noise
from experiments.benchmarks.scoring import measure_scoring
from fedmm_secure.config import Config

DRAWS, BATCH = 1_000_000, 1024


@dataclass(frozen=True)
class Row:
    """One ratio of a benchmark.

    Attributes:
        bench: which.
        what: the way that was measured.
        ratio: its seconds over those of the benchmark's first way, paired by repetition.
        low: of its 95 % interval.
        high: likewise.
    """

    bench: str
    what: str
    ratio: float
    low: float
    high: float


def measure_everything(config: Config, repetitions: int) -> list[Row]:
    """Noise, a DP-SGD step, scoring, and sums of codebooks as the configuration has them."""
    codec, cohort = config.aggregation, config.data.n_markets
    rows = [_row("noise", cost.way, cost.slower) for cost in measure_noise(DRAWS, repetitions)]
    rows += [Row("dp-sgd", cost.what, cost.ratio, cost.low, cost.high) for cost in measure_steps(BATCH, repetitions)]
    rows += [_row("scoring", cost.way, cost.slower) for cost in measure_scoring(repetitions)]
    sums = measure_aggregation(codec.clip, codec.bits, codebook_length(config), cohort, repetitions)
    return rows + [_row("aggregation", cost.way, _inverse(cost.speed_up)) for cost in sums]


def _row(bench: str, what: str, ratio: Estimate) -> Row:
    return Row(bench, what, ratio.value, ratio.low, ratio.high)


def _inverse(faster: Estimate) -> Estimate:
    """Of an interval that holds 0, which few repetitions may give, nothing bounds the inverse from above."""
    high = 1.0 / faster.low if faster.low > 0.0 else math.inf
    return Estimate(1.0 / faster.value, 1.0 / faster.high, high)
