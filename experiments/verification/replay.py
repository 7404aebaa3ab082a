"""Replay of a run by its auditor: every release is drawn again, with the rows and the key of all randomness.

What spare coordinates cannot show, this does: a run whose real coordinates carry other noise than they should comes out
otherwise. It takes the rows, the auditor's keys, and the code and the kind of machine that the run says: what is
computed in floating point differs elsewhere in its last bits.

It says that what was released is what this code makes of these rows with noise that nobody chose (``coins``). The rows
are those that the market bound itself to before it knew its noise, where a key for them comes from its privacy
account (``fedmm keys run-key``); otherwise a market may bring rows that it found afterwards.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from experiments.presentation.steps import tell_step
from experiments.runs.configuration import readers_data
from experiments.verification.canaries import opened_canaries
from experiments.verification.closing import private_digests
from experiments.verification.evidence import Evidence
from experiments.verification.payloads import integers
from experiments.verification.platform import replaying_device, same_device, same_machine
from experiments.verification.publications import read_publications
from experiments.verification.replaying_door import NotChargedError, Recorded, ReplayingDoor
from fedmm_secure.config import Config
from fedmm_secure.ctr.build import private_trainer
from fedmm_secure.ctr.market_models import train_released
from fedmm_secure.data.prepare import PreparedMarket, prepare_one
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account_entries import data_fingerprint, readers_fingerprint
from fedmm_secure.federation.coins import CoinError, noted_coin
from fedmm_secure.federation.messages import Header, unpack
from fedmm_secure.federation.noise_chain import links, release_key
from fedmm_secure.federation.parties import Federation, make_agreement, make_clients
from fedmm_secure.federation.private_record import read_salt
from fedmm_secure.federation.releases import (
    begin_ctr,
    discover_catalogues,
    private_training,
    publish_ctr,
    publish_user_codes,
    release_test_figures,
)
from fedmm_secure.federation.round_client import RoundClient
from fedmm_secure.federation.shared_catalogue import sum_client
from fedmm_secure.federation.tosses import Toss
from fedmm_secure.federation.transcript import AGGREGATE, PUBLICATION, SUM, Transcript
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import MODEL, QUANTIZER, SUMMED, seed_stage
from fedmm_secure.pipeline import Embeddings, Quantizers, embed_markets, pseudo_rows, publish_quantizers
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.fingerprints import PublicData, RunKey
from privacy.accounting.ledger import Charge, LedgerContent
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.base import IntVector
from privacy.aggregation.bundle import SERVER
from privacy.aggregation.identities import Identity
from privacy.errors import InputError, StoppedError
from privacy.files import write_secret


@dataclass(frozen=True)
class Replay:
    """What an auditor brings.

    Attributes:
        auditor: whose card the configuration names.
        data: folder of the markets' files, as they hand them over; None for rows that are generated.
        run_key: what the owner of the rows hands over of a privacy account's key; None compares them with nothing.
    """

    auditor: Identity = field(repr=False)
    data: Path | None = None
    run_key: RunKey | None = field(default=None, repr=False)


def refuse_another_auditor(directory: Path, config: Config, replay: Replay) -> None:
    """Before anything is read that takes long.

    Raises:
        ConfigError: the configuration names no auditor, or another one; or nobody says where the rows are.
    """
    asked, card = config.audit.replay, replay.auditor.card
    if asked is None:
        raise ConfigError(f"{directory}: --replay: its configuration has no audit.replay; no coins were tossed")
    if asked.card != card:
        raise ConfigError(
            f"{directory}: --replay: its auditor is {asked.card.name} {asked.card.fingerprint}, and these keys are "
            f"those of {card.name} {card.fingerprint}"
        )
    readers_data(config.data, replay.data)


def replay_findings(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Releases that come out otherwise, and whatever else keeps the run from being drawn again."""
    data = readers_data(evidence.config.data, replay.data)
    findings, recorded, markets = list[Finding](), dict[str, Recorded](), dict[str, PreparedMarket]()
    for market, content in evidence.ledgers.items():
        if market not in evidence.plans:
            continue  # said where plans are made
        try:
            toss = _toss(evidence, market, replay.auditor)
            first, said = toss.first_link(replay.auditor), toss.rows(replay.auditor)
        except CoinError as error:
            findings.append(Finding(f"{evidence.ledger(market)}:1", f"replay: {error}"))
            continue
        prepared = prepare_one(data, market)
        problems = list(_rows(evidence, market, prepared, replay, said))
        findings += [Finding(f"{evidence.ledger(market)}:1", f"replay: {problem}") for problem in problems]
        if not problems:
            keys = _keys(content, evidence.plans[market], first, by_place=toss.by_place)
            findings += _other_keys(evidence.ledger(market), content, keys)
            recorded[market], markets[market] = _recorded(evidence, market, keys), prepared
    if not (same_machine(evidence) and same_device(evidence)):
        evidence.notes.append(
            "replay: code, libraries or kind of machine are others than the run's: last bits of what is computed in "
            "floating point may differ for that reason alone"
        )
    if recorded:
        with tempfile.TemporaryDirectory(prefix="fedmm-replay-") as folder:
            findings += _Course(evidence, Path(folder), recorded, markets).run()
    return findings


