"""What a market that an auditor replays can still do: ways around the replay, and ways to its noise."""

import shutil
from unittest import mock

import pytest

from experiments.runs.markets import synthesize_files
from experiments.verification.replay import Replay
from experiments.verification.run import examine_run
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_one
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.account_entries import data_fingerprint, readers_fingerprint
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.coins import Coins
from fedmm_secure.federation.noise_chain import NoiseChain
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.run_keys import read_run_key
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.tosses import asked_tosses
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.ledger import read_ledger
from privacy.accounting.places import users_account
from privacy.aggregation.identities import Identity
from privacy.files import KeyFileError
from privacy.mechanisms.randomness import NoiseSource
from tests.command_line import fedmm
from tests.replayed import gone_on, opened, replayable, tossed


class KilledError(Exception):
    """Where a process would be killed."""


@pytest.fixture
def auditor():
    return Identity.generate("auditor")


def somebodys(auditor, folder, run):
    """A run on files, which an account knows of, as it stands when its coins are there."""
    base = replayable(auditor)
    data = base.model_dump(mode="json")
    files = synthesize_files(base.data.synthetic, folder)
    del data["data"]["synthetic"]
    markets = {name: file.model_dump(mode="json", exclude_defaults=True) for name, file in files.items()}
    data["data"] |= {"root": str(folder), "markets": markets}
    data["privacy"]["catalogue"] = "file"
    settings = config_from_data(data, source="test")
    opened(settings, run)
    tossed(run, auditor)
    return settings


class NoNoise(NoiseSource):
    """Shows the spare coordinates as they are, and adds nothing to the others."""

    def derive(self, *purpose):
        return NoNoise(super().derive(*purpose)._key, seeded=False)

    def gaussian_with_spare(self, count, spare, *, levels=2):
        values, left = super().gaussian_with_spare(count, spare, levels=levels)
        return values * 0, left


def counts_of_m0(then):
    honest = Transaction.source.fget

    def source(transaction):
        entry = transaction.charge.entry
        return then(transaction) if (entry.market, entry.stage) == ("m0", "counts") else honest(transaction)

    return mock.patch.object(Transaction, "source", property(source))


def killed(transaction):
    raise KilledError


def test_a_release_that_was_charged_twice_is_held_to_the_charge_that_was_sealed(auditor, tmp_path, monkeypatch):
    """The first charge is given up, the second drawn without noise: the replay looked at the first."""
    run = tmp_path / "run"
    settings = somebodys(auditor, tmp_path / "data", run)
    monkeypatch.setattr(NoiseChain, "leave", lambda chain, place: None)  # it keeps what an honest one erases
    with counts_of_m0(killed), pytest.raises(KilledError):
        gone_on(settings, run)
    honest = Coins.stated
    monkeypatch.setattr(Coins, "stated", lambda coins, opening, courses, rows: honest(coins, opening, 0, rows))
    monkeypatch.setattr("fedmm_secure.federation.account.computing_kind", lambda device: "other vector units")
    with counts_of_m0(lambda transaction: NoNoise(transaction.key, seeded=False)):
        gone_on(settings, run)
    examined = examine_run(run, replay=Replay(auditor, tmp_path / "data"))
    found = [finding.what for finding in examined.findings]
    assert "replay: counts: comes out otherwise" in found  # the one that was let out
    course = "and a run that an auditor replays has one course"
    assert f"counts is given up and charged again, {course}" in found  # without rows and keys already
    assert f"begins another course, {course}" in found
    assert any(what.startswith("counts: draws the same noise as line") for what in found)


def test_a_copy_without_what_the_account_let_in_does_not_draw_from_the_same_keys(auditor, tmp_path):
    run, drawn, honest = tmp_path / "run", {}, ReleaseKeys.make
    settings = somebodys(auditor, tmp_path / "data", run)

    def go_on(directory, stop=""):
        def make(keys, release, ledger):
            if release.stage == stop:
                raise KilledError
            key = honest(keys, release, ledger)
            if key is not None:
                drawn.setdefault(key, set()).add(directory.name)
            return key

        with mock.patch.object(ReleaseKeys, "make", make):
            gone_on(settings, directory)

    with pytest.raises(KilledError):
        go_on(run, "embedding")
    copy = shutil.copytree(run, tmp_path / "copy")
    for market in ("m0", "m1", "m2"):
        RunDirectory(copy).account(market).unlink()
    go_on(run)
    with pytest.raises(AccountError, match="restore the file, or start a new run"):
        go_on(copy)
    assert [where for where in drawn.values() if len(where) > 1] == []


