"""How time and memory of a run grow with users, items, markets and codes."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from experiments.runs.configuration import resolve
from experiments.runs.execution import execute
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.memory import own_peak

SMALLEST = {"users": 1000, "items": 200, "markets": 3, "codes": 16}  # of each market; codes of a layer
_KEYS = {
    "users": ("data.synthetic.users",),
    "items": ("data.synthetic.items",),
    "markets": ("data.synthetic.markets",),
    "codes": ("quantizer.global_codes", "quantizer.local_codes"),
}


@dataclass(frozen=True)
class Point:
    """What a run of one size costs.

    Attributes:
        size: along the axis.
        seconds: processor time of the whole run, data included, without the start of the process.
        memory: the most bytes that the process had.
    """

    size: int
    seconds: Estimate
    memory: Estimate


@dataclass(frozen=True)
class Curve:
    """How cost grows along one axis, everything else the same.

    Attributes:
        what: the axis.
        ratio: exponent of seconds, least squares over the doublings, with its interval over repetitions.
        low: of the interval.
        high: likewise.
        last: exponent of seconds over the last doubling alone, where what does not grow weighs least.
        memory: exponent of memory, likewise over the last doubling.
        points: by size.
    """

    what: str
    ratio: float
    low: float
    high: float
    last: Estimate
    memory: Estimate
    points: tuple[Point, ...]


def measure_scale(
    name: str, overrides: Sequence[str], base: Mapping[str, int], axes: Sequence[str], doublings: int, repetitions: int
) -> list[Curve]:
    """Curves along some axes; every run in a process of its own, all sizes in each repetition.

    Args:
        name: a configuration on generated markets.
        overrides: of it.
        base: smallest size, by axis.
        axes: which of them are doubled.
        doublings: how often.
        repetitions: of every run but those that several axes share.

    Raises:
        ConfigError: the configuration is not of generated markets, or does not allow a size.
    """
    sizes = {axis: [base[axis] * 2**step for step in range(doublings + 1)] for axis in axes}
    wanted = {tuple({**base, axis: size}.items()) for axis in axes for size in sizes[axis]}
    configs = {point: _config(name, overrides, dict(point)) for point in sorted(wanted)}
    costs: dict[tuple[tuple[str, int], ...], list[tuple[float, int]]] = {point: [] for point in configs}
    for point in track("runs", list(configs) * repetitions):
        costs[point].append(_apart(configs[point]))
    return [_curve(axis, sizes[axis], [costs[tuple({**base, axis: n}.items())] for n in sizes[axis]]) for axis in axes]


def smallest(given: Sequence[str]) -> dict[str, int]:
    """Smallest size of each axis, some of them given as ``axis=size``.

    Raises:
        ConfigError: that is not what one of them is.
    """
    found = dict(SMALLEST)
    for text in given:
        axis, _, size = text.partition("=")
        if axis not in found or not (size.isascii() and size.isdigit()):
            raise ConfigError(f"--from {text}: a size of one of {', '.join(found)}, as in users=4000")
        found[axis] = int(size)
    return found


def _config(name: str, overrides: Sequence[str], sizes: Mapping[str, int]) -> Config:
    own = [f"{key}={size}" for axis, size in sizes.items() for key in _KEYS[axis]]
    config = resolve(name, [*overrides, *own, "workers=1"])
    if config.data.synthetic is None or config.data.markets:
        raise ConfigError(f"{name}: reads files, whose size is what it is; name one with data.synthetic")
    return config


def _apart(config: Config) -> tuple[float, int]:
    """Seconds and bytes of a run in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cost_of_run, config).result()


def cost_of_run(config: Config) -> tuple[float, int]:
    """Processor time of a run in this process, and the most memory that the process has had."""
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedmm-bench-") as folder:
        execute(Path(folder) / "run", config, resume=False)
    return time.process_time() - start, own_peak()


def _curve(axis: str, sizes: Sequence[int], costs: Sequence[Sequence[tuple[float, int]]]) -> Curve:
    found = np.array(costs, dtype=np.float64)  # (sizes, repetitions, 2)
    seconds, memory = found[:, :, 0], found[:, :, 1]
    whole = mean_estimate(exponents(sizes, seconds))
    points = tuple(
        Point(size, mean_estimate(own), mean_estimate(held))
        for size, own, held in zip(sizes, seconds, memory, strict=True)
    )
    last = [mean_estimate(exponents(sizes[-2:], values[-2:])) for values in (seconds, memory)]
    return Curve(axis, whole.value, whole.low, whole.high, last[0], last[1], points)


def exponents(sizes: Sequence[int], costs: np.ndarray) -> np.ndarray:
    """Of each repetition ``(n,)``, the least-squares slope of log cost ``(sizes, n)`` in log size."""
    at = np.log(np.asarray(sizes, dtype=np.float64))
    centred = at - at.mean()
    return np.asarray(centred @ np.log(costs) / (centred @ centred))
