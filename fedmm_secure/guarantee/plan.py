"""What a run will spend of one market's budget, release by release; verification plans it again and compares.

The plan follows from the configuration and from public sizes alone. It is made once, when a run begins, and handed on:
the door charges its releases, and nothing else may be charged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dp_accounting.dp_event import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    SelfComposedDpEvent,
)

from fedmm_secure.config import Config
from fedmm_secure.guarantee.coordinates import most_ctr_parameters, quantizer_parameters
from fedmm_secure.guarantee.mechanisms import dp_sgd, partition_selection
from fedmm_secure.guarantee.multipliers import MarketSize, market_noise, planned_stages
from fedmm_secure.guarantee.own_stages import OWN_STAGES
from fedmm_secure.guarantee.plannable import check_epsilon
from fedmm_secure.guarantee.releases import PlannedPlace, Release, small_cohort_remark, unprotected
from fedmm_secure.guarantee.shared_noise import SharedNoise, shared_noise
from fedmm_secure.guarantee.shared_sums import SharedSums, shared_sums, sum_lengths
from fedmm_secure.guarantee.stages import (
    CATALOGUE,
    COUNTS,
    CTR,
    DECRYPTED_VIEWS,
    EMBEDDING,
    HEAD,
    ITEM_CODES,
    MODEL,
    QUANTIZER,
    REFINEMENT,
    RELEASED,
    SEVERAL_MARKETS,
    SHARED_COUNTS,
    SHARED_GRAM,
    SUMMED,
    is_summed,
    seed_stage,
)
from privacy.accounting.budget import PlannedStage
from privacy.accounting.events import OneNoiseDpEvent
from privacy.accounting.ledger import stage_group
from privacy.mechanisms.meter import ENOUGH, spare_coordinates
from privacy.mechanisms.partition_selection import PartitionSelection


@dataclass(frozen=True)
class SpendingPlan:
    """One market's releases of a run, in order, with what each of them spends.

    Attributes:
        config: of the run.
        market: its name.
        sizes: public sizes of all markets of the federation.
        delta: δ of the market.
        noise: by stage group, noise multipliers over sensitivity 1; empty without DP.
    """

    config: Config
    market: str
    sizes: Mapping[str, MarketSize]
    delta: float
    noise: Mapping[str, float]

    @classmethod
    def of(
        cls, config: Config, market: str, sizes: Mapping[str, MarketSize], noise: Mapping[str, float] | None = None
    ) -> SpendingPlan:
        """The plan of a market; ``noise`` where it was solved from the same inputs before.

        Raises:
            ConfigError: no noise meets the budget, or the ε is none of those that can be planned.
        """
        size = sizes[market]
        delta = config.privacy.delta_for(size.users)
        if noise is not None:
            return cls(config, market, sizes, delta, dict(noise))
        stages = [stage.name for stage in planned_stages(config, size.items)]
        unsolved = cls(config, market, sizes, delta, dict.fromkeys(stages, 1.0))
        check_epsilon(unsolved)
        return replace(unsolved, noise=market_noise(config, market, sizes))

    @cached_property
    def shared(self) -> SharedNoise | None:
        """Noise of the global codebook that only the cohort's sum carries; None where each update carries its own.

        Raises:
            ConfigError: the size of a market is not known.
        """
        return shared_noise(self.config, self.sizes)

    def with_items(self, items: int) -> SpendingPlan:
        """The plan once the catalogue was found."""
        return replace(self, sizes={**self.sizes, self.market: MarketSize(self.size.users, items)})

    def at_most(self) -> SpendingPlan:
        """The plan with the most items that a catalogue which is yet to be discovered may have."""
        if self.config.catalogue != "discovered" or CATALOGUE not in self.noise:
            return self
        return self.with_items(self.selection().most_drawn(self.size.users))

    @cached_property
    def sums(self) -> SharedSums | None:
        """Sums over the catalogue that the markets share; None where ids have nothing to do with each other.

        Raises:
            ConfigError: the size of a market is not known.
        """
        return shared_sums(self.config, self.sizes, self.noise)

    @property
    def size(self) -> MarketSize:
        """Public size of the market."""
        return self.sizes[self.market]

    def sends_gradient(self, round: int) -> bool:
        """Whether a round's sum is of gradients, not of movements."""
        return self.shared is not None and round >= self.config.federation.warm_up_rounds

    @property
    def n_markets(self) -> int:
        """Markets of the federation."""
        return len(self.sizes)

    @property
    def epsilon(self) -> float | None:
        """ε of the market; None without DP."""
        return self.config.privacy.epsilon

    @cached_property
    def stages(self) -> Mapping[str, PlannedStage]:
        """By name; empty without DP."""
        return {stage.name: stage for stage in planned_stages(self.config, self.size.items)}

    def stage_event(self, name: str) -> DpEvent:
        """All of a stage, over all repetitions."""
        return self._noised(name, self.stages[name].event(self.noise[name]))

    def _noised(self, stage: str, event: DpEvent) -> DpEvent:
        """What a stage's event is, with how many markets its noise is one for."""
        return OneNoiseDpEvent(event, self.n_markets) if is_summed(self.config, stage) else event

    @property
    def total(self) -> DpEvent:
        """All stages together."""
        return ComposedDpEvent([self.stage_event(name) for name in self.stages])

    # releases, in the order in which a run makes them

    def releases(self) -> Iterator[Release]:
        """Everything that is charged or noted, in order; every round in its first attempt."""
        config = self.config
        if CATALOGUE in self.noise:
            yield self.catalogue()
        if config.data.shared_items:
            yield from (self.summed(stage) for stage in SUMMED)
        if config.private_embedding:
            yield self.counts()
            yield self.embedding()
        else:
            yield self.raw_embedding()
        for seed in config.seed:
            for round in range(config.federation.rounds):
                yield self.round(seed, round)
        yield from (self.head(round) for round in range(config.head.rounds))
        if config.private_ctr:
            for seed in config.seed:
                yield self.model(seed)
                yield self.item_codes(seed)
        if self.refines:
            yield self.refinement()
        yield from self._own_releases(after_models=False)
        for seed in config.seed:
            yield self.ctr(seed) if config.private_ctr else self.raw_ctr(seed)
        yield from self._own_releases(after_models=True)

    @property
    def drawing(self) -> list[PlannedPlace]:
        """Places that draw noise, in order: the same before a catalogue is discovered and after."""
        return [release.place for release in self.releases() if release.draws]

    def _own_releases(self, *, after_models: bool) -> Iterator[Release]:
        for stage in OWN_STAGES.values():
            if stage.after_models == after_models:
                yield from stage.releases(self)

    @property
    def refines(self) -> bool:
        """Whether the market refines codes of its own without DP, which stay inside."""
        return self.config.refines

    @property
    def _items_from(self) -> tuple[str, ...]:
        return (CATALOGUE,) if CATALOGUE in self.noise else ()

    @property
    def _published(self) -> tuple[str, ...]:
        return RELEASED if self.config.private_ctr else ()

    def selection(self) -> PartitionSelection:
        """The mechanism that finds the catalogue."""
        return partition_selection(self.config.privacy.discovery, self.noise[CATALOGUE], self.delta)

    def catalogue(self) -> Release:
        """The items that enough users have; everything else is computed of them alone."""
        found = self.selection()
        return Release(
            CATALOGUE,
            "partition selection, weighted Gaussian thresholding",
            found.event,
            1.0,
            self._published,
            (),
            coordinates=found.most_drawn(self.size.users) + ENOUGH,
            extra_delta=found.delta,
        )

    def counts(self) -> Release:
        """How many users have each item, and where they are used the times; one vector of a user's, of L2 norm 1."""
        event, times = GaussianDpEvent(self.noise[COUNTS]), self.config.times_counted
        mechanism = "noisy item counts and times, one vector" if times else "noisy item counts"
        coordinates = self.size.items * (2 if times else 1) + ENOUGH
        return Release(COUNTS, mechanism, event, 1.0, self._published, self._items_from, coordinates=coordinates)

    def embedding(self) -> Release:
        """Item factors, which users are embedded by."""
        if self.config.data.shared_items:
            mechanism = "post-processing: eigenvectors of the Gram matrix of all markets"
            return Release(EMBEDDING, mechanism, NoOpDpEvent(), None, self._published, (COUNTS, SHARED_GRAM))
        private, single = self.config.embedding.private, GaussianDpEvent(self.noise[EMBEDDING])
        chosen = min(private.max_items, self.size.items)
        if private.uses_gram(self.size.items):
            event, mechanism = single, "DP-SVD, noisy Gram matrix"
            coordinates = chosen**2 + ENOUGH
        else:
            event = SelfComposedDpEvent(single, private.iterations)
            mechanism = "DP-SVD, noisy subspace iteration"
            coordinates = private.iterations * (chosen * private.dim + spare_coordinates(private.iterations))
        return Release(EMBEDDING, mechanism, event, 1.0, self._published, (COUNTS,), coordinates=coordinates)

    def raw_embedding(self) -> Release:
        """Item factors of raw rows, which nothing bounds."""
        mechanism = f"none: {self.config.embedding.kind} on raw interactions"
        upstream = (*self._items_from, *(SUMMED if self.config.data.shared_items else ()))
        return Release(EMBEDDING, mechanism, NonPrivateDpEvent(), None, (), upstream)

    def round(self, seed: int, round: int, attempt: int = 0) -> Release:
        """The update of one round, in its first attempt; later ones send the same and spend nothing (``again``)."""
        config, privacy = self.config, self.config.privacy.quantizer
        stage, what = seed_stage(QUANTIZER, seed), "training without differential privacy"
        release = self._unprotected_part(stage, what, (EMBEDDING,), round, attempt)
        if QUANTIZER not in self.noise:
            return release
        if round < config.federation.warm_up_rounds:
            return replace(release, event=NoOpDpEvent(), mechanism="warm-up: reads no user row", sensitivity=0.0)
        choices, steps = dp_sgd(privacy, self.noise[QUANTIZER]), privacy.steps_per_round
        mechanism = "DP-SGD"
        if config.privacy.distributed_noise:
            mechanism = f"DP-SGD, noise distributed over {self.n_markets} markets"
        steps_of_run = self.stages[QUANTIZER].steps
        coordinates = steps * (quantizer_parameters(config) + spare_coordinates(steps_of_run))
        return replace(
            release,
            event=self._noised(QUANTIZER, choices.event(steps)),
            mechanism=mechanism,
            sensitivity=choices.clipping_norm,
            coordinates=coordinates,
        )

    def _unprotected_part(
        self, stage: str, what: str, depends_on: tuple[str, ...], round: int, attempt: int
    ) -> Release:
        """A market's part of a sum, as it would be without noise."""
        server_reads = self.config.aggregation.traits.server_reads_updates
        return Release(
            stage=stage,
            mechanism=f"none: {what}",
            event=NonPrivateDpEvent(),
            sensitivity=None,
            audience=(*DECRYPTED_VIEWS, "server") if server_reads else DECRYPTED_VIEWS,
            depends_on=depends_on,
            round=round,
            attempt=attempt,
            remark=self._remark(stage_group(stage)),
        )

    def _remark(self, stage: str) -> str | None:
        """What a reader of the ledger must know of a sum beside the numbers."""
        remarks = [small_cohort_remark(self.n_markets), SEVERAL_MARKETS if is_summed(self.config, stage) else None]
        return "; ".join(filter(None, remarks)) or None

    def of_round(self, stage: str, round: int, attempt: int = 0) -> Release:
        """What a market sends in a round of a stage."""
        if stage in SUMMED:
            return self.summed(stage, attempt)
        if stage == HEAD:
            return self.head(round, attempt)
        seeds = {seed_stage(QUANTIZER, seed): seed for seed in self.config.seed}
        return self.round(seeds[stage], round, attempt)

    def head(self, round: int, attempt: int = 0) -> Release:
        """A market's part of the histograms that one level of a tree is chosen from; exact, so without a guarantee."""
        what = "exact sum of gradient histograms"
        return self._unprotected_part(HEAD, what, self._items_from, round, attempt)

    def summed(self, stage: str, attempt: int = 0) -> Release:
        """A market's part of a sum over the shared catalogue; only the sum carries all of the noise."""
        what = {SHARED_COUNTS: "item counts and times", SHARED_GRAM: "Gram matrix of users' rows"}[stage]
        upstream = (SHARED_COUNTS,) if stage == SHARED_GRAM else self._items_from
        release = self._unprotected_part(stage, f"exact sum of {what}", upstream, 0, attempt)
        if stage not in self.noise:
            return release
        return replace(
            release,
            mechanism=f"{what}, noise distributed over {self.n_markets} markets",
            event=self._noised(stage, GaussianDpEvent(self.noise[stage])),
            sensitivity=1.0,
            coordinates=sum_lengths(self.config)[stage] + ENOUGH,
        )

    def model(self, seed: int) -> Release:
        """Codebooks, encoder and decoder: post-processing of the rounds and of the item factors."""
        return self._free(seed_stage(MODEL, seed), "post-processing: RQ-VAE", seed)

    def item_codes(self, seed: int) -> Release:
        """Codes of the items: post-processing of the model and of the item factors."""
        return self._free(seed_stage(ITEM_CODES, seed), "post-processing: item codes", seed)

    def _free(self, stage: str, mechanism: str, seed: int) -> Release:
        upstream = (EMBEDDING, seed_stage(QUANTIZER, seed))
        return Release(stage, mechanism, NoOpDpEvent(), None, RELEASED, upstream)

    def refinement(self) -> Release:
        """The market's own codes, refined on raw rows against the frozen global codebook; they stay inside."""
        what = "encoder and local codebook refined on raw interactions; stays in the market"
        return unprotected(REFINEMENT, what, *(seed_stage(QUANTIZER, seed) for seed in self.config.seed))

    def ctr(self, seed: int) -> Release:
        """A CTR model that may be published."""
        config, choices = self.config, self.config.privacy.ctr
        one, spare = self.stages[CTR].single_repetition(len(config.seed)), spare_coordinates(self.stages[CTR].steps)
        return Release(
            seed_stage(CTR, seed),
            f"user-level DP-SGD of {config.ctr.model}",
            one.event(self.noise[CTR]),
            choices.clipping_norm,
            audience=("consumer", "release"),
            depends_on=(COUNTS, EMBEDDING, seed_stage(QUANTIZER, seed)),
            coordinates=choices.steps * (most_ctr_parameters(config, self.size.items) + spare),
        )

    def raw_ctr(self, seed: int) -> Release:
        """A CTR model trained on raw rows, for the views that would see it."""
        upstream = REFINEMENT if self.refines else EMBEDDING
        what = f"{self.config.ctr.model} on raw interactions; stays in the market"
        return unprotected(seed_stage(CTR, seed), what, upstream, seed_stage(QUANTIZER, seed))
