"""Noise of the global codebook that only the cohort's sum carries, in one unit that all markets share.

Each market adds a *part*; what single updates show is never open (``masked-ckks``). All parts are drawn at one scale on
one grid, so they add up whatever the sizes of the markets are: sums of a large and of a small market's gradients are in
the same unit, and are divided, after the sum, by one public number. The part is sized for the *most sensitive* market:
the one whose own noise multiplier is largest. Colluding markets may subtract their parts; the rest still carries all
that the most sensitive market needs.

(Parts that each market divides by its own batch size do not add up: the part of a large market is nothing beside the
sensitivity of a small one, whose ε is then several times what is stated.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedmm_secure.config import Config
from fedmm_secure.guarantee.multipliers import MarketSize, market_noise, plan_noise, require_sizes
from fedmm_secure.guarantee.stages import QUANTIZER
from privacy.mechanisms.discrete_gaussian import most_drawn
from privacy.mechanisms.dp_sgd import SharedGroup
from privacy.mechanisms.randomness import LEVELS

_FELT_BITS = 64  # a sum leaves its range with probability 2^-64 a step: 2^-40 over 2^24 steps of all runs


@dataclass(frozen=True)
class SharedNoise:
    """Distributed noise on one parameter, the same for all markets.

    Attributes:
        step: grid unit of every market's gradient sum.
        honest_parts: markets whose parts are in a sum after colluders have subtracted theirs.
        noise_multiplier: of the most sensitive market; what ``honest_parts`` parts add up to.
        divisor: users expected in a step over all markets; public.
        bound: a sum stays within ± this, but for probability 2^-64 a step; beyond it wraps, which costs accuracy alone.
    """

    step: float
    honest_parts: int
    noise_multiplier: float
    divisor: int
    bound: int

    @property
    def unit(self) -> float:
        """What an integer of a sum is worth in the mean gradient of the users that a step expects."""
        return self.step / self.divisor


def shared_noise(config: Config, sizes: Mapping[str, MarketSize]) -> SharedNoise | None:
    """The shared noise of a federation; None where each update carries its own.

    It follows from what all markets know, so that all of them have one unit.

    Args:
        config: the configuration.
        sizes: public sizes of all markets.

    Raises:
        ConfigError: the size of a market is not known.
    """
    if not config.privacy.distributed_noise:
        return None
    require_sizes(sizes, "privacy.distributed_noise")
    quantizer = config.privacy.quantizer
    honest = len(sizes) - config.privacy.colluding_markets
    alone = [plan_noise(config, size.items, config.privacy.delta_for(size.users))[QUANTIZER] for size in sizes.values()]
    # beside sums over a shared catalogue a market's own multiplier is solved again, and may come out a little larger
    largest = max(*alone, *(market_noise(config, name, sizes)[QUANTIZER] for name in sizes))
    step = SharedGroup.step_for(largest, quantizer.clipping_norm, honest)
    users = sum(size.users for size in sizes.values())
    expected = quantizer.sampling_rate * users
    divisor = max(1, round(expected))
    of_one = math.ceil(quantizer.clipping_norm / step)  # a user's integers have at most this norm
    bound = of_one * _most_sampled(expected, users) + len(sizes) * most_drawn(LEVELS)
    return SharedNoise(step, honest, largest, divisor, bound)


def _most_sampled(expected: float, users: int) -> int:
    """More users enter a step with probability 2^-64 at most: Bernstein, ``exp(-t² / 2(expected + t/3))``."""
    log = _FELT_BITS * math.log(2.0)
    t = log / 3.0 + math.sqrt((log / 3.0) ** 2 + 2.0 * log * expected)
    return min(users, math.ceil(expected + t))
