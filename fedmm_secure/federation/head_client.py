"""One market's part in growing a head: histograms of each level leave through the door, and their sum splits it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.messages import Header
from fedmm_secure.federation.parties import Federation
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.guarantee.stages import HEAD
from fedmm_secure.heads.examples import head_examples
from fedmm_secure.heads.trees import Bins, HeadGrower
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.files import write_atomic
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.base import IntVector


class HeadClient(RoundClient):
    """Adds what a market's examples say of each level; its rows are read when it is first asked to.

    Attributes:
        grower: the trees so far, the same in every market.
    """

    def __init__(self, federation: Federation, prepared: PreparedMarket) -> None:
        name = prepared.market.name
        self._directory, self._config, self._prepared = federation.directory, federation.config, prepared
        self.grower = HeadGrower.of(federation.config)
        self._log_odds: tuple[int, FloatArray] | None = None  # of the examples, after so many trees
        state = RunDirectory(federation.directory).state / HEAD / f"{name}.pt"
        super().__init__(name, HEAD, federation.plans[name], federation.doors[name], state)
        self._begin()

    def save(self) -> None:
        """Keep the head where the market's models are; all markets have the same."""
        write_atomic(RunDirectory(self._directory).head(self.market), arrays_bytes(self.grower.head.to_arrays()))

    @cached_property
    def _examples(self) -> tuple[Bins, FloatArray]:
        return head_examples(self._prepared, self._config)

    def _computed(self, round: int, paid: Transaction) -> tuple[IntVector, IntVector | None]:
        bins, label = self._examples
        head = self.grower.head
        grown, known = self._log_odds or (0, np.full(len(label), head.prior))
        for tree in range(grown, len(head.value)):
            known = known + head.value[tree, head.leaves(tree, bins)]
        self._log_odds = len(head.value), known
        return self.grower.histograms(bins, label, known), None

    def _move(self, header: Header, total: IntVector) -> None:
        self.grower.grow(total)

    def _kept(self) -> dict[str, Any]:
        return {name: torch.from_numpy(np.array(values)) for name, values in self.grower.to_arrays().items()}

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        names = self.grower.to_arrays()
        self.grower.restore({name: kept[name].numpy().copy() for name in names})
        self._log_odds = None