def _toss(evidence: Evidence, market: str, auditor: Identity) -> Toss:
    """Raises ``CoinError`` where the two coins are not there as they must be."""
    content = evidence.ledgers[market]
    toss = Toss.of(content, auditor.card)
    if noted_coin(content.entries) != toss.answer(auditor).hex():
        raise CoinError("its second line holds another coin than your keys toss for its first line")
    return toss


def _rows(evidence: Evidence, market: str, prepared: PreparedMarket, replay: Replay, said: str) -> Iterator[str]:
    """Why a market's rows are not those that the run was opened on, and that it sealed for its auditor (``said``)."""
    opening, size, key = evidence.ledgers[market].opening, evidence.plans[market].size, replay.run_key
    run, reader = str(opening.get("run")), replay.auditor.card.fingerprint
    if prepared.market.n_users != size.users:
        yield f"the rows have {prepared.market.n_users} users, it was opened with {size.users}"
    elif evidence.config.catalogue != "discovered" and prepared.market.n_items != size.items:
        yield f"the rows have {prepared.market.n_items} items, it was opened with {size.items}"
    elif evidence.config.data.synthetic is None and key is None:
        evidence.notes.append(
            f"replay: {market}: whether the rows are those that the ledger was opened on was not compared: that takes "
            "a key that the market makes for you (fedmm keys run-key, and --run-key)"
        )
    elif key is not None and (key.run, key.reader) != (run, reader):
        yield f"the key of --run-key is for run {key.run:.12} and reader {key.reader}"
    elif data_fingerprint(key or PublicData(), run, prepared) != opening.get("data"):
        yield "the rows are not those that it was opened on"
    elif said and readers_fingerprint(key or PublicData(), prepared, reader) != said:
        yield "the fingerprint that it sealed for you is not that of its rows, so that your book took them for others"


def _keys(content: LedgerContent, plan: SpendingPlan, first: bytes, *, by_place: bool) -> dict[int, bytes]:
    """The key of each charge that draws and is planned, by its sequence."""
    drawing = [charge for charge in content.charges if charge.entry.coordinates > 0]
    if not by_place:
        turns = zip(drawing, links(first), strict=False)
        return {charge.sequence: release_key(link, plan.market, charge.entry.identity) for charge, link in turns}
    keys = {
        place: release_key(link, plan.market, place) for place, link in zip(plan.drawing, links(first), strict=False)
    }
    places = ((charge.sequence, (charge.entry.stage, charge.entry.round)) for charge in drawing)
    return {sequence: keys[place] for sequence, place in places if place in keys}


