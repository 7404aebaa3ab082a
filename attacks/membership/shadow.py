"""Shadow pipelines: every stage that depended on the target market's rows is trained again on half of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.private import PrivateBench
from fedmm_secure.ctr.recipes import CONFIGURED, MarketBench, Recipe, baseline_recipe, configured_recipe
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.setup import CTR, open_federation
from fedmm_secure.pipeline import embed_markets, refine, train_federated
from fedmm_secure.quantization.build import train_local_quantizer
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage import Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ShadowScores:
    """What the shadow pipelines answered.

    Attributes:
        confidence: by target model, ``(n_shadows, n_queries)``: logit of the predicted click probability.
        member: ``(n_shadows, n_queries)``: whether the pipeline was trained with the queried row.
        rows: row numbers of the queries in the market, ``(n_queries,)``.
    """

    confidence: dict[str, NDArray[np.float64]]
    member: NDArray[np.bool_]
    rows: NDArray[np.int64]


def recipe_by_name(config: Config, name: str) -> Recipe:
    """A target model: ``fedmm`` (the configured one) or a trained baseline."""
    if name == CONFIGURED:
        return configured_recipe(config)
    recipe = baseline_recipe(name)  # type: ignore[arg-type]
    if recipe is None:
        raise ValueError(f"{name} cannot be attacked through shadow pipelines")
    return recipe


def balanced_membership(n_shadows: int, n_rows: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the shadows, chosen at random for each row, contain it: ``(n_shadows, n_rows)``."""
    order = rng.random((n_shadows, n_rows)).argsort(axis=0)
    return np.asarray(order < n_shadows // 2)


@dataclass(frozen=True)
class ShadowPlan:
    """What one shadow pipeline needs to know.

    Attributes:
        config: the run's configuration.
        markets: all markets of the run.
        market: the market under attack.
        targets: names of the attacked models.
        choices: by target, position of its hyper-parameters in their grid, as the run tuned them.
        noise: by market and stage group, the noise multipliers of the run; empty without DP.
    """

    config: Config
    markets: Mapping[str, PreparedMarket]
    market: str
    targets: tuple[str, ...]
    choices: Mapping[str, int]
    noise: Mapping[str, Mapping[str, float]]

    def train(self, rows: NDArray[np.int64], queries: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.float64]]:
        """Train every stage on ``rows`` of the market; returns each target's confidence in the queried rows."""
        torch.set_num_threads(1)
        prepared = self.markets[self.market]
        half = replace(prepared, split=replace(prepared.split, train=rows))
        recipes = [recipe_by_name(self.config, name) for name in self.targets]
        raw = self._embed(half)
        local: dict[str | None, tuple[Embedding, RQVAE | None]] = {None: (raw, None)}
        for kind in {recipe.codes for recipe in recipes} - {None}:
            if kind == "local":
                local[kind] = raw, train_local_quantizer(self.config, raw, self.market, seed)
            else:
                local[kind] = self._federate(half, raw, seed)
        user, item = prepared.market.user[queries], prepared.market.item[queries]
        answers = {}
        for recipe in recipes:
            embedding, quantizer = local[recipe.codes]
            probability = self._predictor(recipe, half, embedding, quantizer, seed)(user, item)
            clipped = np.clip(probability, 1e-9, 1 - 1e-9)
            answers[recipe.name] = np.log(clipped) - np.log1p(-clipped)
        return answers

    def _predictor(
        self, recipe: Recipe, half: PreparedMarket, embedding: Embedding, quantizer: RQVAE | None, seed: int
    ) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
        if recipe.name == CONFIGURED and self.config.private_ctr and quantizer is not None:
            private = PrivateBench(half, embedding, self.config)
            released, features = private.train(quantizer, seed, self.noise[self.market].get(CTR))
            return lambda user, item: released.predict(features(user, item))
        bench = MarketBench(half, embedding, self.config)
        model, builder = bench.train(recipe, quantizer, seed, bench.grid(recipe.kind)[self.choices.get(recipe.name, 0)])
        return lambda user, item: model.predict(builder(user, item))

    @cached_property
    def other_embeddings(self) -> dict[str, Embedding]:
        """Raw embeddings of the other markets, the same in every shadow pipeline."""
        return {name: self._embed(other) for name, other in self.markets.items() if name != self.market}

    def _embed(self, prepared: PreparedMarket) -> Embedding:
        """Without DP, as the market's own models and baselines do."""
        return fit_embedding(prepared, self.config.embedding)

    def _federate(self, half: PreparedMarket, raw: Embedding, seed: int) -> tuple[Embedding, RQVAE]:
        """A whole federation, the other markets as in the run; returns what the market's own models build on."""
        markets = {**self.markets, self.market: half}
        # plaintext sums give bit-identical codebooks, faster
        aggregation = self.config.aggregation.model_copy(update={"kind": "plaintext"})
        config = self.config.model_copy(update={"seed": (seed,), "aggregation": aggregation})
        with tempfile.TemporaryDirectory(prefix="fedmm-shadow-") as scratch:
            federation = open_federation(config, markets, Path(scratch), noise=self.noise)
            if config.private_embedding:
                embeddings = embed_markets(federation, markets)
            else:
                embeddings = {name: raw if name == self.market else self.other_embeddings[name] for name in markets}
            models = train_federated(federation, seed, embeddings)
            embeddings, quantizers = refine(federation, markets, embeddings, {seed: models})
        return embeddings[self.market], quantizers[seed][self.market]


def train_shadows(
    plan: ShadowPlan,
    *,
    n_shadows: int,
    store: Store,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> ShadowScores:
    """Train shadow pipelines on random halves of one market's training rows; kept in ``store`` one by one.

    The candidate pool, the split, the seed and the other markets stay as they are. The queries are the training rows
    whose items are in the pool.
    """
    prepared = plan.markets[plan.market]
    train = prepared.split.train
    member = balanced_membership(n_shadows, len(train), numpy_generator("shadow", plan.market, seed))
    queried = prepared.pool.contains(prepared.market.item[train])
    folder = f"shadows/{plan.market}/{'+'.join(sorted(plan.targets))}/of-{n_shadows}"
    names = [f"{folder}/{index:04d}" for index in range(n_shadows)]
    federated = any(recipe_by_name(plan.config, target).codes == "federated" for target in plan.targets)
    if federated and not plan.config.private_embedding:
        _ = plan.other_embeddings  # fitted here once; they travel to the workers with the plan
    tasks = (
        joblib.delayed(_keep)(store, names[index], plan, train[member[index]], train[queried])
        for index in range(n_shadows)
    )
    finished = joblib.Parallel(n_jobs=plan.config.workers, return_as="generator_unordered")(tasks)
    for done, _ in enumerate(finished, start=1):
        progress(done, n_shadows)
    answers = [store.arrays(name, dict) for name in names]
    return ShadowScores(
        {target: np.stack([answer[target] for answer in answers]) for target in plan.targets},
        member[:, queried],
        train[queried],
    )


def _keep(store: Store, name: str, plan: ShadowPlan, rows: NDArray[np.int64], queries: NDArray[np.int64]) -> None:
    # the configuration is public, and so is the run's seed of initialisation and order (never that of noise)
    store.arrays(name, partial(plan.train, rows, queries, plan.config.seed[0]))
