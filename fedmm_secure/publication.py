"""What each stage lets out, and what the ledger says of it: the pipeline's side of the door.

Under ``protect: release`` this is all that may be published of a market: noisy counts, item factors, the RQ-VAE, item
codes, the CTR model, and user codes only through randomised response. Under ``protect: federation`` nothing but the
messages of the rounds leaves; stages that messages depend on are noted.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from dp_accounting import dp_event

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.private import DPSVDEmbedding, ItemCounts, release_counts
from fedmm_secure.config import Config
from fedmm_secure.data.market import IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.door import Release
from fedmm_secure.federation.setup import (
    COUNTS,
    CTR,
    DECRYPTED_VIEWS,
    EMBEDDING,
    QUANTIZER,
    REFINEMENT,
    Federation,
    planned_stages,
    planned_views,
    run_id,
    seed_stage,
)
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import noise_source
from fedmm_secure.statement import USER_CODES
from fedmm_secure.storage import Arrays, Store, torch_bytes
from privacy.accounting.account import AccountError, PrivacyAccount, Spending
from privacy.accounting.events import randomised_response_event
from privacy.accounting.ledger import stage_group
from privacy.accounting.statement import EARLIER_RUNS
from privacy.mechanisms.dp_svd import PrivateFactors
from privacy.mechanisms.randomised_response import randomise

MODEL, ITEM_CODES = "quantizer-model", "item-codes"
RELEASED = ("release",)
ACCOUNT_FILE = "privacy.account"


def note_raw_embedding(federation: Federation, market: str) -> None:
    """Embeddings computed from raw rows: everything downstream of them is unbounded."""
    mechanism = f"none: {federation.config.embedding.kind} on raw interactions"
    federation.doors[market].note(
        Release(EMBEDDING, mechanism, dp_event.NonPrivateDpEvent(), None, audience=(), depends_on=())
    )


def note_raw_models(federation: Federation) -> None:
    """CTR models trained on raw rows, for the views that would see them."""
    for market, door in federation.doors.items():
        refined = any(entry.stage == REFINEMENT for entry in federation.entries(market))
        for seed in federation.config.seed:
            upstream = REFINEMENT if refined else EMBEDDING
            door.note(
                Release(
                    seed_stage(CTR, seed),
                    f"none: {federation.config.ctr.model} on raw interactions; stays in the market",
                    dp_event.NonPrivateDpEvent(),
                    None,
                    audience=("consumer", "release"),
                    depends_on=(upstream, seed_stage(QUANTIZER, seed)),
                )
            )


def note_refinement(federation: Federation, market: str) -> None:
    """The market's own codes, refined on raw rows against the frozen global codebook; they stay inside."""
    stages = tuple(seed_stage(QUANTIZER, seed) for seed in federation.config.seed)
    federation.doors[market].note(
        Release(
            REFINEMENT,
            "none: encoder and local codebook refined on raw interactions; stays in the market",
            dp_event.NonPrivateDpEvent(),
            None,
            audience=("consumer", "release"),
            depends_on=stages,
        )
    )


def embed_privately(federation: Federation, prepared: PreparedMarket) -> DPSVDEmbedding:
    """Noisy counts, then private item factors; drawn once a run directory, entered before anything builds on them."""
    config, market, train = federation.config, prepared.market, prepared.split.train
    noise, seed = federation.noise[market.name], config.privacy.noise_seed
    store = private_store(federation.directory, market.name)

    def draw_counts() -> Arrays:
        source = noise_source(seed, COUNTS, market.name)
        return release_counts(market, train, config.privacy.contribution, noise[COUNTS], source).to_arrays()

    counts = ItemCounts.from_arrays(store.arrays(COUNTS, draw_counts))
    event = dp_event.GaussianDpEvent(noise[COUNTS])
    _let_out(federation, store, market.name, Release(COUNTS, "noisy item counts", event, 1.0, RELEASED, ()))

    embedding = DPSVDEmbedding(counts, config.embedding.private)
    matrix = history_matrix(market, train)

    def draw_factors() -> Arrays:
        found = embedding.release(matrix, noise[EMBEDDING], noise_source(seed, EMBEDDING, market.name))
        edge = np.array(found.noise_edge)
        items = embedding.items_
        return {"items": items, "factors": found.factors, "eigenvalues": found.eigenvalues, "noise_edge": edge}

    kept = store.arrays(EMBEDDING, draw_factors)
    single = dp_event.GaussianDpEvent(noise[EMBEDDING])
    if embedding.uses_gram:
        release = Release(EMBEDDING, "DP-SVD, noisy Gram matrix", single, 1.0, RELEASED, (COUNTS,))
    else:
        repeated = dp_event.SelfComposedDpEvent(single, config.embedding.private.iterations)
        release = Release(EMBEDDING, "DP-SVD, noisy subspace iteration", repeated, 1.0, RELEASED, (COUNTS,))
    _let_out(federation, store, market.name, release)
    return embedding.set_factors(factors_from_arrays(kept), matrix)


