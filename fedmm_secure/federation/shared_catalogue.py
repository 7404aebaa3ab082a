"""Sums over a catalogue that all markets share: each market's parts of them, and what a market makes of the sums."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.shared import COLUMNS, SharedStatistics, chosen_items, others, own_counts, own_gram
from fedmm_secure.data.market import IntArray, interaction_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.data.shared_items import check_shared_items, shared_positions
from fedmm_secure.federation.parties import Federation
from fedmm_secure.federation.sum_client import Part, SumClient
from fedmm_secure.federation.transcript import SUM, Transcript
from fedmm_secure.guarantee.shared_sums import gram_items
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM
from privacy.aggregation.keys import SERVER
from privacy.mechanisms.randomness import NoiseSource


def sum_client(federation: Federation, prepared: PreparedMarket, stage: str) -> SumClient:
    """A market's client of one of the sums; that of co-occurrence needs the sum of counts.

    Raises:
        DataError: the market cannot take part, or its catalogue files are others than the configuration states.
    """
    check_shared_items(federation.config.data, prepared.market)
    name, state = prepared.market.name, federation.directory / "state" / stage
    part = partial(_counts if stage == SHARED_COUNTS else _gram, federation, prepared)
    return SumClient(name, stage, federation.plans[name], federation.doors[name], state, part)


def _counts(federation: Federation, prepared: PreparedMarket, noise: NoiseSource | None) -> Part:
    config, market = federation.config.data, prepared.market
    return own_counts(market, prepared.split.train, shared_positions(config, market), config.shared_size), None


def _gram(federation: Federation, prepared: PreparedMarket, noise: NoiseSource | None) -> Part:
    items = summed_items(federation)
    position = shared_positions(federation.config.data, prepared.market)
    return own_gram(_histories(prepared, position, items)), None


def summed_items(federation: Federation) -> IntArray:
    """Catalogue positions of the items whose co-occurrence is summed: those of largest summed count."""
    counts = _sum(federation.transcript, SHARED_COUNTS).reshape(COLUMNS, -1)[0]
    return chosen_items(counts, gram_items(federation.config))


def shared_statistics(federation: Federation, prepared: PreparedMarket) -> SharedStatistics:
    """What other markets know of a market's items, from the sums that its transcript holds."""
    config, market, train = federation.config.data, prepared.market, prepared.split.train
    position = shared_positions(config, market)
    items = summed_items(federation)
    own = own_counts(market, train, position, config.shared_size)
    counts, gram = (_sum(federation.transcript, stage) for stage in (SHARED_COUNTS, SHARED_GRAM))
    return others(position, counts, own, items, gram, own_gram(_histories(prepared, position, items)))


def _sum(transcript: Transcript, stage: str) -> IntArray:
    data = transcript.find(kind=SUM, stage=stage, round=0, sender=SERVER)
    if data is None:
        raise ValueError(f"{stage}: was not summed yet")
    return np.frombuffer(data, "<i8").astype(np.int64)


def _histories(prepared: PreparedMarket, position: IntArray, items: IntArray) -> sparse.csr_array:
    """Binary training histories ``(n_users, n)`` over items of the catalogue."""
    market, train = prepared.market, prepared.split.train
    item = position[market.item[train]]
    place = np.searchsorted(items, item)
    kept = np.append(items, -2)[place] == item
    return interaction_matrix(market.user[train][kept], place[kept], (market.n_users, len(items)))
