"""The sections of a configuration that the guarantee rests on: budget, contributions, mechanisms."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedmm_secure.config.base import LARGEST_SEED, Section
from privacy.mechanisms.clipping import Clipping

GRAM_LIMIT = 4_000  # items whose Gram matrix fits comfortably in memory: 128 MB


class PrivateEmbeddingConfig(Section):
    """dp-svd: private item factors."""

    dim: int = Field(8, ge=2, le=256, description="number of factors; more drown in noise")
    max_items: int = Field(300, ge=10, le=100_000, description="items of largest noisy count that are factorised")
    count_threshold: float = Field(
        2.0, ge=0, le=1e6, description="factorise items whose noisy count is this many times its noise"
    )
    popularity_exponent: float = Field(0.5, ge=0, le=1, description="item weight: noisy count to minus this power")
    factor_threshold: float = Field(
        1.1, ge=0, le=1e6, description="keep factors whose eigenvalue is this many times the noise"
    )
    method: Literal["auto", "gram", "subspace"] = Field("auto", description=f"auto: gram up to {GRAM_LIMIT} items")
    iterations: int = Field(4, ge=1, le=50, description="subspace: iterations, each a release")

    def uses_gram(self, n_items: int) -> bool:
        """Whether one noisy Gram matrix of so many items is released, and no subspace iteration."""
        return self.method == "gram" or (self.method == "auto" and min(self.max_items, n_items) <= GRAM_LIMIT)


class SharesConfig(Section):
    """How the budget is split: shares of the squared Gaussian-DP parameter, normalised over the stages of a run."""

    counts: float = Field(0.5, gt=0, le=1e6, description="noisy item counts")
    embedding: float = Field(0.3, gt=0, le=1e6, description="private item factors")
    shared_counts: float = Field(0.35, gt=0, le=1e6, description="noisy item counts of all markets, shared items alone")
    shared_gram: float = Field(0.35, gt=0, le=1e6, description="noisy Gram matrix of all markets, shared items alone")
    quantizer: float = Field(0.04, gt=0, le=1e6, description="DP-SGD of the RQ-VAE")
    ctr: float = Field(0.16, gt=0, le=1e6, description="DP-SGD of the CTR model, protect: release alone")
    catalogue: float = Field(0.5, gt=0, le=1e6, description="private discovery of items, catalogue: discovered alone")
    evaluation: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="noisy test figures, protect: release alone; null: test figures are exact, outside the guarantee",
    )


class DiscoveryConfig(Section):
    """catalogue: discovered: items that enough users have are found with differential privacy."""

    items_per_user: int = Field(8, ge=1, le=1000, description="only this many of a user's latest items take part")
    delta_share: float = Field(
        0.5, gt=0, lt=1, description="share of δ for the case that an item of one user alone is published"
    )


class ContributionConfig(Section):
    """How a user's rows are weighted in the item counts; the sensitivity is 1 whatever is chosen."""

    rows_per_user: int | None = Field(None, ge=1, le=10**9, description="only this many latest rows count")
    rank_decay: float = Field(0.9, gt=0, le=1, description="weight of a row over that of the user's next later one")
    reference_date: date | None = Field(None, description="public date from which the age of a row counts")
    time_weight: float = Field(
        0.35, gt=0, le=1, description="of when an item was met, beside how often, in one clipped vector"
    )
    time_constant_days: float = Field(730.0, gt=0, le=1e6, description="age at which a row's weight falls to 1/e")
    largest_scale: float = Field(
        3.0,
        ge=1,
        le=1e6,
        description="how far users with old rows alone are scaled up; times the noise multiplier, if above 1",
    )


SamplingRate = Annotated[float, Field(gt=0, le=1, description="share of users in a step, each by a coin of their own")]
ClippingNorm = Annotated[float, Field(gt=0, le=1e6, description="largest norm of one user's gradient")]
LearningRate = Annotated[float, Field(gt=0, le=100, description="Adam's step size, on noised gradients")]
ClippingKind = Annotated[
    Clipping, Field(description="long gradients are shortened to the norm, or all are scaled to it")
]


class DPSGDConfig(Section):
    """What every DP-SGD stage chooses."""

    sampling_rate: SamplingRate
    clipping_norm: ClippingNorm
    learning_rate: LearningRate
    clipping: ClippingKind = "flat"


class QuantizerDPSGDConfig(DPSGDConfig):
    """DP-SGD of the RQ-VAE: one example = one user's embedding."""

    sampling_rate: SamplingRate = 0.2
    clipping_norm: ClippingNorm = 1.0
    learning_rate: LearningRate = 1e-3
    steps_per_round: int = Field(2, ge=1, le=10_000, description="noised steps in each round")


class CTRDPSGDConfig(DPSGDConfig):
    """DP-SGD of the CTR model: one example = one user's bag of interactions and sampled negatives."""

    sampling_rate: SamplingRate = 0.5
    clipping_norm: ClippingNorm = 0.3
    learning_rate: LearningRate = 1e-2
    steps: int = Field(100, ge=1, le=100_000, description="noised steps")
    rows_per_user: int = Field(2, ge=1, le=50, description="latest training rows in a bag, each with its negatives")
    average: bool = Field(True, description="average the iterates of the second half")


class PrivacyConfig(Section):
    """The guarantee; ``epsilon: null`` runs without DP."""

    epsilon: float | None = Field(
        None, gt=0, le=1e6, description="per market, over all stages and repetitions of the run"
    )
    delta: float | None = Field(None, gt=0, lt=1, description="null: 1 / users^1.1, per market")
    ceiling: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="ε that all runs on the same data may come to together, against every claimed view; fixed by the "
        "first run on them; a run that would exceed it is refused before it spends",
    )
    protect: Literal["federation", "release"] = Field(
        "federation", description="what the budget covers: what leaves through the federation, or all that is published"
    )
    catalogue: Literal["file", "discovered", "declared"] | None = Field(
        None,
        description="the public items: files named by the markets, a private discovery, or those found in the rows, "
        "declared public by the operator; null: declared, and refused under protect: release",
    )
    discovery: DiscoveryConfig = DiscoveryConfig()
    shares: SharesConfig = SharesConfig()
    contribution: ContributionConfig = ContributionConfig()
    quantizer: QuantizerDPSGDConfig = QuantizerDPSGDConfig()
    ctr: CTRDPSGDConfig = CTRDPSGDConfig()
    pseudo_users: int = Field(2000, ge=0, le=1_000_000, description="drawn from private releases to pre-train on")
    refine: bool = Field(True, description="protect: federation: each market refines its own codes without DP")
    user_codes_epsilon: float | None = Field(
        None,
        gt=0,
        le=700,
        description="protect: release: publish user codes by k-ary randomised response with this epsilon",
    )
    distributed_noise: bool = Field(False, description="each market adds a part of the global codebook's noise")
    colluding_markets: int = Field(
        1, ge=1, le=1000, description="distributed noise: markets that may subtract their parts"
    )
    account: Path | None = Field(
        None, description="whole path of a file; null: FEDMM_ACCOUNT, or the user's on this machine"
    )
    noise_seed: int | None = Field(
        None, ge=-LARGEST_SEED, le=LARGEST_SEED, description="tests only: makes the run unfit for compliance"
    )

    def delta_for(self, n_users: int) -> float:
        """δ of a market: as configured, or 1 / users^1.1."""
        return self.delta if self.delta is not None else float(n_users**-1.1)
