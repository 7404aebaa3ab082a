"""What the shared key of a federation is made for: the aggregation, planned before its markets meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.parties import market_sizes
from privacy.aggregation.bundle import Bundle
from privacy.aggregation.parameters import MAX_MODULUS_BITS


def plan_of(settings: Config, markets: Sequence[str], sizes: Mapping[str, tuple[int, int]]) -> AggregationPlan:
    """The aggregation of a new federation; ``sizes`` are the public ones that are known, ``(users, items)``."""
    return AggregationPlan.of(settings, market_sizes(settings, markets, {}, sizes))


def plan_for(
    bundle: Bundle, left: Sequence[str], sizes: Mapping[str, tuple[int, int]], config: Config | None
) -> AggregationPlan:
    """The same aggregation for the markets that are left, or have come, with their public sizes.

    Raises:
        ConfigError: it is planned by members or sizes, these are others than the bundle's, and nothing says how.
    """
    plan = AggregationPlan.from_public(bundle.aggregation)
    if sorted(left) == sorted(bundle.markets) and dict(sizes) == dict(bundle.sizes):
        return plan
    if plan.sum_bound is None and not plan.wide:
        return replace(plan, cohort=len(left))
    if config is None:
        what = "sums over all markets are planned" if plan.wide else "distributed noise is sized"
        raise ConfigError(f"{what} for the markets that take part, by their sizes; give --config CONFIG")
    return plan_of(config, left, sizes)


def explanation(plan: AggregationPlan) -> dict[str, Any]:
    """The numbers behind a plan, for readers and for machines."""
    found: dict[str, Any] = {
        "values": plan.length,
        "tag_values": plan.tag_values,
        "markets": plan.cohort,
        "largest_value": plan.value_bound,
    }
    server = plan.server()
    parameters = plan.parameters
    if parameters is not None:
        found |= {
            "mask_modulus_bits": plan.mask_bits if plan.masked else None,
            "ring_degree": parameters.degree,
            "modulus_bits": parameters.prime_bits,
            "modulus_bits_at_most": MAX_MODULUS_BITS[parameters.degree],
            "scale_bits": parameters.scale_bits,
            "values_per_coefficient": parameters.values_per_coefficient,
            "ciphertexts": len(parameters.chunk_lengths()),
            "largest_sum_bits": math.log2(parameters.packed_bound),
            "noise_standard_deviation": parameters.noise_std,
            "transform_error": parameters.transform_error,
            "worst_error": parameters.worst_error,
            "margin_bits": parameters.margin_bits,
            "security_bits": 128,
        }
    return found | {
        "update_bytes": server.update_bytes,
        "update_bytes_per_value": server.update_bytes / plan.length,
        "aggregate_bytes": server.aggregate_bytes,
        "aggregate_bytes_per_value": server.aggregate_bytes / plan.length,
    }
