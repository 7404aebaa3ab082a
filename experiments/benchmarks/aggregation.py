"""Speed and size of adding vectors under encryption, side by side in one run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal as ts
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attacks.metrics import Estimate, mean_estimate
from experiments.presentation.steps import track
from fedmm_secure.config import Config
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.randomness import numpy_generator
from privacy.aggregation import Binding, FixedPointCodec, PairwiseMasks
from privacy.aggregation.base import IntVector

BASELINE = "TenSEAL, 8192 [60, 40, 40] 2^40"
MILLISECONDS = 1e3


@dataclass(frozen=True)
class Way:
    """One way to add vectors: what each market does, what the server does, what each market does then."""

    protect: Callable[[str, IntVector, Binding], bytes]
    aggregate: Callable[[Sequence[bytes]], bytes]
    reveal: Callable[[bytes, Binding], Any]


@dataclass(frozen=True)
class AggregationCost:
    """What adding one vector of every market costs.

    Attributes:
        way: how.
        protect: milliseconds of one market, encoding and encryption.
        aggregate: milliseconds of the server.
        reveal: milliseconds of one market, decryption and decoding.
        total: milliseconds end to end: a market, the server, a market again; markets work at the same time.
        speed_up: total of the baseline over this one's, paired by repetition.
        speed_up_of_all: the same for the time of all machines added up.
        up: bytes a value that one market sends.
        down: bytes a value that one market receives.
        least: bytes a value that no code goes below: the values are uniform, as masked ones are for whoever reads them.
        smaller: bytes of the baseline over this one's, up and down together.
        largest_error: of a revealed sum, in units of the integers.
    """

    way: str
    protect: Estimate
    aggregate: Estimate
    reveal: Estimate
    total: Estimate
    speed_up: Estimate
    speed_up_of_all: Estimate
    up: float
    down: float
    least: float
    smaller: float
    largest_error: float


def codebook_length(settings: Config) -> int:
    """Numbers in the global codebook of a configuration."""
    return int(settings.quantizer.global_codes * settings.quantizer.latent_dim)


def measure_aggregation(clip: float, bits: int, length: int, cohort: int, repeat: int) -> list[AggregationCost]:
    """Costs of the baseline, ``ckks`` and ``masked-ckks``, interleaved."""
    names = tuple(f"m{number:03d}" for number in range(cohort))
    ways = {BASELINE: _baseline(length)}
    for kind in ("ckks", "masked-ckks"):
        ways[kind] = _ours(AggregationPlan(kind, length, cohort, FixedPointCodec(clip, bits)), names)
    rng, limit = numpy_generator("bench-aggregation"), 2**bits
    times: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    sizes: dict[str, tuple[int, int]] = {}
    errors = dict.fromkeys(ways, 0.0)
    for round in track("repetitions", range(-1, repeat)):  # the first one warms up
        values = {name: rng.integers(-limit, limit, length, endpoint=True) for name in names}
        total = np.sum(list(values.values()), axis=0)
        for name, way in ways.items():
            binding = Binding("bench", "quantizer/0", round + 1, 0, names)
            start = time.perf_counter()
            updates = [way.protect(market, values[market], binding) for market in names]
            protected = time.perf_counter()
            aggregate = way.aggregate(updates)
            added = time.perf_counter()
            revealed = way.reveal(aggregate, binding)
            end = time.perf_counter()
            errors[name] = max(errors[name], float(np.abs(np.asarray(revealed) - total).max()))
            sizes[name] = len(updates[0]), len(aggregate)
            if round >= 0:
                times[name].append(((protected - start) / cohort, added - protected, end - added))
    least = math.log2(2 * limit + 1) / 8
    return [_cost(name, times, sizes, errors[name], cohort, length, least) for name in ways]


def _cost(
    way: str,
    times: dict[str, list[tuple[float, float, float]]],
    sizes: dict[str, tuple[int, int]],
    error: float,
    cohort: int,
    length: int,
    least: float,
) -> AggregationCost:
    parts = {name: np.array(found) * MILLISECONDS for name, found in times.items()}
    totals = {name: found.sum(axis=1) for name, found in parts.items()}
    work = {name: found @ np.array([cohort, 1.0, cohort]) for name, found in parts.items()}
    protect, aggregate, reveal = (mean_estimate(parts[way][:, column]) for column in range(3))
    up, down = sizes[way]
    return AggregationCost(
        way,
        protect,
        aggregate,
        reveal,
        mean_estimate(totals[way]),
        mean_estimate(totals[BASELINE] / totals[way]),
        mean_estimate(work[BASELINE] / work[way]),
        up / length,
        down / length,
        least,
        sum(sizes[BASELINE]) / (up + down),
        error,
    )


def _baseline(length: int) -> Way:
    """A plain TenSEAL vector as NVFlare's example has it: public-key encryption, floating point, no packing."""
    secret = ts.context(ts.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 40])
    secret.global_scale = 2.0**40
    public = ts.context_from(secret.serialize(save_secret_key=False))

    def protect(market: str, values: IntVector, binding: Binding) -> bytes:
        return bytes(ts.ckks_vector(public, values.astype(float).tolist()).serialize())

    def aggregate(updates: Sequence[bytes]) -> bytes:
        total = ts.ckks_vector_from(public, updates[0])
        for update in updates[1:]:
            total += ts.ckks_vector_from(public, update)
        return bytes(total.serialize())

    def reveal(aggregate: bytes, binding: Binding) -> list[float]:
        return list(ts.ckks_vector_from(secret, aggregate).decrypt())[:length]

    return Way(protect, aggregate, reveal)


def _ours(plan: AggregationPlan, names: Sequence[str]) -> Way:
    key, server = plan.generate_key(), plan.server()
    masks = {name: PairwiseMasks(name, X25519PrivateKey.generate()) for name in names}
    for name, own in masks.items():
        own.meet({other: masks[other].public for other in names if other != name})
    markets = {name: plan.market(key, masks[name]) for name in names}
    return Way(
        lambda market, values, binding: markets[market].protect(values, binding),
        server.aggregate,
        markets[names[0]].reveal,
    )
