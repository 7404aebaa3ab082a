"""A whole federation played again with noise of its own, all markets honest, or one of them not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from fedmm_secure.pipeline import embed_markets, embed_raw, pseudo_rows, refine, sum_over_markets
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
    """Global codewords after the last round, as an adversary sees them.

    Attributes:
        aggregate: as all markets moved them, ``(n_codes, dim)``.
        rest: as the target and those moved them that do not collude: by the number ``t`` of colluding markets, from 1,
            who take their own movements out of the sum, ``(n_markets - 1, n_codes, dim)``. The last is the target's own
            update. None where markets sum gradients.
    """

    aggregate: FloatArray
    rest: FloatArray | None


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
        embeddings: of each market alone; None where they carry noise, or what all markets know, and are made here.
        malicious: by market, what it sends in place of its movement.
    """
    with _opened(config, markets, noise, seed) as federation:
        own = dict(embeddings) if embeddings is not None else embed_markets(federation, markets)
        clients = _rounds(federation, seed, own, malicious or {})
        models = {name: client.trainer.model for name, client in clients.items()}
        seen = {name: _seen(name, clients) for name in markets}
        own, quantizers = refine(federation, markets, own, {seed: models})
    return {name: Coded(own[name], quantizers[seed][name], seen[name]) for name in markets}


def embed_again(
    config: Config, markets: Mapping[str, PreparedMarket], noise: Mapping[str, Mapping[str, float]], *, raw: bool
) -> dict[str, Embedding]:
    """What markets embed by, with noise of its own where there is any, and in one space where they share a catalogue.

    Args:
        config: of the run, without a noise seed.
        markets: all of them.
        noise: by market and stage group, noise multipliers; empty without DP.
        raw: the embedding that stays inside; otherwise the one that rounds work on.
    """
    with _opened(config, markets, noise, config.seed[0]) as federation:
        if raw:
            return {name: embed_raw(federation, prepared) for name, prepared in markets.items()}
        return embed_markets(federation, markets)


@contextmanager
def _opened(
    config: Config, markets: Mapping[str, PreparedMarket], noise: Mapping[str, Mapping[str, float]], seed: int
) -> Iterator[Federation]:
    """A federation in a folder of its own, whose markets have summed what they sum over a shared catalogue."""
    shared = config.data.shared_items and config.privacy.epsilon is not None
    kind = config.aggregation.kind if shared or config.privacy.distributed_noise else "plaintext"
    aggregation = config.aggregation.model_copy(update={"kind": kind, "rotate_after": None})
    config = config.model_copy(update={"seed": (seed,), "aggregation": aggregation})
    with tempfile.TemporaryDirectory(prefix="fedmm-shadow-") as scratch:
        federation = open_federation(config, markets, Path(scratch), noise=noise)
        if config.data.shared_items:
            sum_over_markets(federation, markets, lambda event, fields: None)
        yield federation


def without_colluders(movements: Mapping[str, FloatArray], target: str) -> FloatArray:
    """How the mean of those who do not collude differs from that of all, ``(n_markets - 1, …)``, by colluders from 1.

    Args:
        movements: of all markets, of the same shape.
        target: who does not collude.
    """
    others = [name for name in movements if name != target]
    everybody = np.mean(list(movements.values()), axis=0)
    left = [[target, *others[count:]] for count in range(1, len(movements))]
    return np.stack([np.mean([movements[name] for name in names], axis=0) - everybody for names in left])


def _rounds(
    federation: Federation, seed: int, embeddings: Mapping[str, Embedding], malicious: Mapping[str, Tamper]
) -> dict[str, _Market]:
    honest = make_clients(federation, seed, embeddings, pseudo_rows(federation.config, seed, dict(embeddings)))
    clients = {client.market: _Market(client, federation, malicious.get(client.market)) for client in honest}
    rounds, timeout = federation.config.federation.rounds, federation.config.federation.round_timeout
    server, parties = connect(federation), list(clients.values())
    run_rounds(honest[0].stage, rounds, parties, server, federation.transcript, None, timeout)
    return clients


def _seen(target: str, clients: Mapping[str, _Market]) -> Federated:
    words = clients[target].trainer.model.global_codebook.codewords.detach().numpy().copy()
    movements = {name: client.sent for name, client in clients.items() if client.sent is not None}
    if len(movements) < len(clients):
        return Federated(words, None)
    return Federated(words, words + without_colluders(movements, target))


class _Market(MarketClient):
    """A market as it is, but that what it sent last is remembered; a malicious one sends something else.

    It trains, charges and masks as every market does. Where markets sum gradients, the tampered direction is sent
    ``BOOST`` times as long as the honest gradient: all step by Adam, which takes direction for length.

    Attributes:
        sent: the last movement, ``(n_codes, dim)``; None where gradients are sent.
    """

    def __init__(self, honest: MarketClient, federation: Federation, tamper: Tamper | None) -> None:
        state = RunDirectory(federation.directory).rounds(honest.stage)
        super().__init__(honest.plan, honest.trainer, honest.door, state)
        self.sent: FloatArray | None = None
        self._tamper, self._cohort = tamper, len(federation.plans)

    def _train(self, round: int, source: NoiseSource | None) -> tuple[NoisedSteps, IntVector]:
        codewords = self._start.astype(np.float64)
        steps, values = super()._train(round, source)
        if self.spending.sends_gradient(round):
            self.sent = None
            return steps, values if self._tamper is None else self._steered(values, codewords, self._tamper)
        codec = self.door.channel.codec
        self.sent = codec.decode(values).reshape(codewords.shape)
        if self._tamper is None:
            return steps, values
        self.sent = np.clip(self._tamper(self.sent, codewords, self._cohort), -codec.clip, codec.clip)
        return steps, codec.encode(self.sent.ravel())

    def _steered(self, values: IntVector, codewords: FloatArray, tamper: Tamper) -> IntVector:
        gradient = values.reshape(codewords.shape).astype(np.float64)
        wanted = -tamper(-gradient, codewords, self._cohort).ravel()
        longest = BOOST * np.linalg.norm(gradient) / max(float(np.linalg.norm(wanted)), 1e-12)
        return np.rint(longest * wanted).astype(np.int64)
