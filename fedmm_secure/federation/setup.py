"""Build the parties of a federation from a configuration."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from dp_accounting.dp_event import ComposedDpEvent, DpEvent, NonPrivateDpEvent

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import MIN_COHORT, Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.client import ClientPlan, MarketClient
from fedmm_secure.federation.door import Budget, Channel, Door
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.quantization.build import make_trainer
from fedmm_secure.quantization.training import PrivateSettings
from fedmm_secure.randomness import noise_source
from fedmm_secure.storage import Store, write_atomic
from privacy.accounting.budget import PlannedStage, plan_noise_multipliers
from privacy.accounting.ledger import Entry, Ledger
from privacy.aggregation import (
    AggregationError,
    CKKSKeys,
    CKKSMarket,
    CKKSParameters,
    CKKSServer,
    FixedPointCodec,
    MarketAggregator,
    PlaintextMarket,
    PlaintextServer,
    ServerAggregator,
)

COUNTS, EMBEDDING, QUANTIZER, CTR, REFINEMENT = "counts", "embedding", "quantizer", "ctr", "refinement"
_NEVER_EXCEEDED = 12.0  # standard deviations; a normal value beyond them has probability 4e-33
DECRYPTED_VIEWS = ("market", "collusion", "consumer", "release")


def seed_stage(group: str, seed: int) -> str:
    """Name of a stage that is repeated for every seed, e.g. ``quantizer/0``."""
    return f"{group}/{seed}"


def planned_stages(config: Config, n_items: int) -> list[PlannedStage]:
    """The stages of a run that spend budget, with their mechanisms over all repetitions; none without DP."""
    privacy, repetitions = config.privacy, len(config.seed)
    if privacy.epsilon is None:
        return []
    shares, stages = privacy.shares, []
    if config.private_embedding:
        private = config.embedding.private
        iterations = 1 if private.uses_gram(n_items) else private.iterations
        stages += [PlannedStage(COUNTS, shares.counts), PlannedStage(EMBEDDING, shares.embedding, iterations)]
    rounds = config.federation.rounds - config.federation.warm_up_rounds
    steps = repetitions * rounds * privacy.quantizer.steps_per_round
    stages.append(PlannedStage(QUANTIZER, shares.quantizer, steps, privacy.quantizer.sampling_rate))
    if config.private_ctr:
        stages.append(PlannedStage(CTR, shares.ctr, repetitions * privacy.ctr.steps, privacy.ctr.sampling_rate))
    return stages


def plan_noise(config: Config, n_items: int, delta: float) -> dict[str, float]:
    """Noise multipliers that spend one market's ε over all stages and repetitions; empty without DP."""
    stages = planned_stages(config, n_items)
    if not stages or config.privacy.epsilon is None:
        return {}
    try:
        return plan_noise_multipliers(stages, epsilon=config.privacy.epsilon, delta=delta)
    except ValueError as error:
        raise ConfigError(
            f"privacy.epsilon: {config.privacy.epsilon:g} at delta {delta:.2g} cannot be planned: {error}"
        ) from error


def planned_views(config: Config, noise: Mapping[str, float], n_items: int, n_markets: int) -> dict[str, DpEvent]:
    """What each view will have observed of a market once a run is over, upstream stages included."""
    raw: DpEvent = NonPrivateDpEvent()
    stages = planned_stages(config, n_items)
    if not stages:
        return dict.fromkeys(DECRYPTED_VIEWS, raw)

    def upstream(codebook_share: float) -> list[DpEvent]:
        events = [
            stage.event(noise[stage.name] * (codebook_share if stage.name == QUANTIZER else 1.0))
            for stage in stages
            if stage.name != CTR
        ]
        return events if config.private_embedding else [*events, raw]

    models = [stage.event(noise[stage.name]) for stage in stages if stage.name == CTR] or [raw]
    federated = ComposedDpEvent(upstream(1.0))
    everything = ComposedDpEvent([*upstream(1.0), *models])
    opened = ComposedDpEvent(upstream(codebook_noise_share(config, n_markets)))
    return {"market": federated, "collusion": opened, "consumer": everything, "release": everything}


def codebook_noise_share(config: Config, n_markets: int) -> float:
    """Part of the global codebook's noise that one market adds, as a share of the standard deviation."""
    if not config.privacy.distributed_noise:
        return 1.0
    # the sum carries the full noise even after the tolerated markets have subtracted theirs
    return float((n_markets - config.privacy.colluding_markets) ** -0.5)


