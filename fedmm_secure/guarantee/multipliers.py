"""From a budget to noise multipliers: the stages that spend, and how ε is split over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.own_stages import OWN_STAGES
from fedmm_secure.guarantee.stages import (
    CATALOGUE,
    COUNTS,
    CTR,
    EMBEDDING,
    QUANTIZER,
    SHARED_COUNTS,
    SHARED_GRAM,
    SUMMED,
)
from privacy.accounting.budget import PlannedStage, plan_noise_multipliers

# Of ε and δ, kept back from the noise's continuous law: what the discrete law and the sampler cost (see
# privacy.accounting.exactness) has to fit in here, and the door checks that it does.
RESERVE = 1e-3


@dataclass(frozen=True)
class MarketSize:
    """Public numbers of a market.

    Attributes:
        users: stated by the market, and signed.
        items: of its catalogue.
    """

    users: int
    items: int


UNKNOWN = MarketSize(0, 0)  # of a market elsewhere, whose size nothing depends on


def require_sizes(sizes: Mapping[str, MarketSize], key: str) -> None:
    """Refuse what ``key`` of the configuration asks for where the size of a market is not known.

    Raises:
        ConfigError: names the first such market.
    """
    missing = [name for name, size in sizes.items() if size.users < 1]
    if missing:
        raise ConfigError(f"{key}: the size of market {missing[0]} is missing in the federation's bundle")


def planned_stages(config: Config, n_items: int) -> list[PlannedStage]:
    """The stages of a run that spend budget, with their mechanisms over all repetitions; none without DP."""
    privacy, repetitions = config.privacy, len(config.seed)
    if privacy.epsilon is None:
        return []
    shares, stages = privacy.shares, []
    if privacy.catalogue == "discovered":
        stages.append(PlannedStage(CATALOGUE, shares.catalogue))
    if config.private_embedding:
        private = config.embedding.private
        iterations = 1 if private.uses_gram(n_items) else private.iterations
        stages.append(PlannedStage(COUNTS, shares.counts))
        if not config.data.shared_items:
            stages.append(PlannedStage(EMBEDDING, shares.embedding, iterations))
    if config.data.shared_items:
        stages += [PlannedStage(SHARED_COUNTS, shares.shared_counts), PlannedStage(SHARED_GRAM, shares.shared_gram)]
    rounds = config.federation.rounds - config.federation.warm_up_rounds
    steps = repetitions * rounds * privacy.quantizer.steps_per_round
    stages.append(PlannedStage(QUANTIZER, shares.quantizer, steps, privacy.quantizer.sampling_rate))
    if config.private_ctr:
        stages.append(PlannedStage(CTR, shares.ctr, repetitions * privacy.ctr.steps, privacy.ctr.sampling_rate))
    return stages + [planned for own in OWN_STAGES.values() if (planned := own.planned(config)) is not None]


def extra_delta_share(config: Config) -> float:
    """Share of δ for failures that no mechanism's event carries: that an item of one user alone is published."""
    privacy = config.privacy
    return privacy.discovery.delta_share if privacy.catalogue == "discovered" and privacy.epsilon is not None else 0.0


def plan_noise(
    config: Config, n_items: int, delta: float, given: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Noise multipliers that spend one market's ε over all stages and repetitions; empty without DP.

    ``given`` are those of stages that are set elsewhere, by stage: what they leave of the budget, the others share.
    """
    stages = [replace(stage, given=(given or {}).get(stage.name)) for stage in planned_stages(config, n_items)]
    if not stages or config.privacy.epsilon is None:
        return {}
    epsilon, left = (
        config.privacy.epsilon * (1.0 - RESERVE),
        delta * (1.0 - extra_delta_share(config)) * (1.0 - RESERVE),
    )
    try:
        return dict(_solved(tuple(stages), epsilon, left))
    except ValueError as error:
        raise ConfigError(
            f"privacy.epsilon: {config.privacy.epsilon:g} at delta {delta:.2g} cannot be planned: {error}"
        ) from error


def noise_of_sums(config: Config, sizes: Mapping[str, MarketSize]) -> dict[str, float]:
    """Noise multipliers of what markets sum: in each sum that of the most sensitive market; empty without such.

    Raises:
        ConfigError: the size of a market is not known.
    """
    if not config.data.shared_items or config.privacy.epsilon is None:
        return {}
    require_sizes(sizes, "data.shared_items")
    solved = [plan_noise(config, size.items, config.privacy.delta_for(size.users)) for size in sizes.values()]
    return {stage: max(found[stage] for found in solved) for stage in SUMMED}


def market_noise(config: Config, market: str, sizes: Mapping[str, MarketSize]) -> dict[str, float]:
    """A market's noise multipliers in a federation of these public sizes.

    Sums carry the noise that the most sensitive market needs. A market that would have needed less spends what that
    saves on stages of its own: small markets, whose δ is larger, so have less noise on their own counts.
    """
    size = sizes[market]
    return plan_noise(config, size.items, config.privacy.delta_for(size.users), noise_of_sums(config, sizes))


@lru_cache(maxsize=1024)
def _solved(stages: tuple[PlannedStage, ...], epsilon: float, delta: float) -> tuple[tuple[str, float], ...]:
    """Markets of one size, and a run's verification, ask for the same."""
    return tuple(plan_noise_multipliers(stages, epsilon=epsilon, delta=delta).items())
