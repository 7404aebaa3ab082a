"""Shadow pipelines: every stage that depended on the target market's rows is trained again on half of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.recipes import CONFIGURED, MarketBench, Recipe, baseline_recipe, configured_recipe
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.pipeline import open_accounts, train_federated
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
    if recipe is None or recipe.codes == "local":
        raise ValueError(f"{name} cannot be attacked through shadow pipelines")
    return recipe


def balanced_membership(n_shadows: int, n_rows: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the shadows, chosen at random for each row, contain it: ``(n_shadows, n_rows)``."""
    order = rng.random((n_shadows, n_rows)).argsort(axis=0)
    return np.asarray(order < n_shadows // 2)


def train_shadows(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    market: str,
    targets: Sequence[str],
    *,
    n_shadows: int,
    store: Store,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> ShadowScores:
    """Train shadow pipelines on random halves of one market's training rows; kept in ``store`` one by one.

    The candidate pool, the split and the other markets stay as they are. Secure aggregation is replaced by
    plaintext sums, which give bit-identical codebooks.
    """
    prepared = markets[market]
    train = prepared.split.train
    member = balanced_membership(n_shadows, len(train), numpy_generator("shadow", market, seed))
    queried = prepared.pool.contains(prepared.market.item[train])
    embeddings = {name: fit_embedding(other, config.embedding) for name, other in markets.items() if name != market}
    tasks = (
        joblib.delayed(_one_shadow)(
            config, markets, market, tuple(targets), embeddings, train[member[index]], train[queried], index, store
        )
        for index in range(n_shadows)
    )
    finished = joblib.Parallel(n_jobs=config.workers, return_as="generator_unordered")(tasks)
    for done, _ in enumerate(finished, start=1):
        progress(done, n_shadows)
    answers = [store.arrays(_name(market, index, targets), dict) for index in range(n_shadows)]
    return ShadowScores(
        {target: np.stack([answer[target] for answer in answers]) for target in targets},
        member[:, queried],
        train[queried],
    )


def _name(market: str, index: int, targets: Sequence[str]) -> str:
    return f"shadows/{market}/{'+'.join(sorted(targets))}/{index:04d}"


def _one_shadow(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    market: str,
    targets: Sequence[str],
    embeddings: Mapping[str, Embedding],
    train: NDArray[np.int64],
    queries: NDArray[np.int64],
    index: int,
    store: Store,
) -> None:
    torch.set_num_threads(1)

    def answer() -> dict[str, NDArray[np.float64]]:
        prepared = markets[market]
        half = replace(prepared, split=replace(prepared.split, train=train))
        embedding = fit_embedding(half, config.embedding)
        recipes = [recipe_by_name(config, name) for name in targets]
        quantizer = None
        if any(recipe.codes for recipe in recipes):
            scratch = Path(tempfile.mkdtemp(prefix="fedmm-shadow-"))
            try:
                shadow_config = _shadow_config(config, index)
                all_embeddings = {name: embedding if name == market else embeddings[name] for name in markets}
                shadow_markets = {**markets, market: half}
                accounts = open_accounts(shadow_config, scratch, shadow_markets)
                quantizer = train_federated(shadow_config, index, scratch, all_embeddings, accounts)[market]
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        bench = MarketBench(half, embedding, config)
        user, item = prepared.market.user[queries], prepared.market.item[queries]
        answers = {}
        for recipe in recipes:
            model, builder = bench.train(recipe, quantizer, index, bench.grid(recipe.kind)[0])
            probability = np.clip(model.predict(builder(user, item)), 1e-9, 1 - 1e-9)
            answers[recipe.name] = np.log(probability) - np.log1p(-probability)
        return answers

    store.arrays(_name(market, index, targets), answer)


def _shadow_config(config: Config, seed: int) -> Config:
    aggregation = config.aggregation.model_copy(update={"kind": "plaintext"})
    return config.model_copy(update={"seed": (seed,), "aggregation": aggregation})
