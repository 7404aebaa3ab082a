"""The stages in order: data, embeddings, federated codes, CTR models, metrics.

Each market embeds its users and items; RQ-VAEs are trained, with the global codebook aggregated over the
federation; the codes feed each market's CTR model. Every stage keeps its result in the run directory, so that
a killed run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from dp_accounting import dp_event

from fedmm_secure.artefacts import save_codes, save_predictions, save_quantizer
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.bench import bench_market
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.in_process import run_rounds
from fedmm_secure.federation.server import Rejection
from fedmm_secure.federation.setup import (
    EMBEDDING_STAGE,
    MarketAccount,
    ctr_stage,
    default_delta,
    make_aggregation,
    make_clients,
    make_server,
    plan_noise,
    quantizer_stage,
    run_id,
)
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.results import Metrics, collect_metrics, communication, describe
from fedmm_secure.storage import Store, write_json
from privacy.accounting.ledger import Entry, Ledger
from privacy.accounting.statement import Guarantee, conditional_guarantee, view_guarantee

VIEWS = ("server", "market", "collusion", "consumer", "release")
PROFILE = Guarantee(
    None,
    0.0,
    "user",
    "none: a user's code, embedding and scores are computed from that user's own rows",
)

Listener = Callable[[str, Mapping[str, Any]], None]


def run_pipeline(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    directory: Path,
    listener: Listener = lambda event, fields: None,
) -> Metrics:
    """Run, or go on with, all stages; leaves ledgers, transcript, codes, models and ``metrics.json``.

    Args:
        config: the resolved configuration.
        markets: what ``prepare_markets`` made of it; nothing is written before the data is known to be good.
        directory: the run directory.
        listener: told of progress as (event, fields).
    """
    torch.set_num_threads(1)  # results must not depend on the machine's cores; markets run in parallel
    clock = Clock(directory / "state")
    for name, prepared in markets.items():
        listener("market", {"market": name, **describe(prepared)})
    with clock.stage("embedding"):
        embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in markets.items()}
    with clock.stage("budget"):
        accounts = open_accounts(config, directory, markets)
    with clock.stage("quantizer"):
        quantizers = {
            seed: train_federated(config, seed, directory, embeddings, accounts, listener) for seed in config.seed
        }
    save_codes(config, directory, markets, embeddings, quantizers)
    with clock.stage("ctr"):
        record_ctr(config, accounts)
        predictions = train_ctr(config, directory, markets, embeddings, quantizers, listener)
    with clock.stage("metrics"):
        metrics = collect_metrics(config, markets, embeddings, quantizers, predictions)
        metrics["privacy"] = {"markets": {name: guarantees(config, accounts[name].ledger.entries) for name in markets}}
        metrics["communication"] = communication(directory / "transcript", config.federation.rounds)
    save_predictions(directory, markets, predictions)
    metrics["seconds"] = clock.seconds()
    write_json(directory / "metrics.json", metrics)
    return metrics


def open_accounts(
    config: Config,
    directory: Path,
    markets: Mapping[str, PreparedMarket],
    noise: Mapping[str, float | None] | None = None,
) -> dict[str, MarketAccount]:
    """Open each market's ledger and note what the embeddings were computed from.

    ``noise`` gives the noise multipliers; by default they are solved from the budget, once per run directory.
    """
    accounts = {}
    store = Store(directory / "state")
    for name, prepared in markets.items():
        delta = config.privacy.delta or default_delta(prepared.market.n_users)
        if noise is None:
            planned = store.json(f"budget/{name}", partial(_planned, config, delta))["noise_multiplier"]
        else:
            planned = noise[name]
        ledger = Ledger(directory / "ledger" / f"{name}.jsonl")
        account = MarketAccount(ledger, delta, planned)
        _note_stage(
            account,
            Entry(
                market=name,
                stage=EMBEDDING_STAGE,
                event=dp_event.NonPrivateDpEvent(),
                mechanism=f"none: {config.embedding.kind} on raw interactions",
                audience=(),
                depends_on=(),
                sensitivity=None,
                delta=delta,
                seeded=False,
            ),
        )
        accounts[name] = account
    return accounts


def _planned(config: Config, delta: float) -> dict[str, float | None]:
    return {"noise_multiplier": plan_noise(config, delta)}


def train_federated(
    config: Config,
    seed: int,
    directory: Path,
    embeddings: Mapping[str, Embedding],
    accounts: Mapping[str, MarketAccount],
    listener: Listener = lambda event, fields: None,
) -> dict[str, RQVAE]:
    """Train each market's RQ-VAE with the global codebook aggregated; returns the markets' models."""
    state, transcript = directory / "state", Transcript(directory / "transcript")
    run = run_id(state)
    aggregation = make_aggregation(config, len(embeddings), state / "keys")
    clients = make_clients(config, seed, embeddings, accounts, aggregation, transcript, run, state)
    server = make_server(config, list(embeddings), aggregation, transcript, run)

    def on_round(round: int, clients: Sequence[MarketClient], rejections: Sequence[Rejection]) -> None:
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

    run_rounds(quantizer_stage(seed), config.federation.rounds, clients, server, transcript, on_round)
    for client in clients:
        save_quantizer(client.trainer.model, directory, client.plan.market, seed)
    return {client.plan.market: client.trainer.model for client in clients}


def train_ctr(
    config: Config,
    directory: Path,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
    listener: Listener = lambda event, fields: None,
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Test predictions ``[market][model][seed]``; markets are trained in parallel, largest first."""
    order = sorted(markets, key=lambda name: -markets[name].market.n_rows)
    tasks = (
        joblib.delayed(bench_market)(
            markets[name],
            embeddings[name],
            {seed: _frozen(quantizers[seed][name]) for seed in config.seed},
            config,
            directory,
        )
        for name in order
    )
    parallel = joblib.Parallel(n_jobs=min(config.workers, len(order)), return_as="generator_unordered")
    found = {}
    for name, predictions in parallel(tasks):
        found[name] = predictions
        listener("ctr", {"market": name, "done": len(found), "markets": len(order)})
    return {name: found[name] for name in markets}


