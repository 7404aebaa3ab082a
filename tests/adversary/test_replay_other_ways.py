"""What a market that an auditor replays can still do: ways around the replay, and ways to its noise."""

import shutil
from unittest import mock

import pytest

from experiments.runs.markets import synthesize_files
from experiments.verification.replay import Replay
from experiments.verification.run import examine_run
from fedmm_secure.config import config_from_data
from fedmm_secure.federation.coins import Coins
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account_file import AccountError
from privacy.aggregation.identities import Identity
from privacy.mechanisms.randomness import NoiseSource
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
    with counts_of_m0(killed), pytest.raises(KilledError):
        gone_on(settings, run)
    honest = Coins.stated
    monkeypatch.setattr(Coins, "stated", lambda coins, opening, courses: honest(coins, opening, 0))
    monkeypatch.setattr("fedmm_secure.federation.account.computing_kind", lambda device: "other vector units")
    with counts_of_m0(lambda transaction: NoNoise(transaction.key, seeded=False)):
        gone_on(settings, run)
    examined = examine_run(run, replay=Replay(auditor, tmp_path / "data"))
    found = [finding.what for finding in examined.findings]
    assert "replay: counts: comes out otherwise" in found  # the one that was let out
    course = "and a run that an auditor replays has one course"
    assert f"counts is given up and charged again, {course}" in found  # without rows and keys already
    assert f"begins another course, {course}" in found


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
