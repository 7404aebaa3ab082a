"""Build the parties of a federation from a configuration."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import MIN_COHORT, Config, configuration_hash
from fedmm_secure.data.market import FloatArray, refuse_few_items
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account import SoFar, enter
from fedmm_secure.federation.account_entries import readers_fingerprint
from fedmm_secure.federation.aggregation_plan import AggregationPlan, check_bundle
from fedmm_secure.federation.agreement import Agreement
from fedmm_secure.federation.budget import Budget
from fedmm_secure.federation.canaries import RunCanaries, committed_canaries, run_canaries
from fedmm_secure.federation.client import ClientPlan, MarketClient
from fedmm_secure.federation.coins import Coins, CoinsAwaitedError
from fedmm_secure.federation.door import Channel, Door
from fedmm_secure.federation.members import Membership, MeteredMarket, load_masks, local_ceremony
from fedmm_secure.federation.opening import commitments, known_catalogue
from fedmm_secure.federation.orders import Start
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.multipliers import UNKNOWN, MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import QUANTIZER, scheduled, seed_stage
from fedmm_secure.quantization.build import make_trainer
from fedmm_secure.quantization.training import PartOfNoise, PrivateSettings
from fedmm_secure.storage.files import remove_unfinished
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.ledger import Charge, Entry, Ledger, LedgerContent, LedgerError, stage_group
from privacy.aggregation import PairwiseMasks
from privacy.aggregation.bundle import BUNDLE_FILE, SERVER, Bundle
from privacy.aggregation.identities import Identity
from privacy.files import erase, write_atomic, write_json
from privacy.mechanisms.meter import spare_coordinates
from privacy.mechanisms.spare import Spare


def run_id(state: Path) -> str:
    """A random id of the run, kept for a resume."""
    path = state / "run-id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(16).encode())
    return path.read_text()


@dataclass(frozen=True)
class Federation:
    """A run as the markets in this process see it: their doors, and the plans that their budgets were translated into.

    Attributes:
        config: the configuration.
        directory: the run directory.
        run: the run's id.
        bundle: all parties of the federation, those elsewhere too.
        doors: by market of this process; the only way out.
        masks: by market of this process.
        plans: by market of this process, what it will spend.
        transcript: what each party sees.
        server: the server's identity; None where it is elsewhere.
        signers: by market of this process, who signs the ledger's last line.
        course: 0, and one more for each time that an old copy of the run's state was resumed.
        account: where the run is entered, or what stands for it where the rows are nobody's; None for a rehearsal.
        canaries: by market, where the configuration asks for any.
    """

    config: Config
    directory: Path
    run: str
    bundle: Bundle
    doors: Mapping[str, Door]
    masks: Mapping[str, PairwiseMasks]
    plans: Mapping[str, SpendingPlan]
    transcript: Transcript
    server: Identity | None
    signers: Mapping[str, Identity] = field(repr=False)
    course: int = 0
    account: PrivacyAccount | PublicData | None = None
    canaries: Mapping[str, RunCanaries] = field(default_factory=dict)

    def spare(self, market: str, count: int, stage: str) -> Spare:
        """Spare coordinates of a release, with its canaries if there are any."""
        found = self.canaries.get(market)
        return Spare(count) if found is None else found.spare(count, self.plans[market], stage)

    def commitments(self, markets: Mapping[str, PreparedMarket]) -> dict[str, str]:
        """Keyed hash of each market's test candidates: equal for two runs of one account that ranked the same ones.

        They hold private rows, so a plain hash of them would confirm a guess. Empty for a rehearsal.
        """
        if self.account is None:
            return {}
        return {name: self.account.fingerprint(found.whole.test.columns()) for name, found in markets.items()}

    def entries(self, market: str) -> list[Entry]:
        """What a market's ledger holds, in order."""
        return self.doors[market].ledger.entries

    @property
    def n_markets(self) -> int:
        """Markets of the whole federation."""
        return len(self.bundle.markets)

    @property
    def closed(self) -> bool:
        """Whether the run is over, and every ledger says so."""
        return all(door.ledger.closing is not None for door in self.doors.values())

    def forget_masks(self) -> None:
        """Destroy the mask keys after the last round: what was masked cannot be opened by who takes them later."""
        for path in RunDirectory(self.directory).masks.rglob("*.key"):
            erase(path)


def min_cohort(config: Config, n_markets: int) -> int:
    """Fewest markets whose updates are added up: all of them where single updates are to stay hidden from colluders.

    Who joins two cohorts in one round learns the difference of their sums. Distributed noise, which is complete in the
    sum of all alone, is so never short of a part.
    """
    return n_markets if config.aggregation.traits.needs_whole_cohort else min(MIN_COHORT, n_markets)


def start_of(config: Config) -> Start:
    """What a run of this configuration is."""
    return Start(configuration_hash(config), scheduled(config))


def make_agreement(
    config: Config,
    market: str,
    identity: Identity,
    bundle: Bundle,
    directory: Path,
    run: str,
    transcript: Transcript,
    course: int = 0,
) -> Agreement:
    """What a market of a run agrees to, from wherever its kept state stands."""
    return Agreement(
        market=market,
        run=run,
        start=start_of(config),
        bundle=bundle,
        identity=identity,
        min_cohort=min_cohort(config, len(bundle.markets)),
        transcript=transcript,
        directory=directory,
        course=course,
    )


