"""Train the baselines of the field on all markets, on the candidates of every other model, with as many tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import FIELD_BASELINES, FieldName
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.models.base import Choices
from fedmm_secure.ctr.models.build import family_of
from fedmm_secure.ctr.models.neural import NeuralModel, neural_choices, neural_grid
from fedmm_secure.ctr.recipes import Recipe
from fedmm_secure.ctr.trainer import Fit, MarketTrainer
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import ConfigError
from fedmm_secure.field.coded import item_codes, with_item_codes
from fedmm_secure.field.market_aware import MarketAwareModel
from fedmm_secure.field.methods import METHODS
from fedmm_secure.field.pooled import pool, rows_moved
from fedmm_secure.field.rounds import Traffic, network_of, train
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.files import Arrays, Store
from fedmm_secure.storage.layout import RunDirectory

SERVER = "server"  # no market's name
# networks that are trained in one place, on the rows of all markets
POOLED: Mapping[FieldName, type[NeuralModel]] = {"pooled": NeuralModel, "market-aware": MarketAwareModel}


@dataclass(frozen=True)
class FieldResults:
    """What the baselines of the field gave.

    Attributes:
        predictions: of ``whole.test`` of each market, by baseline, one array a seed.
        traffic: by baseline, of all seeds; without tuning's tries.
    """

    predictions: Mapping[str, Mapping[str, list[FloatArray]]]
    traffic: Mapping[str, Traffic]


def refuse_apart(config: Config) -> None:
    """Raises ``ConfigError`` where a baseline needs the rows of all markets, and markets run each by itself."""
    for name in wanted(config):
        raise ConfigError(
            f"ctr.baselines: {name} needs the rows of all markets in one place; leave it out of a federation"
        )


def wanted(config: Config) -> list[FieldName]:
    """Those of the configured baselines that markets train together."""
    return [name for name in FIELD_BASELINES if name in config.ctr.baselines]


def train_field(
    config: Config, markets: Mapping[str, PreparedMarket], embeddings: Mapping[str, Embedding], directory: Path
) -> FieldResults:
    """Train what is configured, each baseline and seed once; what a killed run has done is read again."""
    names = wanted(config)
    store, bench = Store(RunDirectory(directory).field), Bench(config, markets, embeddings)
    parallel = joblib.Parallel(n_jobs=config.workers)

    def chosen(name: FieldName) -> int:
        return int(store.json(f"{name}-choice", lambda: {"choice": bench.tune(name)})["choice"])

    def trained(name: FieldName, seed: int, choice: int) -> Arrays:
        return store.arrays(f"{name}-{seed}", lambda: bench.run(name, seed, choice))

    choices = parallel(joblib.delayed(chosen)(name) for name in names) if config.ctr.tune else [0] * len(names)
    jobs = [(name, seed, choice) for name, choice in zip(names, choices, strict=True) for seed in config.seed]
    found = dict(zip(jobs, parallel(joblib.delayed(trained)(*job) for job in jobs), strict=True))
    predictions: dict[str, dict[str, list[FloatArray]]] = {market: {name: [] for name in names} for market in markets}
    traffic = dict.fromkeys(map(str, names), Traffic())
    for (name, _, _), arrays in found.items():
        traffic[name] += Traffic(*map(int, arrays[SERVER]))
        for market, prepared in markets.items():
            predictions[market][name].append(prepared.complete(arrays[market]))
    return FieldResults(predictions, traffic)


class Bench:
    """The markets' examples, and models trained on them by a baseline's name."""

    def __init__(
        self, config: Config, markets: Mapping[str, PreparedMarket], embeddings: Mapping[str, Embedding]
    ) -> None:
        self._config, self._markets, self._embeddings = config, markets, embeddings
        self._trainers = {name: market_trainer(markets[name], embeddings[name], config) for name in markets}

    def run(self, name: FieldName, seed: int, choice: int) -> Arrays:
        """Probabilities of each market's test candidates, and the traffic under ``SERVER``."""
        fits, _, traffic = self._train(name, seed, choice, refit=True)
        found = {market: self._trainers[market].predict(fit.model, fit.builder) for market, fit in fits.items()}
        return {**found, SERVER: np.array(astuple(traffic), dtype=np.int64)}

    def tune(self, name: FieldName) -> int:
        """Index of the choices with the best mean validation AUC, for the first seed."""
        tries = range(len(family_of(self._config.field.model).grid(self._config.ctr)))
        return int(np.argmax([self._train(name, self._config.seed[0], choice, refit=False)[1] for choice in tries]))

    def _train(self, name: FieldName, seed: int, choice: int, *, refit: bool) -> tuple[dict[str, Fit], float, Traffic]:
        torch.set_num_threads(1)
        choices = neural_grid(neural_choices(self._config.ctr))[choice]
        fits = {market: self._fit(trainer, name, seed, choices) for market, trainer in self._trainers.items()}
        if name in POOLED:
            pooled = pool(self._config, self._markets, fits, choices, seed, POOLED[name])
            one = next(iter(pooled.values()))
            model = network_of(one)
            model.fit(one.source, one.validation, one.refit if refit else None)
            return pooled, model.validation_auc_, rows_moved(self._markets)
        method, assigned = METHODS[name], Traffic()
        if method.tables:
            codes = item_codes(self._config.data, self._markets, self._embeddings, seed)
            fits = {market: with_item_codes(fit, codes[market]) for market, fit in fits.items()}
            assigned = Traffic(bytes_down=sum(len(arrays_bytes({"codes": values})) for values in codes.values()))
        found = train(list(fits.values()), method, method.pulls[choice], refit=refit)
        return fits, found.validation_auc, found.traffic + assigned

    def _fit(self, trainer: MarketTrainer, name: FieldName, seed: int, choices: Choices) -> Fit:
        field = self._config.field
        recipe = Recipe(name, field.model, field.features, "user_id" not in field.features, None)
        return trainer.prepare_fit(recipe, None, seed, choices)