def factors_from_arrays(kept: Arrays) -> PrivateFactors:
    """Private factors as they were stored."""
    spare = kept.get("spare", np.zeros((0, 0), dtype=np.int64))
    return PrivateFactors(kept["factors"], kept["eigenvalues"], float(kept["noise_edge"]), spare)


def private_store(directory: Path, market: str) -> Store:
    """Where a market keeps what it drew, so that a resumed run does not draw it again."""
    return Store(directory / "state" / "private" / market)


def _let_out(federation: Federation, store: Store, market: str, release: Release) -> None:
    """Publish a stored result under ``protect: release``; note it where it stays in the market."""
    door = federation.doors[market]
    if federation.config.private_ctr:
        door.publish(release, store.path(release.stage).read_bytes())
    else:
        door.note(replace(release, audience=()))


def publish_quantizer(federation: Federation, market: str, seed: int, model: RQVAE, embedding: Embedding) -> None:
    """Codebooks, encoder, decoder and item codes: post-processing of the rounds and of the item factors."""
    if not federation.config.private_ctr:
        return
    door, stage = federation.doors[market], seed_stage(QUANTIZER, seed)
    free = dp_event.NoOpDpEvent()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    door.publish(
        Release(seed_stage(MODEL, seed), "post-processing: RQ-VAE", free, None, RELEASED, (EMBEDDING, stage)),
        torch_bytes(weights),
    )
    items = assign_codes(model, np.zeros((0, embedding.item_factors_.shape[1])), embedding.item_factors_).item
    door.publish(
        Release(seed_stage(ITEM_CODES, seed), "post-processing: item codes", free, None, RELEASED, (EMBEDDING, stage)),
        _array_bytes(items),
    )


def publish_ctr(federation: Federation, market: str) -> None:
    """The CTR models of a market, as they were kept when their training ended."""
    config, door = federation.config, federation.doors[market]
    planned = {stage.name: stage for stage in planned_stages(config, federation.n_items[market])}[CTR]
    choices = config.privacy.ctr
    for seed in config.seed:
        one = planned.single_repetition(len(config.seed))
        release = Release(
            seed_stage(CTR, seed),
            f"user-level DP-SGD of {config.ctr.model}",
            one.event(federation.noise[market][CTR]),
            choices.clipping_norm,
            audience=("consumer", "release"),
            depends_on=(COUNTS, EMBEDDING, seed_stage(QUANTIZER, seed)),
        )
        path = federation.directory / "models" / market / f"ctr-{seed}.pt"
        door.publish(release, path.read_bytes())


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
    config, epsilon = federation.config, federation.config.privacy.user_codes_epsilon
    if epsilon is None:
        return
    sizes = (config.quantizer.global_codes, config.quantizer.local_codes)
    for name in markets:
        store = private_store(federation.directory, name)
        for seed in config.seed:
            stage = seed_stage(USER_CODES, seed)
            draw = partial(_randomised, federation, name, embeddings[name], quantizers[seed][name], seed, epsilon)
            store.arrays(stage, draw)
            federation.doors[name].publish(
                Release(
                    stage,
                    "k-ary randomised response on each user's pair of codes",
                    randomised_response_event(epsilon, sizes[0] * sizes[1]),
                    None,
                    audience=("profile",),
                    depends_on=(EMBEDDING, seed_stage(QUANTIZER, seed)),
                    unit="user",
                    remark="local: protects a change of the user's own rows",
                ),
                store.path(stage).read_bytes(),
            )