def _frozen(model: RQVAE) -> RQVAE:
    """A copy without Opacus' hooks, which do not travel to another process."""
    config_free = RQVAE(model.shape, torch.Generator())
    config_free.load_state_dict(model.state_dict())
    return config_free


def record_ctr(config: Config, accounts: Mapping[str, MarketAccount]) -> None:
    """Note in each ledger that the CTR models are trained on raw rows, for the views that see them."""
    for name, account in accounts.items():
        for seed in config.seed:
            _note_stage(
                account,
                Entry(
                    market=name,
                    stage=ctr_stage(seed),
                    event=dp_event.NonPrivateDpEvent(),
                    mechanism=f"none: {config.ctr.model} on raw interactions; stays in the market",
                    audience=("consumer", "release"),
                    depends_on=(EMBEDDING_STAGE, quantizer_stage(seed)),
                    sensitivity=None,
                    delta=account.delta,
                    seeded=False,
                ),
            )


def _note_stage(account: MarketAccount, entry: Entry) -> None:
    if not any(known.stage == entry.stage for known in account.ledger.entries):
        account.ledger.append(entry)


def guarantees(config: Config, entries: Sequence[Entry]) -> dict[str, Any]:
    """The (ε, δ) of every view, and of DP-SGD alone, from one market's ledger."""
    encrypted = config.aggregation.kind != "plaintext"
    found: dict[str, Any] = {
        view: asdict(view_guarantee(entries, view, encrypted=encrypted and view == "server")) for view in VIEWS
    }
    found["profile"] = asdict(PROFILE) | {"delta": entries[0].delta}
    alone = conditional_guarantee(entries, "quantizer/")
    found["stages"] = {"quantizer": None if alone is None else asdict(alone)}
    return found


class Clock:
    """Seconds spent in each stage, added up over resumed runs."""

    def __init__(self, state: Path) -> None:
        self._path = state / "seconds.json"
        self._spent: dict[str, float] = Store(state).json("seconds", dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - start
            write_json(self._path, self._spent)

    def seconds(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self._spent.items()}
