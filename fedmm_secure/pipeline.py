"""The stages in order: data, embeddings, federated codes, CTR models, metrics.

Each market embeds its users and items; RQ-VAEs are trained, with the global codebook aggregated over the
federation; the codes feed each market's CTR model. Every stage keeps its result in the run directory, so that
a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.collaborative.pseudo_users import draw_pseudo_users
from fedmm_secure.config import Config, EvaluationConfig
from fedmm_secure.ctr.market_models import train_market
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.data.shared_users import refuse_shared_users
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.across_markets import stated_guarantees
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.closing import close_ledgers, is_closed, refuse_another
from fedmm_secure.federation.foresight import look_ahead
from fedmm_secure.federation.head_client import HeadClient
from fedmm_secure.federation.in_process import connect, run_rounds
from fedmm_secure.federation.orders import Rejection
from fedmm_secure.federation.parties import Federation, make_clients, open_federation
from fedmm_secure.federation.releases import (
    begin_ctr,
    discover_catalogues,
    embed_privately,
    private_training,
    publish_ctr,
    publish_quantizer,
    publish_user_codes,
    published_user_codes,
    release_test_figures,
)
from fedmm_secure.federation.shared_catalogue import shared_svd, sum_client, totals
from fedmm_secure.field.compare import train_field, wanted
from fedmm_secure.field.rounds import Traffic
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import HEAD, QUANTIZER, SUMMED, seed_stage
from fedmm_secure.quantization.build import refine_quantizer
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.results.artefacts import save_codes, save_predictions, save_quantizer
from fedmm_secure.results.metrics import RunMetrics, collect_metrics, communication, describe, stated_catalogues
from fedmm_secure.results.tasks import add_tasks
from fedmm_secure.storage.cache import Cache
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_metrics
from fedmm_secure.storage.stopwatch import Stopwatch
from privacy.aggregation.identities import Identity

Listener = Callable[[str, Mapping[str, Any]], None]
Embeddings = dict[str, Embedding]
Quantizers = dict[int, dict[str, RQVAE]]


def tell_all(listeners: Sequence[Listener]) -> Listener:
    """A listener that passes on to each of several."""

    def listener(event: str, fields: Mapping[str, Any]) -> None:
        for told in listeners:
            told(event, fields)

    return listener


def run_pipeline(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    directory: Path,
    listener: Listener = lambda event, fields: None,
    cache: Cache | None = None,
    signer: Identity | None = None,
) -> RunMetrics:
    """Run, or go on with, all stages; leaves ledgers, transcript, codes, models and ``metrics.json``.

    Args:
        config: the resolved configuration.
        markets: what ``prepare_markets`` made of it; nothing is written before the data is known to be good.
        directory: the run directory.
        listener: told of progress as (event, fields).
        cache: where runs share what they compute without noise; by default they share nothing.
        signer: who signs the last line of each ledger; by default each market's own identity of the run, which proves
            nothing to others.

    Raises:
        BudgetExceededError: a release would spend more than a market's budget.
        RunDirectoryError: a finished run of something else is there.
        DataError: markets have user ids in common, and the configuration does not say what that means.
        ValueError: a market has another name than it is given under, or another kind of catalogue than was configured.
    """
    other = [name for name, prepared in markets.items() if prepared.market.name != name]
    if other:  # plans, doors and accounts go by it: the rows of one would be charged to another
        raise ValueError(f"market {other[0]}: is called {markets[other[0]].market.name} in its rows")
    if config.catalogue != "discovered":  # which none has yet
        stated_catalogues(config, markets)
    if is_closed(directory, markets):
        refuse_another(config, markets, directory)
        return read_metrics(directory)
    refuse_shared_users(config, markets)
    torch.set_num_threads(1)  # results must not depend on the machine's cores; markets run in parallel
    clock = Stopwatch(RunDirectory(directory).state, listener)
    listener("started", {"config": config.model_dump(mode="json")})
    for name, prepared in markets.items():
        listener("market", {"market": name, **describe(prepared)})
    with clock.stage("budget"):
        account = account_of(config, directory)
        ahead = look_ahead(config, markets, directory, account)
        listener("outlook", {"markets": {name: asdict(found) for name, found in ahead.items()}})  # nothing is spent yet
        federation = open_federation(config, markets, directory, account=account, signer=signer)
    with clock.stage("catalogue"):
        federation, markets = discover_catalogues(federation, markets)
    if config.data.shared_items:
        with clock.stage("sums"):
            sum_over_markets(federation, markets, listener)
    with clock.stage("embedding"):
        embeddings = embed_markets(federation, markets, cache)
    with clock.stage("quantizer"):
        quantizers = {seed: train_federated(federation, seed, embeddings, listener) for seed in config.seed}
    if config.head.trees:
        with clock.stage("head"):
            grow_head(federation, markets, listener)
    with clock.stage("quantizer"):
        federation.forget_masks()
        publish_quantizers(federation, embeddings, quantizers)
    return conclude(federation, markets, embeddings, quantizers, clock, listener, cache)


def conclude(
    federation: Federation,
    markets: Mapping[str, PreparedMarket],
    embeddings: Embeddings,
    quantizers: Quantizers,
    clock: Stopwatch,
    listener: Listener = lambda event, fields: None,
    cache: Cache | None = None,
) -> RunMetrics:
    """The stages after the rounds, which each market can do by itself: codes, CTR models, metrics."""
    config, directory = federation.config, federation.directory
    with clock.stage("refinement"):
        embeddings, quantizers = refine(federation, markets, embeddings, quantizers, cache)
    save_codes(config, directory, markets, embeddings, quantizers)
    publish_user_codes(federation, markets, embeddings, quantizers)
    with clock.stage("ctr"):
        predictions = train_ctr(federation, markets, embeddings, quantizers, listener, cache)
    traffic: Mapping[str, Traffic] = {}
    if wanted(config):
        with clock.stage("field"):
            field = train_field(config, markets, embeddings, directory)
            predictions = {name: {**predictions[name], **field.predictions[name]} for name in markets}
            traffic = field.traffic
    with clock.stage("evaluation"):
        histograms = release_test_figures(federation, markets, embeddings, quantizers)
    with clock.stage("metrics"):
        metrics = collect_metrics(
            config, markets, embeddings, quantizers, predictions, histograms, federation.commitments(markets)
        )
        for name, sent in traffic.items():
            metrics["macro"]["baselines"][name]["communication"] = asdict(sent)
    if config.evaluation != EvaluationConfig():
        with clock.stage("tasks"):
            add_tasks(metrics, config, markets, directory)
    with clock.stage("metrics"):
        metrics["privacy"] |= stated_guarantees(federation, markets)
        metrics["communication"] = communication(federation.transcript.records, config.federation.rounds)
    save_predictions(directory, markets, predictions)
    # what a stage took depends on its rows: under a budget that stays in the market, in ``state/``
    told = config.privacy.epsilon is None
    metrics["seconds"], metrics["memory"] = (clock.seconds(), clock.memory()) if told else ({}, {})
    metrics = close_ledgers(federation, metrics)
    listener("finished", metrics)
    return metrics


def sum_over_markets(federation: Federation, markets: Mapping[str, PreparedMarket], listener: Listener) -> None:
    """Sum counts, times and co-occurrence of the catalogue's items over all markets."""
    for stage in SUMMED:
        clients = [sum_client(federation, prepared, stage) for prepared in markets.values()]
        if any(client.next_round == 0 for client in clients):
            timeout = federation.config.federation.round_timeout
            run_rounds(stage, 1, clients, connect(federation), federation.transcript, None, timeout)
        listener("summed", {"stage": stage, "markets": len(clients)})