def _randomised(
    federation: Federation, market: str, embedding: Embedding, model: RQVAE, seed: int, epsilon: float
) -> Arrays:
    quantizer = federation.config.quantizer
    noise = noise_source(federation.config.privacy.noise_seed, USER_CODES, market, seed)
    codes = assign_codes(model, embedding.user_factors_, embedding.item_factors_).user
    joint = randomise(codes[:, 0] * quantizer.local_codes + codes[:, 1], quantizer.global_codes * quantizer.local_codes,
                      epsilon, noise).values  # fmt: skip
    return {"codes": np.stack([joint // quantizer.local_codes, joint % quantizer.local_codes], axis=1)}


def register_spending(federation: Federation, markets: Mapping[str, PreparedMarket]) -> None:
    """Enter what the run will spend in the data's privacy account, and what earlier runs spent in the ledger."""
    config = federation.config
    account = PrivacyAccount(config.privacy.account or federation.directory.resolve().parent / ACCOUNT_FILE)
    state = Store(federation.directory / "state" / "account")
    for name, prepared in markets.items():
        door, market = federation.doors[name], prepared.market
        rows = (
            f"{market.user_ids[user]}\x1f{market.item_ids[item]}".encode()
            for user, item in zip(market.user.tolist(), market.item.tolist(), strict=True)
        )
        planned = planned_views(config, federation.noise[name], federation.n_items[name], federation.n_markets)
        spending = Spending(federation.run, planned)
        fingerprint = account.fingerprint(rows)
        state.json(name, lambda fingerprint=fingerprint: {"fingerprint": fingerprint})  # type: ignore[misc]
        earlier = account.register(fingerprint, spending)
        events = {
            view: dp_event.ComposedDpEvent([run.events[view] for run in earlier if view in run.events])
            for view in DECRYPTED_VIEWS
        }
        door.note(
            Release(
                EARLIER_RUNS,
                "what runs before this one spent on the same data",
                dp_event.NoOpDpEvent(),
                None,
                audience=(),
                depends_on=(),
                remark=str(len(earlier)),
                view_events=events,
            )
        )


def spent_on_same_data(config: Config, directory: Path, market: str) -> list[Spending]:
    """What all runs on a market's data spend, this one and later ones included.

    Raises:
        AccountError: the account is not where the run left it, or the run is not in it.
    """
    account = PrivacyAccount(config.privacy.account or directory.resolve().parent / ACCOUNT_FILE)
    path = directory / "state" / "account" / f"{market}.json"
    if not path.is_file():
        raise AccountError(f"{path}: missing; the run's data cannot be found in {account.path}")
    found = account.spendings(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    if run_id(directory / "state") not in {spending.run for spending in found}:
        raise AccountError(f"{account.path}: does not hold this run")
    return found


_Shape = tuple[int, ...]


def publication_problem(stage: str, data: bytes, config: Config, n_users: int, n_items: int) -> str | None:
    """What a publication holds that it must not: a row per user, or something no stage publishes; None if nothing."""
    group = stage_group(stage)
    if group not in (COUNTS, EMBEDDING, MODEL, ITEM_CODES, CTR, USER_CODES):
        return f"{stage} is not a stage that publishes anything"
    try:
        found = _published_shapes(group, data)
    except (ValueError, KeyError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        return f"{stage} cannot be read: {error}"
    expected = _expected_shapes(group, found, config, n_users, n_items)
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            return f"{stage}: {name} of shape {found.get(name)} where {expected.get(name)} was expected"
    return None


def _published_shapes(group: str, data: bytes) -> dict[str, _Shape]:
    stream = io.BytesIO(data)
    if group == ITEM_CODES:
        return {"codes": np.load(stream, allow_pickle=False).shape}
    if group in (MODEL, CTR):
        state = torch.load(stream, weights_only=True)
        tensors = state["network"] if group == CTR else state
        wanted = ("first.weight",) if group == CTR else ("global_codebook.codewords", "local_codebook.codewords")
        return {name: tuple(tensors[name].shape) for name in wanted}
    with np.load(stream, allow_pickle=False) as arrays:
        return {name: arrays[name].shape for name in arrays.files}


def _expected_shapes(
    group: str, found: Mapping[str, _Shape], config: Config, n_users: int, n_items: int
) -> dict[str, _Shape]:
    quantizer, features = config.quantizer, set(config.ctr.features)
    chosen, rank = (*found.get("factors", ()), 0, 0)[:2]
    table = (quantizer.global_codes + quantizer.local_codes) * len({"user_codes", "item_codes"} & features)
    table += n_items if "item_id" in features else 0
    shapes: dict[str, dict[str, _Shape]] = {
        COUNTS: {"values": (n_items,), "noise": ()},
        EMBEDDING: {"items": (chosen,), "factors": (chosen, rank), "eigenvalues": (rank,), "noise_edge": ()},
        ITEM_CODES: {"codes": (n_items, 2)},
        USER_CODES: {"codes": (n_users, 2)},
        MODEL: {
            "global_codebook.codewords": (quantizer.global_codes, quantizer.latent_dim),
            "local_codebook.codewords": (quantizer.local_codes, quantizer.latent_dim),
        },
        CTR: {"first.weight": (max(table, 1), 1)},
    }
    return shapes[group]


def _array_bytes(values: IntArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
