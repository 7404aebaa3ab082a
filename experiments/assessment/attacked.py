"""What is attacked: a finished run, one of its markets, and what the attacks are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attacks.disclosure.releases import Release, two_releases
from attacks.membership.shadow import Progress
from attacks.membership.units import Unit
from attacks.retraining.pipelines import Retraining
from attacks.views import View, collusion_view, market_view, server_view
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.executors.base import Executor
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.files import Store
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_noise
from privacy.foreign import parse_json


@dataclass(frozen=True)
class Attacked:
    """A finished run, what to attack of it, where shadow pipelines are kept, and who trains them."""

    run: Path
    config: Config
    metrics: Mapping[str, Any]
    markets: Mapping[str, PreparedMarket]
    market: str
    targets: tuple[str, ...]
    units: tuple[Unit, ...]
    n_shadows: int
    shadows: Store
    progress: Progress
    executor: Executor

    @property
    def prepared(self) -> PreparedMarket:
        """The attacked market."""
        return self.markets[self.market]

    @cached_property
    def views(self) -> tuple[tuple[str, View], ...]:
        """The views of the federation that a market under attack has to fear, by name."""
        others = [name for name in self.markets if name != self.market]
        return (
            ("server", server_view(self.run)),
            ("market", market_view(self.run, others[0])),
            ("collusion", collusion_view(self.run, others[:1])),
        )

    @cached_property
    def retraining(self) -> Retraining:
        """The market's pipeline, to be trained again as the run trained it."""
        return Retraining(
            self.config,
            self.markets,
            self.market,
            self.targets,
            {target: self._tuned_choice(target) for target in self.targets},
            {name: read_noise(self.run, name) for name in self.markets},
        )

    @cached_property
    def releases(self) -> dict[str, list[Release]]:
        """By target, a release of either half of the market's users."""
        return two_releases(self.retraining, self.config.seed[0], self.rng("releases"))

    def _tuned_choice(self, target: str) -> int:
        """Position of what the run chose for a target, as it was closed with; raises where that is not there."""
        if not self.config.ctr.tune or (target == CONFIGURED and self.config.private_ctr):
            return 0
        path = RunDirectory(self.run).tuned(self.market, target)
        found = parse_json(ClosedRun(self.run, self.market).file(path), path)
        return int(found["choice"])

    def rng(self, name: str) -> np.random.Generator:
        """The generator of one attack by its name: results do not depend on which others ran."""
        return numpy_generator("attack", name, self.market)