def test_a_copy_of_a_waiting_runs_folder_opens_no_noise(auditor, tmp_path):
    """All of the run's folder, the auditor's coins and the market's identity in it, and not the account's key.

    The positive control: who has the account too opens the coin, and with it all noise that is to come.
    """
    run = tmp_path / "run"
    settings = somebodys(auditor, tmp_path / "data", run)
    copy = RunDirectory(shutil.copytree(run, tmp_path / "copy"))
    identity, known = Identity.load(copy.keys("m0")), (copy.state / "run-id").read_text()
    (_,) = copy.charges("m0").glob("coin.key")

    def opened_with(account, own):
        return Coins.of(settings, known, copy.charges("m0"), account, own, None).files.read("coin.key")

    markets = account_of(settings, run)
    for account, own in (
        (PublicData(), identity),
        (PrivacyAccount(tmp_path / "a-strangers.account"), identity),
        (markets, Identity.generate("m0")),  # as of a home whose identity is under a passphrase
    ):
        with pytest.raises(KeyFileError, match="opens under the privacy account"):
            opened_with(account, own)
    assert len(opened_with(markets, identity)) == 32


STAGE = "quantizer/0"
AWAY = {("m3", (STAGE, 1)), ("m2", (STAGE, 2))}


def test_a_missed_round_does_not_choose_the_noise_of_the_next(auditor, tmp_path, monkeypatch):
    """One market misses a round, and draws the next as planned; another draws what it missed in the next, and is found.

    Keys once followed from how many were drawn before: who missed a round moved all later noise, and so chose it.
    """
    data = {"synthetic": {"markets": 4, "users": 40, "items": 30, "mean_interactions": 8}}
    privacy = {"epsilon": 8.0, "quantizer": {"steps_per_round": 1}, "pseudo_users": 50}
    sections = {"data": data, "privacy": privacy, "aggregation": {"kind": "ckks"}, "federation": {"rounds": 4}}
    settings, run = replayable(auditor, **sections), tmp_path / "run"
    opened(settings, run)
    tossed(run, auditor)
    send, key = MarketClient.local_update, NoiseChain.key

    def away(client, order, *rest):
        if (client.market, order.place) in AWAY:
            raise OSError("is away")
        send(client, order, *rest)

    def shifted(chain, place):
        return key(chain, (STAGE, 2) if (chain._market, place) == ("m2", (STAGE, 3)) else place)

    monkeypatch.setattr(MarketClient, "local_update", away)
    monkeypatch.setattr(NoiseChain, "key", shifted)
    gone_on(settings, run)
    examined = examine_run(run, replay=Replay(auditor))
    assert {name for name, found in examined.checks.items() if found} == {"replay"}
    first, *others = [(finding.where, finding.what) for finding in examined.findings]
    assert first[0].split("/")[-1].startswith("m2.jsonl:")
    assert first[1] == f"replay: {STAGE}, round 3: is charged with another key than both coins make"
    assert not any("m3.jsonl" in where or "m0.jsonl" in where or "m1.jsonl" in where for where, _ in others)
    # each drew what it sent once: later attempts sent the same for fewer
    drawn = [c.entry.identity for c in read_ledger(RunDirectory(run).ledger("m0")).charges if c.key and c.entry.round]
    assert drawn == [(STAGE, 1, 0), (STAGE, 2, 0), (STAGE, 3, 0)]


def test_a_run_key_shows_the_rows_of_its_run_to_its_auditor_alone(auditor, tmp_path, capsys):
    run, other = tmp_path / "run", Identity.generate("auditor")
    settings = somebodys(auditor, tmp_path / "data", run)
    tosses = asked_tosses(run, auditor)
    status, out, _ = fedmm(capsys, "keys", "run-key", run, "--out", tmp_path / "run.key")
    assert (status, "for " + auditor.card.fingerprint in out) == (0, True)
    found = read_run_key(tmp_path / "run.key")
    account_key = users_account().with_name("privacy.account.key").read_bytes()
    assert account_key.hex() not in (tmp_path / "run.key").read_text()
    prepared = prepare_one(settings.data, "m0")
    opening = read_ledger(RunDirectory(run).ledger("m0")).opening
    (toss,) = (one for one in tosses if one.market == "m0")
    assert data_fingerprint(found, opening["run"], prepared) == opening["data"]
    assert readers_fingerprint(found, prepared, auditor.card.fingerprint) == toss.rows(auditor)
    for asked in ({"run": "another"}, {"reader": other.card.fingerprint}):
        with pytest.raises(ValueError, match="for that run and its reader alone"):
            found.fingerprint([], **asked)


def test_a_server_in_league_with_a_market_does_not_choose_among_noises(auditor, tmp_path):
    """The number of the attempt is in the key, and the first order may name any: log2 of their number a round."""
    data = {"synthetic": {"markets": 6, "users": 40, "items": 30, "mean_interactions": 8}}
    settings, run = replayable(auditor, data=data, aggregation={"kind": "ckks"}), tmp_path / "run"
    opened(settings, run)
    tossed(run, auditor)
    everyone = tuple(f"m{number}" for number in range(6))

    def chosen(server, stage, round):
        return Order(stage, round, 3, everyone)

    refused = pytest.raises(OrderError, match="asks for attempt 3 where 0 markets are missing")
    with mock.patch.object(AggregationServer, "_order_in_hand", chosen), refused:
        gone_on(settings, run)
