"""Sums over a catalogue that all markets share: each market's parts of them, and what follows from the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import ItemCounts, weighted_rows
from fedmm_secure.collaborative.shared import (
    COLUMNS,
    SharedStatistics,
    chosen_items,
    others,
    own_counts,
    own_gram,
)
from fedmm_secure.collaborative.shared_dp_svd import (
    NoisySums,
    SharedDPSVDEmbedding,
    private_factors,
    timed_contributions,
)
from fedmm_secure.collaborative.shared_svd import SharedSVDEmbedding
from fedmm_secure.config import Config
from fedmm_secure.data.market import IntArray, history_matrix, interaction_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.data.shared_items import check_shared_items, shared_positions
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.federation.parties import Federation, market_sizes
from fedmm_secure.federation.sum_client import MeteredPart, SumClient
from fedmm_secure.federation.transcript import SUM
from fedmm_secure.guarantee.shared_sums import SharedSums, gram_items, shared_sums
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM, SUMMED
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.bundle import BUNDLE_FILE, SERVER, read_bundle
from privacy.mechanisms.dp_svd import PrivateFactors
from privacy.mechanisms.meter import ENOUGH
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import gram_of_sum, gram_part, noise_of_sum, rows_of_sum, rows_part


@dataclass(frozen=True)
class Totals:
    """The sums of a run, as integers, and what everybody who has them can compute.

    Attributes:
        config: of the run.
        sums: its plan.
        counts: ``(COLUMNS · size,)``.
        gram: upper triangle over ``items``; empty while it was not summed yet.
    """

    config: Config
    sums: SharedSums
    counts: IntArray
    gram: IntArray

    @cached_property
    def items(self) -> IntArray:
        """Catalogue positions of the items whose co-occurrence is summed: those of largest summed count."""
        return chosen_items(self.counts.reshape(COLUMNS, -1)[0], gram_items(self.config))

    @cached_property
    def noisy(self) -> NoisySums:
        """Counts and times in all markets, in users' contributions."""
        norm = self.sums[SHARED_COUNTS].norm
        count, moment = rows_of_sum(self.counts, norm).reshape(COLUMNS, -1)
        return NoisySums(count, moment, noise_of_sum(norm, self.sums.n_markets))

    @cached_property
    def factors(self) -> PrivateFactors:
        """Leading directions of the noisy Gram matrix, ``(n, rank)``: the same in every market."""
        norm = self.sums[SHARED_GRAM].norm
        gram = gram_of_sum(self.gram, norm, len(self.items))
        noise = noise_of_sum(norm, self.sums.n_markets)
        return private_factors(self.noisy, self.items, gram, noise, self.config.embedding.private)

    def embedding(self, counts: ItemCounts, position: IntArray) -> SharedDPSVDEmbedding:
        """A market's private embedding in the space of all, its factors yet to be set; ``counts`` are its own."""
        return SharedDPSVDEmbedding(counts, self.config.embedding.private, self.noisy, self.items, position)


def totals(federation: Federation) -> Totals:
    """The sums that this process has taken."""
    plan = next(iter(federation.plans.values()))
    transcript = federation.transcript
    kept = {stage: transcript.find(kind=SUM, stage=stage, round=0, sender=SERVER) or b"" for stage in SUMMED}
    return _totals(federation.config, plan.sums, kept)


def totals_of_run(run: RunFiles, config: Config) -> Totals:
    """The sums that a run directory holds; raises ``InputError`` where its bundle cannot be read."""
    bundle = read_bundle(RunDirectory(run.directory).transcript / BUNDLE_FILE, below=run.directory)
    sums = shared_sums(config, market_sizes(config, bundle.markets, {}, bundle.sizes))
    return _totals(config, sums, {stage: run.sums(stage) for stage in SUMMED})


def _totals(config: Config, sums: SharedSums | None, kept: Mapping[str, bytes]) -> Totals:
    if sums is None:
        raise ValueError("nothing is summed over a catalogue in this run")
    found = {stage: np.frombuffer(data, "<i8").astype(np.int64) for stage, data in kept.items()}
    return Totals(config, sums, found[SHARED_COUNTS], found[SHARED_GRAM])


def sum_client(federation: Federation, prepared: PreparedMarket, stage: str) -> SumClient:
    """A market's client of one of the sums; that of co-occurrence needs the sum of counts.

    Raises:
        DataError: the market cannot take part, or its catalogue files are others than the configuration states.
    """
    check_shared_items(federation.config.data, prepared.market)
    position = shared_positions(federation.config.data, prepared.market)
    name, state = prepared.market.name, RunDirectory(federation.directory).rounds(stage)
    part = partial(_counts if stage == SHARED_COUNTS else _gram, federation, prepared, position)
    return SumClient(name, stage, federation.plans[name], federation.doors[name], state, part)


def _counts(
    federation: Federation, prepared: PreparedMarket, position: IntArray, noise: NoiseSource | None
) -> MeteredPart:
    market, train, size = prepared.market, prepared.split.train, federation.config.data.shared_size
    sums = federation.plans[market.name].sums
    if noise is None or sums is None:
        return own_counts(market, train, position, size), None
    stage = sums[SHARED_COUNTS]
    choices = federation.config.privacy.contribution
    rows = timed_contributions(market, train, position, size, choices, stage.multiplier)
    found = rows_part(rows, stage.norm, noise.derive("noise"), spare=ENOUGH)
    return found.values, found.spare


def _gram(
    federation: Federation, prepared: PreparedMarket, position: IntArray, noise: NoiseSource | None
) -> MeteredPart:
    found, sums = totals(federation), federation.plans[prepared.market.name].sums
    histories = _histories(prepared, position, found.items)
    if noise is None or sums is None:
        return own_gram(histories), None
    rows = weighted_rows(histories, found.noisy.weights(found.items, federation.config.embedding.private))
    part = gram_part(rows, sums[SHARED_GRAM].norm, noise.derive("noise"), spare=ENOUGH)
    return part.values, part.spare


def shared_statistics(found: Totals, prepared: PreparedMarket) -> SharedStatistics:
    """What other markets know of a market's items, from exact sums."""
    config, market, train = found.config.data, prepared.market, prepared.split.train
    position = shared_positions(config, market)
    own = own_counts(market, train, position, config.shared_size)
    own_part = own_gram(_histories(prepared, position, found.items))
    return others(position, found.counts, own, found.items, found.gram, own_part)


def shared_svd(found: Totals, prepared: PreparedMarket) -> SharedSVDEmbedding:
    """A market's embedding in the space of all markets, from exact sums and its own rows."""
    embedding = SharedSVDEmbedding(shared_statistics(found, prepared), found.config.embedding.dim)
    return embedding.fit(history_matrix(prepared.market, prepared.split.train))


def shared_dp_svd(found: Totals, prepared: PreparedMarket, counts: ItemCounts) -> SharedDPSVDEmbedding:
    """A market's embedding in the space of all markets, from noisy sums; ``counts`` are its own, noisy too."""
    embedding = found.embedding(counts, shared_positions(found.config.data, prepared.market))
    embedding.set_factors(found.factors, history_matrix(prepared.market, prepared.split.train))
    return embedding


def _histories(prepared: PreparedMarket, position: IntArray, items: IntArray) -> sparse.csr_array:
    """Binary training histories ``(n_users, n)`` over items of the catalogue."""
    market, train = prepared.market, prepared.split.train
    item = position[market.item[train]]
    place = np.searchsorted(items, item)
    kept = np.append(items, -2)[place] == item
    return interaction_matrix(market.user[train][kept], place[kept], (market.n_users, len(items)))