def _other_keys(path: Path, content: LedgerContent, keys: Mapping[int, bytes]) -> Iterator[Finding]:
    for charge in content.charges:
        key = keys.get(charge.sequence)
        if key is not None and charge.key != hashlib.sha256(key).hexdigest():
            yield Finding(
                f"{path}:{charge.line}", f"replay: {_at(charge)}: is charged with another key than both coins make"
            )


def _recorded(evidence: Evidence, market: str, keys: Mapping[int, bytes]) -> Recorded:
    found = {}
    for messages, record in evidence.shown():
        if record.kind == PUBLICATION and record.sender == market:
            found[record.stage] = messages.content[record.file]
    content, salt = evidence.ledgers[market], read_salt(evidence.directory, market)
    return Recorded(content, keys, found, private_digests(content), salt is not None)


def _at(charge: Charge) -> str:
    entry = charge.entry
    return entry.stage if entry.round is None else f"{entry.stage}, round {entry.round}"


@dataclass
class _Course:
    """The stages of a run in order, as the pipeline goes through them, in a folder that is thrown away."""

    evidence: Evidence
    folder: Path
    recorded: Mapping[str, Recorded]
    markets: Mapping[str, PreparedMarket]
    findings: list[Finding] = field(default_factory=list)

    def run(self) -> list[Finding]:
        doors, stopped = {market: self._door(market) for market in self.recorded}, False
        try:
            self._stages(doors)
        except (InputError, StoppedError) as error:
            stopped = True
            self.findings.append(Finding(str(self.evidence.directory), f"replay: stopped: {error}"))
        for market, door in doors.items():
            where = self.evidence.ledger(market)
            for found in door.differences:
                what = f"replay: {_at(found.charge)}: {found.what}"
                self.findings.append(Finding(f"{where}:{found.charge.line}", what))
            for charge in () if stopped else door.left:
                what = f"replay: {_at(charge)}: is sealed, and nothing that is drawn again stands for it"
                self.findings.append(Finding(f"{where}:{charge.line}", what))
            if door.in_sums:
                self.evidence.notes.append(
                    f"replay: {market}: {', '.join(sorted(door.in_sums))}: compared in sums over all markets alone"
                )
            if door.open:
                stages = ", ".join(sorted(set(door.open.values())))
                self.evidence.unchecked.append(
                    f"replay: {market}: {stages}: not compared but for spare values of noise: what the market keeps to "
                    "itself, and the key of its hash, are not shown"
                )
            held = len(door.compared - door.open.keys())
            self.evidence.notes.append(f"replay: {market}: {held} releases drawn again and compared")
        return self.findings

    def _door(self, market: str) -> ReplayingDoor:
        evidence, recorded = self.evidence, self.recorded[market]
        salt = read_salt(evidence.directory, market)
        if salt is not None:
            write_secret(RunDirectory(self.folder).private_key(market), salt)
        run, config = str(recorded.content.opening.get("run")), evidence.config
        nobody, transcript = Identity.generate(market), Transcript(RunDirectory(self.folder).transcript)
        agreement = make_agreement(config, market, nobody, evidence.bundle, self.folder, run, transcript)
        return ReplayingDoor(recorded, agreement, evidence.aggregation.codec, evidence.plans[market].delta, self.folder)

    def _stages(self, doors: Mapping[str, ReplayingDoor]) -> None:
        config = self.evidence.config.model_copy(update={"device": replaying_device(self.evidence)})
        markets = self.markets
        transcript = next(iter(doors.values())).agreement.transcript
        for record in self.evidence.messages.records:
            if record.kind == SUM and record.stage in SUMMED:  # what everybody had before the next sum
                transcript.add(
                    self.evidence.messages.content[record.file],
                    kind=SUM,
                    stage=record.stage,
                    round=0,
                    sender=SERVER,
                    visible_to=record.visible_to,
                    receivers=0,
                )
        federation = Federation(
            config,
            self.folder,
            next(iter(doors.values())).agreement.run,
            self.evidence.bundle,
            doors,
            {},
            {market: self.evidence.plans[market] for market in doors},
            transcript,
            None,
            {},
            canaries={market: found for market in doors if (found := opened_canaries(self.evidence, market))},
        )
        federation, markets = discover_catalogues(federation, markets)
        for stage in SUMMED if config.data.shared_items else ():
            self._rounds(stage, 1, [sum_client(federation, prepared, stage) for prepared in markets.values()])
        embeddings, quantizers = embed_markets(federation, markets), dict[int, dict[str, RQVAE]]()
        for seed in config.seed:
            clients = make_clients(federation, seed, embeddings, pseudo_rows(config, seed, embeddings))
            self._rounds(seed_stage(QUANTIZER, seed), config.federation.rounds, clients)
            quantizers[seed] = {client.market: client.trainer.model for client in clients}
        publish_quantizers(federation, embeddings, quantizers)
        self._as_published(quantizers)
        publish_user_codes(federation, markets, embeddings, quantizers)
        if config.private_ctr:
            self._ctr(federation, markets, embeddings, quantizers)
        release_test_figures(federation, markets, embeddings, quantizers)

    def _rounds(self, stage: str, rounds: int, clients: Sequence[RoundClient]) -> None:
        """Compute each market's updates; every round begins with the sum that was recorded of the last."""
        for round in range(rounds):
            tell_step(f"replaying {stage}", round, rounds)
            header, total = self._sum(stage, round)
            sent = dict[str, IntVector]()
            for client in clients:
                door = client.door
                assert isinstance(door, ReplayingDoor)
                charge = door.recorded.paying(stage, round)
                if charge is None:
                    client.follow(header, total)
                    continue
                values, meter = client.replay(door.paid(charge), header, total)
                for one in door.recorded.sent(stage, round):
                    door.compare_update(one, values, meter if one == charge else None)
                sent[client.market] = values
            if set(header.cohort) <= sent.keys():
                for client in clients:
                    assert isinstance(client.door, ReplayingDoor)
                    client.door.added_up |= {one.sequence for one in client.door.recorded.sent(stage, round)}
                wanted = np.sum([sent[market] for market in header.cohort], axis=0)
                if not np.array_equal(wanted, total):
                    what = f"replay: {stage}, round {round}: the sum of what all markets send comes out otherwise"
                    self.findings.append(Finding(str(self.evidence.messages.directory), what))

    def _sum(self, stage: str, round: int) -> tuple[Header, IntVector]:
        """A round's signed aggregate, and the sum that the markets opened; both are checked elsewhere."""
        found = {
            record.kind: self.evidence.messages.content[record.file]
            for record in self.evidence.messages.records
            if (record.stage, record.round) == (stage, round) and record.kind in (AGGREGATE, SUM)
        }
        if len(found) != 2:
            raise NotChargedError(f"{stage}, round {round}: its sum is not in the transcript")
        return unpack(found[AGGREGATE])[0], integers(found[SUM])

    def _as_published(self, quantizers: Quantizers) -> None:
        """What follows is held to the models that were published."""
        published, _ = read_publications(self.evidence)
        for seed, models in quantizers.items():
            for market, model in models.items():
                arrays = published[market].read.get(seed_stage(MODEL, seed))
                if arrays is not None:
                    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})

    def _ctr(
        self,
        federation: Federation,
        markets: Mapping[str, PreparedMarket],
        embeddings: Embeddings,
        quantizers: Quantizers,
    ) -> None:
        layout = RunDirectory(self.folder)
        for market, prepared in markets.items():
            begun = begin_ctr(federation, market)
            training = private_training(federation, market, begun)
            assert training is not None
            private = private_trainer(prepared, embeddings[market], federation.config)
            for seed, models in quantizers.items():
                tell_step(f"replaying ctr/{seed}", 0, 1, market)
                train_released(private, models[market], seed, training, layout.ctr(market, seed))
            publish_ctr(federation, market, begun)
