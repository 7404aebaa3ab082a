"""Train the configured CTR model and its baselines on one market, for every seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import skops.io
import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import NOISY_BASELINES, Config
from fedmm_secure.ctr.private import PrivateBench, PrivateCTR
from fedmm_secure.ctr.recipes import CONFIGURED, MarketBench, Recipe, baseline_recipe, configured_recipe
from fedmm_secure.ctr.training import BoostedModel, NeuralModel
from fedmm_secure.data.market import IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.quantization.build import train_local_quantizer
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import noise_source
from fedmm_secure.storage import Store, torch_bytes, write_atomic

Predictions = dict[str, list[np.ndarray]]
PROBABILITY = "probability"
PUBLISHED = "published-user-codes"


def bench_market(
    prepared: PreparedMarket,
    embedding: Embedding,
    quantizers: Mapping[int, RQVAE],
    config: Config,
    directory: Path,
    noise_multiplier: float | None,
    published_user_codes: Mapping[int, IntArray] | None = None,
) -> tuple[str, Predictions]:
    """Test predictions of each model, one array a seed (one in all for scores without randomness).

    Each prediction is kept in ``state/ctr`` as soon as it is there. ``noise_multiplier`` is that of the configured
    model's DP-SGD, None where it trains without. With ``published_user_codes`` of each seed, the same model also
    predicts from those.
    """
    torch.set_num_threads(1)
    name = prepared.market.name
    store = Store(directory / "state" / "ctr" / name)
    bench = MarketBench(prepared, embedding, config)
    local: dict[int, RQVAE] = {}

    def quantizer(recipe: Recipe, seed: int) -> RQVAE | None:
        if recipe.codes != "local":
            return quantizers[seed] if recipe.codes else None
        if seed not in local:
            local[seed] = train_local_quantizer(config, embedding, name, seed)
        return local[seed]

    def released(seed: int) -> dict[str, np.ndarray]:
        private, user, item = PrivateBench(prepared, embedding, config), prepared.test.user, prepared.test.item
        model, builder = private.train(quantizers[seed], seed, noise_multiplier)
        save_model(model, directory / "models" / name, seed)
        found = {PROBABILITY: model.predict(builder(user, item))}
        if published_user_codes is not None:
            features = private.builder(quantizers[seed], user_codes=published_user_codes[seed])
            found[PUBLISHED] = model.predict(features(user, item))
        return found

    def trained(recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
        if recipe.name == CONFIGURED and config.private_ctr:
            return released(seed)
        chosen = 0
        if config.ctr.tune:
            first = config.seed[0]
            tuned = store.json(
                f"tuned-{recipe.name}", lambda: {"choice": bench.tune(recipe, quantizer(recipe, first), first)}
            )
            chosen = tuned["choice"]
        choices = bench.grid(recipe.kind)[chosen]
        model, builder = bench.train(recipe, quantizer(recipe, seed), seed, choices)
        if recipe.name == CONFIGURED:
            save_model(model, directory / "models" / name, seed)
        return {PROBABILITY: bench.predict(model, builder)}

    def noisy(recent: bool, seed: int) -> dict[str, np.ndarray]:
        noise = noise_source(config.privacy.noise_seed, "noisy-popularity", name, seed)
        return {PROBABILITY: bench.noisy_popularity(recent, noise)}

    predictions: Predictions = {}
    recipes = [configured_recipe(config), *(baseline_recipe(b) for b in config.ctr.baselines)]
    for recipe in filter(None, recipes):
        predictions[recipe.name] = [
            store.arrays(f"{recipe.name}-{seed}", partial(trained, recipe, seed))[PROBABILITY] for seed in config.seed
        ]
    scores = {"popularity": bench.popularity, "svd": bench.svd}
    for score in scores.keys() & set(config.ctr.baselines):
        kept = store.arrays(score, partial(_named, scores[score]))
        predictions[score] = [kept[PROBABILITY]]
    for baseline in NOISY_BASELINES & set(config.ctr.baselines):
        recent = baseline == "noisy-recent-popularity"
        predictions[baseline] = [
            store.arrays(f"{baseline}-{seed}", partial(noisy, recent, seed))[PROBABILITY] for seed in config.seed
        ]
    # the order of the configuration, whatever was read back from disk
    names = [CONFIGURED, *config.ctr.baselines]
    if published_user_codes is not None:
        kept_by_seed = [store.arrays(f"{CONFIGURED}-{seed}", dict) for seed in config.seed]
        predictions[PUBLISHED] = [kept[PUBLISHED] for kept in kept_by_seed]
        names.append(PUBLISHED)
    return name, {model: predictions[model] for model in names}


def _named(score: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
    return {PROBABILITY: score()}


def save_model(model: NeuralModel | BoostedModel | PrivateCTR, directory: Path, seed: int) -> None:
    """Keep a CTR model: ``ctr-<seed>.pt`` (torch, weights only) or ``ctr-<seed>.skops`` (no pickle)."""
    if isinstance(model, BoostedModel):
        write_atomic(directory / f"ctr-{seed}.skops", skops.io.dumps(model.trees_))
        return
    write_atomic(directory / f"ctr-{seed}.pt", torch_bytes(model.state_dict()))