def _check_fixed_point(config: Config, prepared: PreparedMarket, noise_multiplier: float, n_markets: int) -> None:
    """Distributed noise counts on the sum; clipping and rounding each market's part must not be felt in it.

    Raises:
        ConfigError: a part could be clipped, or is rounded to more than a thousandth of its noise.
    """
    privacy, aggregation = config.privacy.quantizer, config.aggregation
    batch = max(1, round(privacy.sampling_rate * prepared.market.n_users))
    noise = noise_multiplier * codebook_noise_share(config, n_markets) * privacy.clipping_norm / batch
    largest = privacy.clipping_norm * prepared.market.n_users / batch + _NEVER_EXCEEDED * noise
    if aggregation.clip < largest:
        raise ConfigError(
            f"market {prepared.market.name}: privacy.distributed_noise needs aggregation.clip of {largest:.3g} at "
            "least, so that no part of the noise is ever cut off"
        )
    if aggregation.clip / 2**aggregation.bits > noise / 1000.0:
        raise ConfigError(
            f"market {prepared.market.name}: privacy.distributed_noise needs more aggregation.bits or a smaller "
            f"aggregation.clip: steps of {aggregation.clip / 2**aggregation.bits:.2g} show beside noise of {noise:.2g}"
        )


@dataclass(frozen=True)
class Aggregation:
    """Both sides of the aggregator, and a hash of their public parameters."""

    codec: FixedPointCodec
    market: MarketAggregator
    server: ServerAggregator
    parameters_sha256: str


def make_aggregation(config: Config, n_markets: int, keys_dir: Path) -> Aggregation:
    """Aggregators for a vector of all global codewords; CKKS keys are made once and kept for a resume."""
    codec = FixedPointCodec(config.aggregation.clip, config.aggregation.bits)
    length = _vector_length(config)
    public: dict[str, object] = {"kind": config.aggregation.kind, "length": length, "codec": asdict(codec)}
    market: MarketAggregator
    if config.aggregation.kind == "plaintext":
        market, key = PlaintextMarket(length), b""
    else:
        parameters = _ckks_parameters(config, n_markets)
        keys = _keys(parameters, keys_dir)
        market, key = CKKSMarket(parameters, keys.secret), keys.public
        public |= {"ckks": asdict(parameters), "key": hashlib.sha256(key).hexdigest()}
    digest = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()
    return Aggregation(codec, market, make_public_server(config, n_markets, key), digest)


def make_public_server(config: Config, n_markets: int, public_key: bytes) -> ServerAggregator:
    """The server's side, from public material alone."""
    if config.aggregation.kind == "plaintext":
        return PlaintextServer(_vector_length(config))
    return CKKSServer(_ckks_parameters(config, n_markets), public_key)


def _vector_length(config: Config) -> int:
    return config.quantizer.global_codes * config.quantizer.latent_dim


def _ckks_parameters(config: Config, n_markets: int) -> CKKSParameters:
    try:
        return CKKSParameters.derive(
            length=_vector_length(config), cohort=n_markets, value_bits=config.aggregation.bits
        )
    except AggregationError as error:
        raise ConfigError(f"aggregation: {error}") from error


def _keys(parameters: CKKSParameters, directory: Path) -> CKKSKeys:
    """The markets' shared keys; the secret part is readable by its owner alone."""
    secret_file, public_file = directory / "markets-secret.ckks", directory / "server-public.ckks"
    if secret_file.exists() and public_file.exists():
        return CKKSKeys(secret_file.read_bytes(), public_file.read_bytes())
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    keys = CKKSKeys.generate(parameters)
    previous = os.umask(0o077)
    try:
        write_atomic(secret_file, keys.secret)
        write_atomic(public_file, keys.public)
    finally:
        os.umask(previous)
    return keys


def run_id(state: Path) -> str:
    """A random id of the run, kept for a resume."""
    path = state / "run-id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(16).encode())
    return path.read_text()


@dataclass(frozen=True)
class Federation:
    """The markets' side of a run: their doors, the noise that their budgets were translated into, the aggregator.

    Attributes:
        config: the configuration.
        directory: the run directory.
        run: the run's id.
        doors: by market; the only way out.
        noise: by market and stage group, noise multipliers; empty without DP.
        n_items: by market, size of the catalogue.
        aggregation: both sides of the aggregator.
        transcript: what each party sees.
    """

    config: Config
    directory: Path
    run: str
    doors: Mapping[str, Door]
    noise: Mapping[str, Mapping[str, float]]
    n_items: Mapping[str, int]
    aggregation: Aggregation
    transcript: Transcript

    def entries(self, market: str) -> list[Entry]:
        return self.doors[market].ledger.entries