def grow_head(federation: Federation, markets: Mapping[str, PreparedMarket], listener: Listener) -> None:
    """Grow the head of all markets, a level a round."""
    rounds, timeout = federation.config.head.rounds, federation.config.federation.round_timeout
    clients = [HeadClient(federation, prepared) for prepared in markets.values()]

    def on_round(round: int, rejections: Sequence[Rejection]) -> None:
        for found in rejections:
            listener("rejected", asdict(found))
        listener("head", {"round": round + 1, "rounds": rounds})

    if any(client.next_round < rounds for client in clients):
        run_rounds(HEAD, rounds, clients, connect(federation), federation.transcript, on_round, timeout)
    for client in clients:
        client.save()


def embed_markets(
    federation: Federation, markets: Mapping[str, PreparedMarket], cache: Cache | None = None
) -> Embeddings:
    """Each market's embeddings, and the ledger lines of what they were computed from."""
    found: Embeddings = {}
    for name, prepared in markets.items():
        if federation.config.private_embedding:
            found[name] = embed_privately(federation, prepared)
        else:
            federation.doors[name].note(federation.plans[name].raw_embedding())
            found[name] = embed_raw(federation, prepared, cache)
    return found


def embed_raw(federation: Federation, prepared: PreparedMarket, cache: Cache | None = None) -> Embedding:
    """A market's embedding of its raw rows: in the space of all markets where they share a catalogue."""
    if federation.config.data.shared_items:
        return shared_svd(totals(federation), prepared)
    return fit_embedding(prepared, federation.config.embedding, cache)


