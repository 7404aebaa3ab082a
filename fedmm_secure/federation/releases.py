"""What each stage lets out: the pipeline's side of the door.

Under ``protect: release`` this is all that may be published of a market: noisy counts, item factors, the RQ-VAE, item
codes, the CTR model, and user codes only through randomised response. Under ``protect: federation`` nothing but the
messages of the rounds leaves; what messages depend on is charged and sealed all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts, release_counts
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.ctr.build import private_trainer
from fedmm_secure.ctr.private_evaluation import histograms_from_arrays, private_candidates, release_histograms
from fedmm_secure.ctr.private_trainer import PrivateTraining
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.discovery import check_discovered, discover
from fedmm_secure.data.market import IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket, WholeMarket, within
from fedmm_secure.federation.parties import Federation
from fedmm_secure.federation.shared_catalogue import shared_dp_svd, totals
from fedmm_secure.federation.transactions import Result, Transaction
from fedmm_secure.guarantee.noisy_figures import evaluation_release
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.randomised_codes import user_codes_release
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, EVALUATION, USER_CODES, seed_stage
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage.encoding import array_bytes, arrays_bytes, read_arrays, tensors_bytes
from fedmm_secure.storage.files import Arrays, Store
from fedmm_secure.storage.layout import RunDirectory
from privacy.foreign import read_bytes
from privacy.mechanisms.dp_svd import PrivateFactors
from privacy.mechanisms.histograms import ScoreHistograms
from privacy.mechanisms.meter import ENOUGH, spare_coordinates
from privacy.mechanisms.randomised_response import randomise
from privacy.mechanisms.randomness import NoiseSource


def discover_catalogues(
    federation: Federation, markets: Mapping[str, PreparedMarket]
) -> tuple[Federation, Mapping[str, PreparedMarket]]:
    """Find the catalogues, where configured: everything after this knows the items that were found, and no others.

    Raises:
        DataError: a catalogue is too small for a run.
    """
    if federation.config.catalogue != "discovered":
        return federation, markets
    found, plans = {}, {}
    for name, prepared in markets.items():
        whole, plan = prepared.whole, federation.plans[name]

        def draw(noise: NoiseSource, whole: WholeMarket = whole, plan: SpendingPlan = plan) -> Result:
            catalogue, spare = discover(whole.market, whole.split.train, plan.selection(), noise, spare=ENOUGH)
            return Result(catalogue.text, spare)

        keep = private_store(federation.directory, name).directory / "catalogue.txt"
        data = federation.doors[name].perform(plan.catalogue(), draw, keep)
        catalogue = Catalogue.of("discovered", data.decode().splitlines())
        check_discovered(name, catalogue)
        found[name] = within(whole, catalogue, federation.config.data)
        plans[name] = plan.with_items(len(catalogue))
    return replace(federation, plans=plans), found


def embed_privately(federation: Federation, prepared: PreparedMarket) -> DPSVDEmbedding:
    """Noisy counts, then private item factors; charged before a row is read, and drawn once a run directory."""
    config, market, train = federation.config, prepared.market, prepared.split.train
    plan, door = federation.plans[market.name], federation.doors[market.name]
    store = private_store(federation.directory, market.name)

    def draw_counts(noise: NoiseSource) -> Result:
        choices, times = config.privacy.contribution, config.times_counted
        spare = federation.spare(market.name, ENOUGH, COUNTS)
        found = release_counts(market, train, choices, plan.noise[COUNTS], noise, times=times, spare=spare)
        return Result(arrays_bytes(found.to_arrays()), found.spare)

    counts = ItemCounts.from_arrays(read_arrays(door.perform(plan.counts(), draw_counts, store.path(COUNTS))))
    matrix = history_matrix(market, train)
    if config.data.shared_items:
        return _embed_in_shared_space(federation, prepared, counts)
    embedding = DPSVDEmbedding(counts, config.embedding.private)

    def draw_factors(noise: NoiseSource) -> Result:
        spare = federation.spare(market.name, spare_coordinates(plan.stages[EMBEDDING].steps), EMBEDDING)
        found = embedding.release(matrix, plan.noise[EMBEDDING], noise, spare=spare)
        edge, items = np.array(found.noise_edge), embedding.items_
        arrays = {"items": items, "factors": found.factors, "eigenvalues": found.eigenvalues, "noise_edge": edge}
        if found.gram is not None:
            arrays |= {"gram": found.gram, "gram_noise": np.array(found.gram_noise)}
        return Result(arrays_bytes(arrays), found.spare.ravel())

    kept = read_arrays(door.perform(plan.embedding(), draw_factors, store.path(EMBEDDING)))
    return embedding.set_factors(factors_from_arrays(kept), matrix)


def _embed_in_shared_space(federation: Federation, prepared: PreparedMarket, counts: ItemCounts) -> DPSVDEmbedding:
    """Factors and counts of all markets: post-processing of their sums, published where models are."""
    door, plan = federation.doors[prepared.market.name], federation.plans[prepared.market.name]
    embedding = shared_dp_svd(totals(federation), prepared, counts)
    door.publish(plan.embedding(), arrays_bytes(embedding.to_arrays()))
    return embedding


def factors_from_arrays(kept: Arrays) -> PrivateFactors:
    """Private factors as they were stored."""
    nothing = np.zeros((0, 0), np.int64)
    found = PrivateFactors(kept["factors"], kept["eigenvalues"], float(kept["noise_edge"]), nothing)
    return replace(found, gram=kept["gram"], gram_noise=float(kept["gram_noise"])) if "gram" in kept else found


def released_embedding(config: Config, counts: Arrays, kept: Arrays) -> DPSVDEmbedding:
    """The embedding of what a market published, which knows none of its users."""
    items = ItemCounts.from_arrays(counts)
    if config.data.shared_items:
        return SharedDPSVDEmbedding.from_arrays(items, config.embedding.private, kept)
    nobody = sparse.csr_array((0, len(items.values)))
    return DPSVDEmbedding(items, config.embedding.private).set_factors(factors_from_arrays(kept), nobody)


def private_store(directory: Path, market: str) -> Store:
    """Where a market keeps what it drew, so that a resumed run does not draw it again."""
    return Store(RunDirectory(directory).private_releases(market))


def publish_quantizer(federation: Federation, market: str, seed: int, model: RQVAE, embedding: Embedding) -> None:
    """Codebooks, encoder, decoder and item codes: post-processing of the rounds and of the item factors."""
    if not federation.config.private_ctr:
        return
    door, plan = federation.doors[market], federation.plans[market]
    door.publish(plan.model(seed), tensors_bytes(model.state_dict()))
    items = assign_codes(model, np.zeros((0, embedding.item_factors_.shape[1])), embedding.item_factors_).item
    door.publish(plan.item_codes(seed), array_bytes(items))


def begin_ctr(federation: Federation, market: str) -> dict[int, Transaction]:
    """Charge the CTR models of a market, by seed; training may read its rows when this returns.

    Models that are not private stay inside, and are noted.
    """
    door, plan = federation.doors[market], federation.plans[market]
    if federation.config.private_ctr:
        return {
            seed: door.begin(plan.ctr(seed), _kept_of_ctr(federation, market, seed)) for seed in federation.config.seed
        }
    for seed in federation.config.seed:
        door.note(plan.raw_ctr(seed))
    return {}


def _kept_of_ctr(federation: Federation, market: str, seed: int) -> tuple[Path, ...]:
    """Where the training of a CTR model leaves what it computed: model, spare values, predictions."""
    layout = RunDirectory(federation.directory)
    predictions = Store(layout.kept_predictions(market)).path(f"{CONFIGURED}-{seed}")
    return layout.ctr(market, seed), layout.meter(market, seed), predictions


def private_training(federation: Federation, market: str, begun: Mapping[int, Transaction]) -> PrivateTraining | None:
    """What training in another process needs: noise, and the keys of seeds that are not sealed yet."""
    if not begun:
        return None
    plan = federation.plans[market]
    return PrivateTraining(
        noise_multiplier=plan.noise[CTR],
        spares={
            seed: federation.spare(market, spare_coordinates(plan.stages[CTR].steps), plan.ctr(seed).stage)
            for seed in begun
        },
        keys={seed: found.key for seed, found in begun.items() if found.digest is None},
        meters={seed: _ctr_meter(federation.directory, market, seed) for seed in begun},
        seeded=federation.config.privacy.noise_seed is not None,
    )


def publish_ctr(federation: Federation, market: str, begun: Mapping[int, Transaction]) -> None:
    """Seal and publish the CTR models of a market, as they were kept when their training ended."""
    for seed, transaction in begun.items():
        path = RunDirectory(federation.directory).ctr(market, seed)
        federation.doors[market].conclude(transaction, path, _ctr_meter(federation.directory, market, seed))


def release_test_figures(
    federation: Federation,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
) -> dict[str, ScoreHistograms] | None:
    """Noisy score histograms of each market's released models, charged before a test row is read; None if not planned.

    Models are read from where their training left them: what is measured is what was published.
    """
    if not federation.config.private_evaluation:
        return None
    found = {}
    for name, prepared in markets.items():
        own = {seed: models[name] for seed, models in quantizers.items()}
        draw = partial(_test_histograms, federation, prepared, embeddings[name], own)
        keep = private_store(federation.directory, name).path(EVALUATION)
        kept = read_arrays(federation.doors[name].perform(evaluation_release(federation.plans[name]), draw, keep))
        found[name] = histograms_from_arrays(kept)
    return found


def _test_histograms(
    federation: Federation,
    prepared: PreparedMarket,
    embedding: Embedding,
    quantizers: Mapping[int, RQVAE],
    noise: NoiseSource,
) -> Result:
    config, market = federation.config, prepared.market
    bench, per_positive = private_trainer(prepared, embedding, config), config.data.negatives_per_positive
    # candidates and noise have streams of their own: how many candidates there are must not shift the noise
    candidates = private_candidates(
        market,
        prepared.split.test,
        bench.negatives().weights,
        per_positive=per_positive,
        noise=noise.derive("candidates"),
    )
    probabilities = []
    for seed in config.seed:
        path = RunDirectory(federation.directory).ctr(market.name, seed)
        model, features = bench.load(read_bytes(path), path, quantizers[seed], seed)
        probabilities.append(model.predict_alone(features(candidates.user, candidates.item)))
    multiplier = federation.plans[market.name].noise[EVALUATION]
    found = release_histograms(
        candidates, probabilities, multiplier, noise.derive("noise"), per_positive=per_positive, spare=ENOUGH
    )
    return Result(arrays_bytes({"counts": found.counts, "noise": np.array(found.noise)}), found.spare)


def _ctr_meter(directory: Path, market: str, seed: int) -> Path:
    return RunDirectory(directory).meter(market, seed)


def published_user_codes(federation: Federation, market: str) -> dict[int, IntArray] | None:
    """The randomised user codes ``(n_users, 2)`` of each seed; None if none are published."""
    if federation.config.privacy.user_codes_epsilon is None:
        return None
    store = private_store(federation.directory, market)
    return {seed: store.arrays(seed_stage(USER_CODES, seed), dict)["codes"] for seed in federation.config.seed}


def publish_user_codes(
    federation: Federation,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
) -> None:
    """User codes, each pair of codes randomised as one of ``n_global · n_local`` values; only if configured."""
    if federation.config.privacy.user_codes_epsilon is None:
        return
    for name in markets:
        store = private_store(federation.directory, name)
        for seed in federation.config.seed:
            draw = partial(_randomised, federation, embeddings[name], quantizers[seed][name])
            release = user_codes_release(federation.plans[name], seed)
            federation.doors[name].perform(release, draw, store.path(release.stage))


def _randomised(federation: Federation, embedding: Embedding, model: RQVAE, noise: NoiseSource) -> Result:
    quantizer, epsilon = federation.config.quantizer, federation.config.privacy.user_codes_epsilon
    if epsilon is None:
        raise ValueError("no user codes are published")
    codes = assign_codes(model, embedding.user_factors_, embedding.item_factors_).user
    pairs = codes[:, 0] * quantizer.local_codes + codes[:, 1]
    found = randomise(pairs, quantizer.global_codes * quantizer.local_codes, epsilon, noise, spare=ENOUGH)
    both = np.stack([found.values // quantizer.local_codes, found.values % quantizer.local_codes], axis=1)
    return Result(arrays_bytes({"codes": both}), found.spare)
