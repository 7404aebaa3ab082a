"""A whole federation played again with noise of its own, all markets honest, or one of them not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.in_process import connect, run_rounds
from fedmm_secure.federation.parties import Federation, make_clients, open_federation
from fedmm_secure.pipeline import embed_markets, pseudo_rows, refine
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.base import IntVector
from privacy.mechanisms.dp_sgd import NoisedSteps
from privacy.mechanisms.randomness import NoiseSource

Tamper = Callable[[FloatArray, FloatArray, int], FloatArray]
"""What a malicious market sends: from its honest movement and the codewords ``(n_codes, dim)``, and the cohort size."""

BOOST = 10.0  # as by Bagdasaryan et al., AISTATS 2020


@dataclass(frozen=True)
class Federated:
    """Global codewords after the last round: of all markets, and as the market's own update left them."""

    aggregate: FloatArray
    own: FloatArray | None


@dataclass(frozen=True)
class Coded:
    """What CTR models of one pipeline build on."""

    embedding: Embedding
    quantizer: RQVAE | None = None
    federated: Federated | None = None


def federate(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    noise: Mapping[str, Mapping[str, float]],
    seed: int,
    embeddings: Mapping[str, Embedding] | None = None,
    malicious: Mapping[str, Tamper] | None = None,
) -> dict[str, Coded]:
    """What the rounds leave every market with.

    Sums are in the clear: they are those of any aggregation, to the last bit. Where parts of one noise are summed, the
    aggregation is the configured one, for that is not admitted in the clear.

    Args:
        config: of the run, without a noise seed.
        markets: all of them.
        noise: by market and stage group, noise multipliers; empty without DP.
        seed: of initialisation and order.
        embeddings: raw ones; None where they are released with noise, and drawn here.
        malicious: by market, what it sends in place of its movement.
    """
    kind = config.aggregation.kind if config.privacy.distributed_noise else "plaintext"
    aggregation = config.aggregation.model_copy(update={"kind": kind, "rotate_after": None})
    config = config.model_copy(update={"seed": (seed,), "aggregation": aggregation})
    with tempfile.TemporaryDirectory(prefix="fedmm-shadow-") as scratch:
        federation = open_federation(config, markets, Path(scratch), noise=noise)
        own = dict(embeddings) if embeddings is not None else embed_markets(federation, markets)
        models = _rounds(federation, seed, own, malicious or {})
        words = {name: _codewords(model).copy() for name, model in models.items()}
        own, quantizers = refine(federation, markets, own, {seed: models})
    return {name: Coded(own[name], quantizers[seed][name], Federated(words[name], None)) for name in markets}


def _rounds(
    federation: Federation, seed: int, embeddings: Mapping[str, Embedding], malicious: Mapping[str, Tamper]
) -> dict[str, RQVAE]:
    honest = make_clients(federation, seed, embeddings, pseudo_rows(federation.config, seed, dict(embeddings)))
    clients: list[MarketClient] = [
        _Malicious(client, federation, malicious[client.market]) if client.market in malicious else client
        for client in honest
    ]
    rounds, timeout = federation.config.federation.rounds, federation.config.federation.round_timeout
    run_rounds(honest[0].stage, rounds, clients, connect(federation), federation.transcript, None, timeout)
    return {client.market: client.trainer.model for client in clients}


def _codewords(model: RQVAE) -> np.ndarray:
    return model.global_codebook.codewords.detach().numpy()


class _Malicious(MarketClient):
    """Trains, charges and masks as every market does, and sends something else.

    Where markets sum gradients, the tampered direction is sent ``BOOST`` times as long as the honest gradient: all step
    by Adam, which takes direction for length.
    """

    def __init__(self, honest: MarketClient, federation: Federation, tamper: Tamper) -> None:
        state = RunDirectory(federation.directory).rounds(honest.stage)
        super().__init__(honest.plan, honest.trainer, honest.door, state)
        self._tamper, self._cohort = tamper, len(federation.plans)

    def _train(self, round: int, source: NoiseSource | None) -> tuple[NoisedSteps, IntVector]:
        codewords = self._start.astype(np.float64)
        steps, values = super()._train(round, source)
        if self.spending.sends_gradient(round):
            gradient = values.reshape(codewords.shape).astype(np.float64)
            wanted = -self._tamper(-gradient, codewords, self._cohort).ravel()
            longest = BOOST * np.linalg.norm(gradient) / max(float(np.linalg.norm(wanted)), 1e-12)
            return steps, np.rint(longest * wanted).astype(np.int64)
        codec = self.door.channel.codec
        movement = codec.decode(values).reshape(codewords.shape)
        sent = np.clip(self._tamper(movement, codewords, self._cohort), -codec.clip, codec.clip)
        return steps, codec.encode(sent.ravel())
