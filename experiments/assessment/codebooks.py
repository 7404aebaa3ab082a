"""Attacks on codebooks and their updates: inversion, reconstruction, use of codes, histories."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from attacks.inversion.assignments import infer_usage
from attacks.inversion.deltas import guess_deltas, recover_deltas
from attacks.inversion.reconstruction import (
    Reconstruction,
    match,
    match_gradient,
    prototypes,
    reconstruct_from_codes,
    reconstruct_from_prototypes,
    recover_histories,
)
from attacks.views import View, owner_values
from experiments.assessment.attacked import Attacked
from experiments.assessment.truth import federated_truth, own_truth, popularity
from fedmm_secure.data.market import FloatArray, history_matrix
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from fedmm_secure.quantization.build import initial_model
from fedmm_secure.randomness import torch_generator
from privacy.aggregation import FixedPointCodec

_WHITE_BOX = "release"


def invert(attacked: Attacked) -> list[dict[str, Any]]:
    """Single updates out of what each view of the federation holds."""
    truth, kind = owner_values(attacked.run), attacked.config.aggregation.kind
    cohort = len(attacked.markets)
    return [
        {"view": name, "aggregation": kind, "cohort": cohort, **asdict(recover_deltas(view, truth))}
        for name, view in attacked.views
    ]


def _movements(attacked: Attacked, view: View) -> FloatArray:
    """The market's movements as the adversary recovers them, ``(rounds, n_codes, latent_dim)``."""
    quantizer = attacked.config.quantizer
    codec = FixedPointCodec(attacked.config.aggregation.clip, attacked.config.aggregation.bits)
    stage = seed_stage(QUANTIZER, attacked.config.seed[0])
    rounds = sorted(
        (round, guess)
        for (found, round, sender), guess in guess_deltas(view).items()
        if (found, sender) == (stage, attacked.market)
    )
    shape = (quantizer.global_codes, quantizer.latent_dim)
    limit = codec.clip  # what is no movement at all is cut to what a movement may be
    return np.stack(
        [np.clip(codec.decode(guess.astype(np.int64)), -limit, limit).reshape(shape) for _, guess in rounds]
    )


def reconstruct(attacked: Attacked) -> list[dict[str, Any]]:
    """Users' embeddings, out of what is published and out of the federation's updates."""
    run, config, prepared = attacked.run, attacked.config, attacked.prepared
    own, federated = own_truth(run, config, prepared), federated_truth(run, config, prepared)
    other = next(name for name in attacked.markets if name != attacked.market)
    prior = prototypes(own_truth(run, config, attacked.markets[other]).quantizer)
    released, users = own.released(), own.embedding.user_factors_
    found: list[tuple[str, Reconstruction]] = [
        ("release and profile", reconstruct_from_codes(released, own.codes.user, users, prior)),
        (_WHITE_BOX, reconstruct_from_prototypes(released, users, prior, attacked.rng("prototypes"))),
    ]
    start, rows = initial_model(config, config.seed[0]), config.quantizer.global_codes
    random = attacked.rng("directions").normal(size=(rows, start.shape.input_dim))
    for name, view in attacked.views:
        guess = match_gradient(start, _movements(attacked, view)[0], rows, torch_generator("attack", attacked.market))
        users = federated.embedding.user_factors_
        found.append((name, match("gradient matching", guess, users, random, attacked.rng("gradient"))))
    return [
        {
            "market": attacked.market,
            "view": view,
            "aggregation": config.aggregation.kind,
            "published": config.private_ctr,
            **asdict(result),
        }
        for view, result in found
    ]


def find_usage(attacked: Attacked) -> list[dict[str, Any]]:
    """Which global codes the market's users have, and who shares one."""
    config = attacked.config
    truth = federated_truth(attacked.run, config, attacked.prepared)
    start, users = initial_model(config, config.seed[0]), truth.embedding.user_factors_
    return [
        {
            "market": attacked.market,
            "view": name,
            "aggregation": config.aggregation.kind,
            **asdict(
                infer_usage(start, _movements(attacked, view), users, truth.codes.user[:, 0], attacked.rng("usage"))
            ),
        }
        for name, view in attacked.views
    ]


def name_items(attacked: Attacked) -> list[dict[str, Any]]:
    """Training items of users, out of their codes and what is published."""
    truth = own_truth(attacked.run, attacked.config, attacked.prepared)
    market, train = attacked.prepared.market, attacked.prepared.split.train
    history = history_matrix(market, train).toarray() > 0
    results = recover_histories(truth.released(), truth.codes.user, history, popularity(attacked.prepared))
    return [
        {
            "market": attacked.market,
            "view": "release and profile",
            "published": attacked.config.private_ctr,
            **asdict(result),
        }
        for result in results
    ]