def open_federation(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    directory: Path,
    noise: Mapping[str, Mapping[str, float]] | None = None,
) -> Federation:
    """Open, or open again, the ledgers, keys and transcript of a run directory.

    ``noise`` gives the noise multipliers; by default they are solved from the budget, once per run directory.
    """
    state = directory / "state"
    store, run = Store(state), run_id(state)
    aggregation = make_aggregation(config, len(markets), state / "keys")
    transcript = Transcript(directory / "transcript")
    channel = Channel(run, aggregation.parameters_sha256, aggregation.codec, aggregation.market)
    doors, multipliers = {}, {}
    for name, prepared in markets.items():
        market = prepared.market
        delta = config.privacy.delta_for(market.n_users)
        if noise is None:
            planned = store.json(f"budget/{name}", partial(plan_noise, config, market.n_items, delta))
        else:
            planned = noise[name]
        multipliers[name] = {stage: float(multiplier) for stage, multiplier in planned.items()}
        plan = ComposedDpEvent(
            [stage.event(multipliers[name][stage.name]) for stage in planned_stages(config, market.n_items)]
        )
        doors[name] = Door(
            name,
            ledger=Ledger(directory / "ledger" / f"{name}.jsonl"),
            budget=Budget(config.privacy.epsilon, delta, tuple(multipliers[name]), plan),
            channel=channel,
            transcript=transcript,
            seeded=config.privacy.epsilon is not None and config.privacy.noise_seed is not None,
        )
    n_items = {name: prepared.market.n_items for name, prepared in markets.items()}
    if config.privacy.distributed_noise:
        for name, prepared in markets.items():
            _check_fixed_point(config, prepared, multipliers[name][QUANTIZER], len(markets))
    return Federation(config, directory, run, doors, multipliers, n_items, aggregation, transcript)


def make_clients(
    federation: Federation, seed: int, embeddings: Mapping[str, Embedding], extra_rows: Mapping[str, FloatArray]
) -> list[MarketClient]:
    """One client per market for one repetition; ``extra_rows`` are private releases to train on beside the items."""
    config = federation.config
    state = federation.directory / "state" / seed_stage(QUANTIZER, seed)
    decrypted = (*DECRYPTED_VIEWS, "server") if config.aggregation.kind == "plaintext" else DECRYPTED_VIEWS
    clients = []
    for name, embedding in embeddings.items():
        private = _private_settings(federation, name, seed)
        plan = ClientPlan(
            market=name,
            stage=seed_stage(QUANTIZER, seed),
            seed=seed,
            warm_up_rounds=config.federation.warm_up_rounds,
            depends_on=(EMBEDDING,),
            audience=decrypted,
            remark=_small_cohort_remark(len(embeddings)),
            cohort=len(embeddings),
            distributed=config.privacy.distributed_noise,
        )
        trainer = make_trainer(config, embedding, seed, private, extra_rows.get(name))
        aggregation = federation.aggregation
        clients.append(
            MarketClient(plan, trainer, federation.doors[name], aggregation.codec, aggregation.market, state)
        )
    return clients


def _small_cohort_remark(n_markets: int) -> str | None:
    if n_markets >= MIN_COHORT:
        return None
    return f"cohort of {n_markets}, forced: with its own update a market opens the others' from the sum"


def _private_settings(federation: Federation, market: str, seed: int) -> PrivateSettings | None:
    multiplier = federation.noise[market].get(QUANTIZER)
    if multiplier is None:
        return None
    privacy = federation.config.privacy.quantizer
    noise = noise_source(federation.config.privacy.noise_seed, QUANTIZER, market, seed)
    share = codebook_noise_share(federation.config, len(federation.doors))
    return PrivateSettings(privacy.choices(multiplier), privacy.steps_per_round, noise, privacy.learning_rate, share)


def make_server(federation: Federation) -> AggregationServer:
    """The server of a run; it gets public material only."""
    markets = list(federation.doors)
    return AggregationServer(
        run=federation.run,
        parameters_sha256=federation.aggregation.parameters_sha256,
        markets=markets,
        # distributed noise is complete only in the sum of all
        min_cohort=len(markets) if federation.config.privacy.distributed_noise else min(MIN_COHORT, len(markets)),
        aggregator=federation.aggregation.server,
        transcript=federation.transcript,
    )