def train_federated(
    federation: Federation,
    seed: int,
    embeddings: Mapping[str, Embedding],
    listener: Listener = lambda event, fields: None,
) -> dict[str, RQVAE]:
    """Train each market's RQ-VAE with the global codebook aggregated; returns the markets' models."""
    config, stage = federation.config, seed_stage(QUANTIZER, seed)
    clients = make_clients(federation, seed, embeddings, pseudo_rows(config, seed, embeddings))

    def on_round(round: int, rejections: Sequence[Rejection]) -> None:
        for found in rejections:
            listener("rejected", asdict(found))
        trained = {c.plan.market: asdict(c.last) for c in clients if c.last is not None}
        spent = None
        if config.privacy.epsilon is not None:
            spent = max(client.door.spent() for client in clients)
        listener(
            "round",
            {
                "seed": seed,
                "round": round + 1,
                "rounds": config.federation.rounds,
                "loss": float(np.mean([found["loss"] for found in trained.values()])) if trained else None,
                "epsilon": spent,
                "markets": trained,
            },
        )

    if any(client.next_round < config.federation.rounds for client in clients):
        server, timeout = connect(federation), config.federation.round_timeout
        run_rounds(stage, config.federation.rounds, clients, server, federation.transcript, on_round, timeout)
    return {client.plan.market: keep_quantizer(federation, client) for client in clients}


def keep_quantizer(federation: Federation, client: MarketClient) -> RQVAE:
    """Save what the rounds left a market with."""
    model = client.trainer.model
    save_quantizer(model, federation.directory, client.plan.market, client.plan.seed)
    return model


def publish_quantizers(federation: Federation, embeddings: Embeddings, quantizers: Quantizers) -> None:
    """Let out the models and the item codes, where configured, once all rounds are over."""
    for seed, models in quantizers.items():
        for name, model in models.items():
            publish_quantizer(federation, name, seed, model, embeddings[name])


def pseudo_rows(config: Config, seed: int, embeddings: Mapping[str, Embedding]) -> dict[str, FloatArray]:
    """Embedded pseudo-users of each market with private embeddings: more rows that cost no budget."""
    found = {}
    for name, embedding in embeddings.items():
        if isinstance(embedding, DPSVDEmbedding) and config.privacy.pseudo_users:
            rng = numpy_generator("quantizer-pseudo-users", name, seed)
            pseudo = draw_pseudo_users(embedding, config.privacy.pseudo_users, rng)
            found[name] = embedding.transform(pseudo.history)
    return found


def refine(
    federation: Federation,
    markets: Mapping[str, PreparedMarket],
    embeddings: Embeddings,
    quantizers: Quantizers,
    cache: Cache | None = None,
) -> tuple[Embeddings, Quantizers]:
    """Under ``protect: federation``, each market's own codes on raw embeddings, the global codebook frozen.

    What left the market is private already; this stays inside, and no view but ``consumer`` and ``release`` of the
    market's own models depends on it. Otherwise everything is returned as it came.
    """
    config = federation.config
    if not any(plan.refines for plan in federation.plans.values()):
        return embeddings, quantizers
    raw = {name: embed_raw(federation, prepared, cache) for name, prepared in markets.items()}
    refined = {
        seed: {name: refine_quantizer(config, model, raw[name], name, seed) for name, model in models.items()}
        for seed, models in quantizers.items()
    }
    for name in markets:
        federation.doors[name].note(federation.plans[name].refinement())
        for seed, models in refined.items():
            save_quantizer(models[name], federation.directory, name, seed, kind="refined")
    return raw, refined


def train_ctr(
    federation: Federation,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
    listener: Listener = lambda event, fields: None,
    cache: Cache | None = None,
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Test predictions ``[market][model][seed]``; markets are trained in parallel, and publish when all are done.

    Which of them was done first tells who has more rows: nothing that is handed out may follow from it.
    """
    config = federation.config
    order = largest_first(federation.plans)
    begun = {name: begin_ctr(federation, name) for name in order}
    tasks = (
        joblib.delayed(train_market)(
            markets[name],
            embeddings[name],
            {seed: _frozen(quantizers[seed][name]) for seed in config.seed},
            config,
            federation.directory,
            private_training(federation, name, begun[name]),
            published_user_codes(federation, name),
            cache,
        )
        for name in order
    )
    parallel = joblib.Parallel(n_jobs=min(config.workers, len(order)), return_as="generator_unordered")
    found = {}
    for name, predictions in parallel(tasks):
        found[name] = predictions
        listener("ctr", {"market": name, "done": len(found), "markets": len(order)})
    for name in order:
        publish_ctr(federation, name, begun[name])
    return {name: found[name] for name in markets}


def largest_first(plans: Mapping[str, SpendingPlan]) -> list[str]:
    """Markets by their public number of users: rows are not public, nor is which market has more of them."""
    return sorted(plans, key=lambda name: (-plans[name].size.users, name))


def _frozen(model: RQVAE) -> RQVAE:
    """A copy without Opacus' hooks, which do not travel to another process."""
    config_free = RQVAE(model.shape, torch.Generator())
    config_free.load_state_dict(model.state_dict())
    return config_free