def open_federation(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    directory: Path,
    *,
    run: str | None = None,
    members: Mapping[str, Membership] | None = None,
    account: PrivacyAccount | PublicData | None = None,
    signer: Identity | None = None,
    noise: Mapping[str, Mapping[str, float]] | None = None,
) -> Federation:
    """Open, or open again, the ledgers, keys and transcript of a run directory.

    Args:
        config: the configuration.
        markets: those in this process.
        directory: the run directory.
        run: the run's id; by default one of the run directory's own.
        members: the markets' keys; by default they are made in the run directory, for these markets and a server.
        account: where the run enters what it spends; None for a rehearsal, whose results are thrown away.
        signer: who signs the ledgers' last lines; by default each market's own identity.
        noise: noise multipliers of a rehearsal; by default they are solved from the budget.

    Raises:
        LedgerError: the run was begun with another configuration, on other data, or by other code.
        CoinsAwaitedError: its ledgers are open, and an auditor's coins are not there yet.
    """
    remove_unfinished(directory)
    layout, server = RunDirectory(directory), None
    run = run or run_id(layout.state)
    if members is None:
        directories = {name: layout.keys(name) for name in (*markets, SERVER)}
        directories[SERVER].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = market_sizes(config, sorted(markets), markets)
        local = AggregationPlan.of(config, here)
        members, server = local_ceremony(local, directories, config.aggregation.rotate_after, here)
    first = next(iter(members.values()))
    bundle = first.bundle
    sizes = market_sizes(config, bundle.markets, markets, bundle.sizes)
    plan = AggregationPlan.of(config, sizes)
    check_bundle(bundle, plan, first.directory.path)
    write_json(layout.transcript / BUNDLE_FILE, bundle.to_json())
    transcript = Transcript(layout.transcript)
    doors, masks, plans, ledgers, entrances, awaited = {}, {}, {}, {}, {}, list[str]()
    for name, prepared in markets.items():
        ledgers[name] = Ledger(layout.ledger(name))
        solved = None if noise is None else noise[name]
        plans[name] = begun_plan(config, name, sizes, ledgers[name], solved)
        entrances[name] = enter(account, directory, run, plans[name], prepared, SoFar.of(ledgers[name]))
    # a kill between two entrances, and a copy then, part some markets' states alone: all go on in the latest course of
    # any, with its mask keys. Of two copies that have the same ones, the second to enter a market has another course
    course = max((entrance.parted for entrance in entrances.values()), default=0)
    for name, prepared in markets.items():
        member, ledger, entrance = members[name], ledgers[name], entrances[name]
        entered, catalogue = account or PublicData(), known_catalogue(config, prepared)
        coins = Coins.of(config, run, layout.charges(name), entered, member.identity, signer)
        rows = partial(readers_fingerprint, entered, prepared)
        toss = {} if coins is None else coins.stated(ledger.opening, entrance.courses, rows)
        toss |= committed_canaries(config, ledger.opening, layout.charges(name))
        ledger.open(commitments(run, plans[name], catalogue, bundle, directory, entrance.data) | toss)
        chain = None if coins is None else coins.chain(ledger, plans[name], layout.coins)
        if coins is not None and chain is None:
            awaited.append(name)
            continue
        agreement = make_agreement(config, name, member.identity, bundle, directory, run, transcript, course)
        agreement.require_open()
        path, known = mask_file(directory, name, course), agreement.known_mask_key
        masks[name] = load_masks(name, path, _masked_before(run, ledger), known)
        masks[name].meet({other: key for other, key in agreement.mask_keys.items() if other != name})
        doors[name] = Door(
            name,
            ledger=ledger,
            budget=_budget(plans[name]),
            channel=_channel(plan, member, bundle, run, masks[name]),
            wide={stage: _channel(plan.of_stage(stage), member, bundle, run, masks[name]) for stage in plan.wide},
            agreement=agreement,
            transcript=transcript,
            own=PrivateRecord(directory, name),
            keys=ReleaseKeys(name, layout.charges(name), config.privacy.noise_seed, chain),
            entrance=entrance,
        )
        if ledger.closing is None:
            for release in entrance.unlisted(ledger):
                doors[name].note(release)
    if awaited and config.audit.replay is not None:
        raise CoinsAwaitedError(directory, config.audit.replay.card, awaited)
    signers = {name: signer or members[name].identity for name in markets}
    canaries = run_canaries(config, run, {name: door.ledger for name, door in doors.items()}, layout)
    parties = (bundle, doors, masks, plans, transcript, server, signers)
    return Federation(config, directory, run, *parties, course, account, canaries)


