"""Build the parties of a federation from a configuration."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dp_accounting.dp_event import ComposedDpEvent, DpEvent, NonPrivateDpEvent

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import MIN_COHORT, Config
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation import (
    AggregationPlan,
    Membership,
    MeteredMarket,
    check_bundle,
    load_masks,
    local_ceremony,
)
from fedmm_secure.federation.client import ClientPlan, MarketClient
from fedmm_secure.federation.door import Budget, Channel, Door
from fedmm_secure.federation.messages import Hello, MessageError, expect, hello_header
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.quantization.build import make_trainer
from fedmm_secure.quantization.training import PrivateSettings, SharedNoise
from fedmm_secure.storage import Store, write_atomic, write_json
from privacy.accounting.budget import PlannedStage, plan_noise_multipliers
from privacy.accounting.ledger import Entry, Ledger, canonical_json
from privacy.aggregation import AggregationError, PairwiseMasks
from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import BUNDLE_FILE, SERVER, Bundle
from privacy.mechanisms.dp_sgd import SharedGroup

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
    hidden = config.aggregation.kind == "masked-ckks"  # single updates; their sum carries the whole noise
    opened = federated if hidden else ComposedDpEvent(upstream(codebook_noise_share(config, n_markets)))
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


def run_id(state: Path) -> str:
    """A random id of the run, kept for a resume."""
    path = state / "run-id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(16).encode())
    return path.read_text()


@dataclass(frozen=True)
class Federation:
    """A run as the markets in this process see it: their doors, the noise that their budgets were translated into.

    Attributes:
        config: the configuration.
        directory: the run directory.
        run: the run's id.
        bundle: all parties of the federation, those elsewhere too.
        doors: by market of this process; the only way out.
        masks: by market of this process.
        noise: by market and stage group, noise multipliers; empty without DP.
        n_items: by market, size of the catalogue.
        transcript: what each party sees.
        server: the server's identity; None where it is elsewhere.
    """

    config: Config
    directory: Path
    run: str
    bundle: Bundle
    doors: Mapping[str, Door]
    masks: Mapping[str, PairwiseMasks]
    noise: Mapping[str, Mapping[str, float]]
    n_items: Mapping[str, int]
    transcript: Transcript
    server: Identity | None

    def entries(self, market: str) -> list[Entry]:
        return self.doors[market].ledger.entries

    @property
    def n_markets(self) -> int:
        """Markets of the whole federation."""
        return len(self.bundle.markets)

    @property
    def min_cohort(self) -> int:
        """Fewest markets whose updates are added up."""
        return min_cohort(self.config, self.n_markets)

    def forget_masks(self) -> None:
        """Destroy the mask keys after the last round: what was masked cannot be opened by who takes them later."""
        for market in self.doors:
            _mask_file(self.directory, market).unlink(missing_ok=True)


def min_cohort(config: Config, n_markets: int) -> int:
    """Fewest markets whose updates are added up; distributed noise is complete only in the sum of all."""
    return n_markets if config.privacy.distributed_noise else min(MIN_COHORT, n_markets)


def open_federation(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    directory: Path,
    noise: Mapping[str, Mapping[str, float]] | None = None,
    *,
    run: str | None = None,
    members: Mapping[str, Membership] | None = None,
) -> Federation:
    """Open, or open again, the ledgers, keys and transcript of a run directory.

    Args:
        config: the configuration.
        markets: those in this process.
        directory: the run directory.
        noise: noise multipliers; by default they are solved from the budget, once per run directory.
        run: the run's id; by default one of the run directory's own.
        members: the markets' keys; by default they are made in the run directory, for these markets and a server.
    """
    state, server = directory / "state", None
    store, run = Store(state), run or run_id(state)
    if members is None:
        (state / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        directories = {name: state / "keys" / name for name in (*markets, SERVER)}
        local = AggregationPlan.of(config, len(markets))
        members, server = local_ceremony(local, directories, config.aggregation.rotate_after)
    first = next(iter(members.values()))
    bundle = first.bundle
    n_markets = len(bundle.markets)
    plan = AggregationPlan.of(config, n_markets)
    check_bundle(bundle, plan, first.directory.path)
    write_json(directory / "transcript" / BUNDLE_FILE, bundle.to_json())
    transcript = Transcript(directory / "transcript")
    doors, masks, multipliers = {}, {}, {}
    for name, prepared in markets.items():
        market, member = prepared.market, members[name]
        delta = config.privacy.delta_for(market.n_users)
        if noise is None:
            planned = store.json(f"budget/{name}", partial(plan_noise, config, market.n_items, delta))
        else:
            planned = noise[name]
        multipliers[name] = {stage: float(multiplier) for stage, multiplier in planned.items()}
        stages = planned_stages(config, market.n_items)
        ledger = Ledger(directory / "ledger" / f"{name}.jsonl")
        masks[name] = load_masks(name, _mask_file(directory, name), _masked_before(run, ledger.entries))
        aggregator = plan.market(member.directory.key(member.identity), masks[name])
        doors[name] = Door(
            name,
            ledger=ledger,
            budget=Budget(
                config.privacy.epsilon,
                delta,
                tuple(multipliers[name]),
                ComposedDpEvent([stage.event(multipliers[name][stage.name]) for stage in stages]),
            ),
            channel=Channel(
                run, bundle.digest, plan.codec, MeteredMarket(aggregator, member.directory), member.identity
            ),
            transcript=transcript,
            seeded=config.privacy.epsilon is not None and config.privacy.noise_seed is not None,
        )
    n_items = {name: prepared.market.n_items for name, prepared in markets.items()}
    if config.privacy.distributed_noise:
        for name, prepared in markets.items():
            _check_fixed_point(config, prepared, multipliers[name][QUANTIZER], n_markets)
    return Federation(config, directory, run, bundle, doors, masks, multipliers, n_items, transcript, server)


def _mask_file(directory: Path, market: str) -> Path:
    return directory / "state" / "masks" / f"{market}.key"


def _masked_before(run: str, entries: Sequence[Entry]) -> list[tuple[str, str, int, int]]:
    """Attempts that were sent, by the one record that outlives every crash."""
    return [
        (run, entry.stage, entry.round, entry.attempt)
        for entry in entries
        if entry.round is not None and entry.attempt is not None
    ]


def configuration_hash(config: Config) -> bytes:
    """Hash of all that the parties must agree on: everything but where data, accounts and processors are."""
    fields = config.model_dump(mode="json", exclude={"workers": True, "device": True, "data": {"markets", "root"}})
    fields["privacy"].pop("account")
    return hashlib.sha256(canonical_json(fields)).digest()


def introduce(federation: Federation) -> dict[str, bytes]:
    """The hellos of the markets in this process."""
    found: dict[str, bytes] = {}
    configuration = configuration_hash(federation.config)
    for name, door in federation.doors.items():
        hello = Hello(federation.masks[name].public, configuration)
        door.introduce(hello, partial(found.__setitem__, name))
    return found


def meet(federation: Federation, hellos: Mapping[str, bytes]) -> None:
    """Let the markets in this process know the mask keys of all; each hello is verified by each market.

    Raises:
        MessageError: a hello is not from the market that it names.
        AggregationError: a market changed its key within the run.
    """
    keys: dict[str, bytes] = {}
    for name, message in hellos.items():
        if name not in federation.bundle.markets:
            raise MessageError(f"a hello of {name}, which is not a market of this federation")
        wanted = hello_header(federation.run, name, federation.bundle.digest)
        payload = expect(message, wanted, federation.bundle.cards[name])
        keys[name] = Hello.from_bytes(payload).mask_key
    path = federation.directory / "state" / "masks" / "met.json"
    met = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, key in keys.items():
        if met.get(name, key.hex()) != key.hex():
            raise AggregationError(f"market {name} changed its mask key within the run")
    write_json(path, met | {name: key.hex() for name, key in keys.items()})
    for name, masks in federation.masks.items():
        masks.meet({other: key for other, key in keys.items() if other != name})


def make_clients(
    federation: Federation, seed: int, embeddings: Mapping[str, Embedding], extra_rows: Mapping[str, FloatArray]
) -> list[MarketClient]:
    """One client per market for one repetition; ``extra_rows`` are private releases to train on beside the items."""
    config = federation.config
    state = federation.directory / "state" / seed_stage(QUANTIZER, seed)
    decrypted = (*DECRYPTED_VIEWS, "server") if config.aggregation.kind == "plaintext" else DECRYPTED_VIEWS
    clients = []
    for name, embedding in embeddings.items():
        private = _private_settings(federation, name)
        plan = ClientPlan(
            market=name,
            stage=seed_stage(QUANTIZER, seed),
            seed=seed,
            warm_up_rounds=config.federation.warm_up_rounds,
            depends_on=(EMBEDDING,),
            audience=decrypted,
            bundle=federation.bundle,
            min_cohort=federation.min_cohort,
            norm=config.aggregation.norm,
            remark=_small_cohort_remark(federation.n_markets),
            distributed=config.privacy.distributed_noise,
            masked=config.aggregation.kind == "masked-ckks",
            noise_seed=config.privacy.noise_seed,
            expected_batch=private.choices.expected_batch(len(embedding.user_factors_)) if private else 1,
        )
        trainer = make_trainer(config, embedding, seed, private, extra_rows.get(name))
        clients.append(MarketClient(plan, trainer, federation.doors[name], state))
    return clients


def _small_cohort_remark(n_markets: int) -> str | None:
    if n_markets >= MIN_COHORT:
        return None
    return f"cohort of {n_markets}, forced: with its own update a market opens the others' from the sum"


def _private_settings(federation: Federation, market: str) -> PrivateSettings | None:
    multiplier = federation.noise[market].get(QUANTIZER)
    if multiplier is None:
        return None
    privacy = federation.config.privacy.quantizer
    choices, shared = privacy.choices(multiplier), None
    if federation.config.privacy.distributed_noise:
        honest = federation.n_markets - federation.config.privacy.colluding_markets
        shared = SharedNoise(SharedGroup.step_for(multiplier, privacy.clipping_norm, honest), honest)
    return PrivateSettings(choices, privacy.steps_per_round, privacy.learning_rate, shared=shared)


def make_server(
    config: Config, directory: Path, run: str, bundle: Bundle, identity: Identity, transcript: Transcript
) -> AggregationServer:
    """The server of a run; it gets public material and its own identity only."""
    n_markets = len(bundle.markets)
    plan = AggregationPlan.of(config, n_markets)
    check_bundle(bundle, plan, directory)
    return AggregationServer(
        run=run,
        bundle=bundle,
        identity=identity,
        min_cohort=min_cohort(config, n_markets),
        aggregator=plan.server(),
        transcript=transcript,
        state_file=directory / "state" / "server" / "order.json",
    )
