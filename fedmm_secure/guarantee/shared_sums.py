"""Sums over a shared catalogue: how many values travel, in which units, and what noise a sum carries.

Two stages, one vector each: for every item of the catalogue its number of rows and the sum of their times, then, over
the items with the largest summed counts, the upper triangle of the Gram matrix of users' rows. All of it follows from
the configuration and from public sizes. Without DP the sums are exact. With it, each market adds a *part* of discrete
Gaussian noise to its integers before they are encrypted (``guarantee.shared_noise`` has the argument for parts in one
unit): the sum of all carries what the most sensitive market needs, after colluders have subtracted their parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedmm_secure.collaborative.shared import COLUMNS
from fedmm_secure.config import Config
from fedmm_secure.guarantee.multipliers import MarketSize, noise_of_sums, require_sizes
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM
from privacy.mechanisms.discrete_gaussian import most_drawn
from privacy.mechanisms.randomness import LEVELS
from privacy.mechanisms.shared_parts import norm_of

MOST_DAYS = 2**17  # an exact time is a day within ± this of 1970: three and a half centuries


@dataclass(frozen=True)
class SummedStage:
    """One vector that every market contributes to.

    Attributes:
        stage: its name.
        length: values of it.
        user_bound: largest absolute value that one user adds.
        noise_multiplier: that the sum carries, over a user's largest contribution; None without DP.
        honest_parts: markets whose noise is in the sum after colluders have subtracted theirs.
    """

    stage: str
    length: int
    user_bound: int
    noise_multiplier: float | None = None
    honest_parts: int = 1

    @property
    def multiplier(self) -> float:
        """``noise_multiplier`` where there is one; 0 without DP."""
        return self.noise_multiplier or 0.0

    @property
    def norm(self) -> float:
        """Integer units of a user's largest contribution, in the Euclidean norm, at which the noise is what it is."""
        if self.noise_multiplier is None:
            raise ValueError(f"{self.stage}: exact sums have no unit of sensitivity")
        return norm_of(self.noise_multiplier, self.honest_parts)


@dataclass(frozen=True)
class SharedSums:
    """The stages of a federation with a shared catalogue, in order."""

    stages: tuple[SummedStage, ...]
    users: int
    largest_market: int
    n_markets: int

    def __getitem__(self, stage: str) -> SummedStage:
        return next(found for found in self.stages if found.stage == stage)

    @property
    def lengths(self) -> dict[str, int]:
        """Values of each stage's vector."""
        return {found.stage: found.length for found in self.stages}

    @property
    def private(self) -> bool:
        """Whether the sums carry noise."""
        return any(found.noise_multiplier is not None for found in self.stages)

    @property
    def value_bound(self) -> int:
        """Largest absolute value of one market's integers, without noise."""
        return max(self.largest_market * found.user_bound for found in self.stages)

    @property
    def sum_bound(self) -> int:
        """Largest absolute value of a sum, noise included."""
        return max(self.bound_of(found.stage) for found in self.stages)

    def bound_of(self, stage: str) -> int:
        """The same of one stage: no number of users, and no draw, comes to more."""
        drawn = self.n_markets * most_drawn(LEVELS) if self.private else 0
        return self.users * self[stage].user_bound + drawn


def gram_items(config: Config) -> int:
    """Items whose co-occurrence is summed: those of largest summed count."""
    return min(config.embedding.shared_items, config.data.shared_size)


def sum_lengths(config: Config) -> dict[str, int]:
    """Values of each summed stage."""
    n = gram_items(config)
    return {SHARED_COUNTS: COLUMNS * config.data.shared_size, SHARED_GRAM: n * (n + 1) // 2}


def shared_sums(
    config: Config, sizes: Mapping[str, MarketSize], at_least: Mapping[str, float] | None = None
) -> SharedSums | None:
    """The sums of a federation; None where ids of markets have nothing to do with each other.

    Args:
        config: the configuration.
        sizes: public sizes of all markets.
        at_least: by stage, a noise multiplier that the sum must have all the same.

    Raises:
        ConfigError: the size of a market is not known.
    """
    if not config.data.shared_items:
        return None
    require_sizes(sizes, "data.shared_items")
    users, lengths = [size.users for size in sizes.values()], sum_lengths(config)
    bounds, noise, honest = {SHARED_COUNTS: MOST_DAYS, SHARED_GRAM: 1}, dict[str, float](), 1
    if config.privacy.epsilon is not None:
        honest = len(sizes) - config.privacy.colluding_markets
        needed = noise_of_sums(config, sizes)
        noise = {stage: max(needed[stage], (at_least or needed)[stage]) for stage in lengths}
        bounds = {stage: math.ceil(norm_of(noise[stage], honest)) for stage in lengths}
    stages = tuple(
        SummedStage(stage, length, bounds[stage], noise.get(stage), honest) for stage, length in lengths.items()
    )
    return SharedSums(stages, sum(users), max(users), len(sizes))