def begun_plan(
    config: Config,
    market: str,
    sizes: Mapping[str, MarketSize],
    begun: Ledger | LedgerContent | None,
    noise: Mapping[str, float] | None = None,
) -> SpendingPlan:
    """The plan of a run; one that goes on has its noise from the opening line, which all else is compared with.

    Raises:
        LedgerError: that is of another configuration, so that no account is asked to let this one in.
    """
    opening = {} if begun is None else begun.opening
    if opening and opening.get("configuration") != configuration_hash(config).hex():
        raise LedgerError(f"market {market}: the run was opened with another configuration")
    return SpendingPlan.of(config, market, sizes, opening.get("noise") if noise is None else noise)


def _channel(plan: AggregationPlan, member: Membership, bundle: Bundle, run: str, masks: PairwiseMasks) -> Channel:
    aggregator = plan.market(member.directory.key(member.identity, bundle), masks)
    return Channel(
        run=run,
        parameters=bundle.digest,
        codec=plan.codec,
        aggregator=MeteredMarket(aggregator, member.directory, bundle),
        identity=member.identity,
        largest=plan.largest_sum if plan.stage else plan.sum_bound,
        burn=partial(member.directory.burn, bundle),
    )


def _budget(plan: SpendingPlan) -> Budget:
    planned = tuple(release for release in plan.releases() if stage_group(release.stage) in plan.noise)
    return Budget(plan.epsilon, plan.delta, tuple(plan.noise), plan.total, planned)


def market_sizes(
    config: Config,
    names: Sequence[str],
    markets: Mapping[str, PreparedMarket],
    signed: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, MarketSize]:
    """Public sizes of the named markets, users and items: those in this process as they are, others as they signed.

    The number of items is 0 where the catalogue is yet to be discovered: what the rows hold is private.

    Raises:
        ConfigError: the federation's bundle states another size of a market in this process.
        DataError: a market's catalogue has fewer items than any model can use.
    """
    found = {name: MarketSize(*size) for name, size in (signed or {}).items()}
    for name, prepared in markets.items():
        items = 0 if config.catalogue == "discovered" else prepared.market.n_items
        if config.catalogue != "discovered":
            refuse_few_items(items, f"market {name}")
        own = MarketSize(prepared.market.n_users, items)
        if found.setdefault(name, own) != own:
            raise ConfigError(f"market {name}: the federation's bundle states {found[name]}, the data have {own}")
    return {name: found.get(name, UNKNOWN) for name in names}


def mask_file(directory: Path, market: str, course: int = 0) -> Path:
    """A copy that goes on as another run has a mask key of its own: two vectors under one show their difference."""
    return RunDirectory(directory).mask(market, course)


def _masked_before(run: str, ledger: Ledger) -> list[tuple[str, str, int, int]]:
    """Attempts that were sent, by the one record that outlives every crash."""

    def sent(charge: Charge) -> bool:
        return charge.sequence in ledger.seals and charge.entry.attempt is not None

    return [
        (run, charge.entry.stage, charge.entry.round or 0, charge.entry.attempt or 0)
        for charge in ledger.charges
        if sent(charge)
    ]


def make_clients(
    federation: Federation, seed: int, embeddings: Mapping[str, Embedding], extra_rows: Mapping[str, FloatArray]
) -> list[MarketClient]:
    """One client per market for one repetition; ``extra_rows`` are private releases to train on beside the items."""
    config = federation.config
    state = RunDirectory(federation.directory).rounds(seed_stage(QUANTIZER, seed))
    clients = []
    for name, embedding in embeddings.items():
        plan = ClientPlan(
            market=name,
            stage=seed_stage(QUANTIZER, seed),
            seed=seed,
            warm_up_rounds=config.federation.warm_up_rounds,
            spending=federation.plans[name],
            norm=config.aggregation.norm,
            canaries=federation.canaries.get(name),
        )
        private = _private_settings(federation.plans[name])
        trainer = make_trainer(config, embedding, seed, private, extra_rows.get(name))
        clients.append(MarketClient(plan, trainer, federation.doors[name], state))
    return clients


def _private_settings(plan: SpendingPlan) -> PrivateSettings | None:
    multiplier = plan.noise.get(QUANTIZER)
    if multiplier is None:
        return None
    privacy = plan.config.privacy.quantizer
    spare = spare_coordinates(plan.stages[QUANTIZER].steps)
    choices, shared = dp_sgd(privacy, multiplier), plan.shared
    part = None if shared is None else PartOfNoise(shared.step, shared.honest_parts)
    return PrivateSettings(choices, privacy.steps_per_round, privacy.learning_rate, spare, part)


def make_server(
    config: Config,
    directory: Path,
    run: str,
    bundle: Bundle,
    identity: Identity,
    transcript: Transcript,
    course: int = 0,
) -> AggregationServer:
    """The server of a run; it gets public material and its own identity only."""
    n_markets = len(bundle.markets)
    plan = AggregationPlan.of(config, market_sizes(config, bundle.markets, {}, bundle.sizes))
    check_bundle(bundle, plan, directory)
    return AggregationServer(
        run=run,
        start=start_of(config),
        bundle=bundle,
        identity=identity,
        min_cohort=min_cohort(config, n_markets),
        aggregator=plan.server(),
        wide={stage: plan.of_stage(stage).server() for stage in plan.wide},
        transcript=transcript,
        state=RunDirectory(directory).server,
        course=course,
    )
