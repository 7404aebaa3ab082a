"""Train the configured CTR model and its baselines on one market, for every seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.shared_svd import SharedSVDEmbedding
from fedmm_secure.config import NOISY_BASELINES, Config
from fedmm_secure.config.choices import CONFIGURED, FIELD_BASELINES, MODELS
from fedmm_secure.ctr.build import market_trainer, private_trainer
from fedmm_secure.ctr.cache_keys import bench_inputs, code_inputs, local_inputs
from fedmm_secure.ctr.models.base import predict_pairs
from fedmm_secure.ctr.private_trainer import PrivateTrainer, PrivateTraining, ReleasedCTR
from fedmm_secure.ctr.recipes import Recipe, baseline_recipe, configured_recipe
from fedmm_secure.ctr.score_baselines import ScoreBaselines
from fedmm_secure.ctr.trainer import Fit, MarketTrainer
from fedmm_secure.data.market import IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import noise_source
from fedmm_secure.storage.cache import Cache
from fedmm_secure.storage.digests import arrays_digest
from fedmm_secure.storage.encoding import tensors_bytes
from fedmm_secure.storage.files import Store
from fedmm_secure.storage.layout import RunDirectory
from privacy.files import write_atomic

Predictions = dict[str, list[np.ndarray]]
PROBABILITY = "probability"
PUBLISHED = "published-user-codes"


def train_market(
    prepared: PreparedMarket,
    embedding: Embedding,
    quantizers: Mapping[int, RQVAE],
    config: Config,
    directory: Path,
    private_training: PrivateTraining | None,
    published_user_codes: Mapping[int, IntArray] | None = None,
    cache: Cache | None = None,
) -> tuple[str, Predictions]:
    """Predictions of ``whole.test`` by each model, one array a seed (one in all for scores without randomness).

    Each prediction is kept in ``state/ctr`` as soon as it is there. ``private_training`` is what the configured
    model's DP-SGD was charged for, None where it trains without. With ``published_user_codes`` of each seed, the same
    model also predicts from those. What other runs trained on the same inputs is taken from ``cache``.
    """
    torch.set_num_threads(1)
    name, layout = prepared.market.name, RunDirectory(directory)
    store = Store(layout.kept_predictions(name))
    silent = {PROBABILITY: np.full(len(prepared.test), prepared.prior)}  # where rows leave nothing to train on
    bench = None if prepared.lacking else market_trainer(prepared, embedding, config)
    scored = None if bench is None else ScoreBaselines(prepared, bench.history, config.privacy)
    shared = cache or Cache()
    common = bench_inputs(config, prepared) if shared.directory is not None else {}  # a market is hashed once
    begun: dict[tuple[str, int], Fit] = {}  # what tuning leaves to be finished

    def quantizer(bench: MarketTrainer, recipe: Recipe, seed: int) -> RQVAE | None:
        if recipe.codes == "local":
            return bench.local_quantizer(seed)
        return quantizers[seed] if recipe.codes else None

    def released(seed: int) -> dict[str, np.ndarray]:
        if private_training is None:
            raise TypeError("a released model needs noise")
        private, user, item = private_trainer(prepared, embedding, config), prepared.test.user, prepared.test.item
        trained = train_released(private, quantizers[seed], seed, private_training, layout.ctr(name, seed))
        found = {PROBABILITY: predict_pairs(trained.model, trained.builder, user, item)}
        if published_user_codes is not None:
            features = private.builder(quantizers[seed], user_codes=published_user_codes[seed])
            found[PUBLISHED] = predict_pairs(trained.model, features, user, item)
        return found

    def trained(recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
        if recipe.name == CONFIGURED and config.private_ctr:
            return released(seed)
        if bench is None:
            return silent
        choice = chosen(bench, recipe)
        named = inputs("trained", recipe, seed) | {"choice": choice}
        found = cache_for(recipe).arrays(named, partial(fitted, bench, recipe, seed, choice))
        if recipe.name == CONFIGURED:
            write_atomic(layout.ctr(name, seed, MODELS[recipe.kind].suffix), found["model"].tobytes())
        if recipe.name == CONFIGURED and recipe.codes == "local":
            write_atomic(
                layout.quantizer(name, seed, kind="own"), tensors_bytes(bench.local_quantizer(seed).state_dict())
            )
        for kind in bench.beside(recipe):
            write_atomic(layout.quantizer(name, seed, kind=kind), found[kind].tobytes())
        return {PROBABILITY: found[PROBABILITY]}

    def fitted(bench: MarketTrainer, recipe: Recipe, seed: int, choice: int) -> dict[str, np.ndarray]:
        fit = begun.pop((recipe.name, seed), None)
        if fit is None:
            fit = bench.prepare_fit(recipe, quantizer(bench, recipe, seed), seed, bench.grid(recipe.kind)[choice])
            fit.run()
        else:
            fit.finish()
        found = {PROBABILITY: bench.predict(fit.model, fit.builder)}
        for kind in bench.beside(recipe):
            state = bench.own_quantizer(kind, seed).state_dict()
            found[kind] = np.frombuffer(tensors_bytes(state), dtype=np.uint8)
        if recipe.name == CONFIGURED:
            found["model"] = np.frombuffer(fit.model.write(), dtype=np.uint8)
        return found

    def chosen(bench: MarketTrainer, recipe: Recipe) -> int:
        if not config.ctr.tune:
            return 0
        file = layout.tuned(name, recipe.name)
        kept = Store(file.parent).json(file.stem, lambda: {"choice": tune(bench, recipe, config.seed[0])})
        return int(kept["choice"])

    def tune(bench: MarketTrainer, recipe: Recipe, seed: int) -> int:
        def tuned() -> dict[str, np.ndarray]:
            found = bench.tune(recipe, quantizer(bench, recipe, seed), seed)
            begun[recipe.name, seed] = found.fit
            return {"choice": np.array(found.choice)}

        return int(cache_for(recipe).arrays(inputs("tuned", recipe, seed), tuned)["choice"])

    def cache_for(recipe: Recipe) -> Cache:
        noised = recipe.codes == "federated" or isinstance(embedding, DPSVDEmbedding)
        carries_noise = config.privacy.epsilon is not None and recipe.codes is not None and noised
        return Cache() if carries_noise else shared

    def inputs(what: str, recipe: Recipe, seed: int) -> dict[str, object]:
        hashed = recipe.codes is not None and shared.directory is not None
        codes = code_inputs(config, embedding, recipe, quantizers[seed]) if hashed else None
        found = {"what": what, **common, "recipe": asdict(recipe), "seed": seed, "codes": codes}
        if recipe.average_local:
            found["own codes"] = local_inputs(config) | {"embedding": config.embedding.model_dump(mode="json")}
        if "shared" in recipe.features and isinstance(embedding, SharedSVDEmbedding) and shared.directory is not None:
            elsewhere = embedding.shared
            found["shared"] = arrays_digest(elsewhere.position, elsewhere.count, elsewhere.day, elsewhere.gram)
        return found

    def noisy(recent: bool, seed: int) -> dict[str, np.ndarray]:
        if scored is None:
            return silent
        noise = noise_source(config.privacy.noise_seed, "noisy-popularity", name, seed)
        return {PROBABILITY: scored.noisy_popularity(recent, noise)}

    predictions: Predictions = {}
    recipes = [configured_recipe(config), *(baseline_recipe(b) for b in config.ctr.baselines)]
    for recipe in filter(None, recipes):
        predictions[recipe.name] = [
            store.arrays(f"{recipe.name}-{seed}", partial(trained, recipe, seed))[PROBABILITY] for seed in config.seed
        ]
    scores = {} if scored is None else {"popularity": scored.popularity, "svd": scored.svd}
    for score in {"popularity", "svd"} & set(config.ctr.baselines):
        compute = partial(shared.arrays, {"what": score, **common}, partial(_named, scores[score])) if scores else None
        kept = store.arrays(score, compute or (lambda: silent))
        predictions[score] = [kept[PROBABILITY]]
    for baseline in NOISY_BASELINES & set(config.ctr.baselines):
        recent = baseline == "noisy-recent-popularity"
        predictions[baseline] = [
            store.arrays(f"{baseline}-{seed}", partial(noisy, recent, seed))[PROBABILITY] for seed in config.seed
        ]
    # the order of the configuration, whatever was read back from disk
    names = [CONFIGURED, *(name for name in config.ctr.baselines if name not in FIELD_BASELINES)]
    if published_user_codes is not None:
        kept_by_seed = [store.arrays(f"{CONFIGURED}-{seed}", dict) for seed in config.seed]
        predictions[PUBLISHED] = [kept[PUBLISHED] for kept in kept_by_seed]
        names.append(PUBLISHED)
    return name, {model: [prepared.complete(found) for found in predictions[model]] for model in names}


def train_released(
    private: PrivateTrainer, quantizer: RQVAE, seed: int, training: PrivateTraining, path: Path
) -> ReleasedCTR:
    """Train the model of one seed, and keep it in ``path`` and its spare sums where ``training`` says."""
    trained = private.train(quantizer, seed, training)
    write_atomic(training.meters[seed], trained.steps.spare.astype("<i8").tobytes())
    write_atomic(path, trained.model.write())
    return trained


def _named(score: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
    return {PROBABILITY: score()}
