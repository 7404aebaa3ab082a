"""Build the parties of a federation from a configuration."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import MIN_COHORT, Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.client import ClientPlan, MarketClient
from fedmm_secure.federation.door import Budget, Door
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.quantization.build import make_trainer
from fedmm_secure.quantization.training import PrivateSettings
from fedmm_secure.randomness import derive_seed
from fedmm_secure.storage import write_atomic
from privacy.accounting.accountants import solve_noise_multiplier
from privacy.accounting.events import dp_sgd_event
from privacy.accounting.ledger import Ledger
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
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.noise import NoiseSource

EMBEDDING_STAGE = "embedding"
DECRYPTED_VIEWS = ("market", "collusion", "consumer", "release")


def quantizer_stage(seed: int) -> str:
    return f"quantizer/{seed}"


def ctr_stage(seed: int) -> str:
    return f"ctr/{seed}"


def default_delta(n_users: int) -> float:
    """δ = 1 / users^1.1."""
    return float(n_users**-1.1)


def plan_noise(config: Config, delta: float) -> float | None:
    """Noise multiplier that spends one market's ε over all repetitions of the run; None without DP."""
    privacy = config.privacy
    if privacy.epsilon is None:
        return None
    private_rounds = config.federation.rounds - config.federation.warm_up_rounds
    steps = len(config.seed) * private_rounds * privacy.steps_per_round
    return solve_noise_multiplier(
        lambda noise: dp_sgd_event(noise, privacy.sampling_rate, steps), epsilon=privacy.epsilon, delta=delta
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
class MarketAccount:
    """A market's ledger with the noise that its budget was translated into."""

    ledger: Ledger
    delta: float
    noise_multiplier: float | None


def make_clients(
    config: Config,
    seed: int,
    embeddings: Mapping[str, Embedding],
    accounts: Mapping[str, MarketAccount],
    aggregation: Aggregation,
    transcript: Transcript,
    run: str,
    state: Path,
) -> list[MarketClient]:
    """One client per market for one repetition."""
    return [
        _make_client(
            config, seed, name, embedding, accounts[name], aggregation, transcript, run, state, len(embeddings)
        )
        for name, embedding in embeddings.items()
    ]


def _make_client(
    config: Config,
    seed: int,
    market: str,
    embedding: Embedding,
    account: MarketAccount,
    aggregation: Aggregation,
    transcript: Transcript,
    run: str,
    state: Path,
    n_markets: int,
) -> MarketClient:
    private = _private_settings(config, market, seed, account)
    audience = (*DECRYPTED_VIEWS, "server") if config.aggregation.kind == "plaintext" else DECRYPTED_VIEWS
    door = Door(
        market,
        run=run,
        parameters_sha256=aggregation.parameters_sha256,
        ledger=account.ledger,
        budget=Budget(config.privacy.epsilon, account.delta),
        codec=aggregation.codec,
        aggregator=aggregation.market,
        transcript=transcript,
        seeded=private is not None and private.noise.seeded,
    )
    plan = ClientPlan(
        market=market,
        stage=quantizer_stage(seed),
        seed=seed,
        warm_up_rounds=config.federation.warm_up_rounds,
        depends_on=(EMBEDDING_STAGE,),
        audience=audience,
        remark=_small_cohort_remark(n_markets),
    )
    trainer = make_trainer(config, embedding, seed, private)
    return MarketClient(plan, trainer, door, aggregation.codec, aggregation.market, state / quantizer_stage(seed))


def _small_cohort_remark(n_markets: int) -> str | None:
    if n_markets >= MIN_COHORT:
        return None
    return f"cohort of {n_markets}, forced: with its own update a market opens the others' from the sum"


def _private_settings(config: Config, market: str, seed: int, account: MarketAccount) -> PrivateSettings | None:
    if account.noise_multiplier is None:
        return None
    privacy = config.privacy
    choices = DPSGD(account.noise_multiplier, privacy.clipping_norm, privacy.sampling_rate)
    if privacy.noise_seed is None:
        noise = NoiseSource.from_entropy()
    else:
        noise = NoiseSource.from_seed(derive_seed("noise", privacy.noise_seed, market, seed))
    return PrivateSettings(choices, privacy.steps_per_round, noise, privacy.learning_rate)


def make_server(
    config: Config, markets: Sequence[str], aggregation: Aggregation, transcript: Transcript, run: str
) -> AggregationServer:
    """The server of one run; it gets public material only."""
    return AggregationServer(
        run=run,
        parameters_sha256=aggregation.parameters_sha256,
        markets=markets,
        min_cohort=min(MIN_COHORT, len(markets)),
        aggregator=aggregation.server,
        transcript=transcript,
    )
