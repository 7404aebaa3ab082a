"""What a market that an auditor replays can still do: ways around the replay, and ways to its noise."""

import hashlib
import shutil
from contextlib import suppress
from unittest import mock

import pytest

from experiments.runs.markets import synthesize_files
from experiments.verification.replay import Replay
from experiments.verification.run import examine_run
from fedmm_secure.config import config_from_data
from fedmm_secure.federation import in_process
from fedmm_secure.federation.coin_book import enter_tosses
from fedmm_secure.federation.coins import Coins, asked_tosses, first_link, noted_coin
from fedmm_secure.federation.noise_chain import links, release_key
from fedmm_secure.federation.orders import Absence, Order
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.server import AggregationServer
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.aggregation.identities import Identity
from privacy.files import read_secret
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
    """The first charge is given up, the second drawn without noise: the replay looks at the first."""
    run = tmp_path / "run"
    settings = somebodys(auditor, tmp_path / "data", run)
    with counts_of_m0(killed), pytest.raises(KilledError):
        gone_on(settings, run)
    honest = Coins.stated
    monkeypatch.setattr(Coins, "stated", lambda coins, opening, courses: honest(coins, opening, 0))
    monkeypatch.setattr("fedmm_secure.federation.account.computing_kind", lambda: "other vector units")
    with counts_of_m0(lambda transaction: NoNoise(transaction.key, seeded=False)):
        gone_on(settings, run)
    examined = examine_run(run, replay=Replay(auditor, tmp_path / "data"))
    assert [finding.what for finding in examined.findings if "counts" in finding.what]


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
    with suppress(Exception):  # refused, in whatever words
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

    with mock.patch.object(AggregationServer, "_order_in_hand", chosen):
        try:
            gone_on(settings, run)
        except Exception:  # a market refuses, in whatever words
            return
    assert examine_run(run, replay=Replay(auditor)).findings != []


def test_the_book_counts_whatever_a_market_is_called(auditor, tmp_path):
    auditor.save(tmp_path / "auditor")
    said = {}
    for number in range(8):
        market, run = f"shop-{number}", tmp_path / str(number)
        ledger = Ledger(RunDirectory(run).ledger(market))
        coins = Coins(auditor.card, market, f"{number:032x}", RunDirectory(run).charges(market))
        opening = {"run": coins.run, "market": market, "data": "d" * 64, "configuration": "c" * 64}
        ledger.open(opening | coins.stated({}, 0))
        said |= enter_tosses(tmp_path / "auditor", asked_tosses(run, auditor))
    assert max(said.values()) > 0


def test_a_backup_of_a_run_that_waits_does_not_open_all_noise_of_it(auditor, tmp_path):
    """The coin lies on the disk until the auditor answers; the answer stands in the ledger that is handed out."""
    settings, run = replayable(auditor), tmp_path / "run"
    opened(settings, run)
    backup = shutil.copytree(RunDirectory(run).charges("m0"), tmp_path / "backup")
    tossed(run, auditor)
    gone_on(settings, run)
    content = read_ledger(RunDirectory(run).ledger("m0"))
    coin, answer = read_secret(backup / "coin.key"), bytes.fromhex(noted_coin(content.entries))
    chain = links(first_link(coin, answer, "m0", content.opening["run"]))
    drawing = [charge for charge in content.charges if charge.entry.coordinates]
    found = [hashlib.sha256(release_key(next(chain), "m0", one.entry.identity)).hexdigest() for one in drawing]
    assert found != [charge.key for charge in drawing]


def test_a_market_that_misses_a_round_does_not_get_other_noise_for_all_that_follows(auditor, tmp_path):
    """Links follow the charges that draw: a market alone chooses among as many noises as there are rounds to miss."""
    data = {"synthetic": {"markets": 5, "users": 40, "items": 30, "mean_interactions": 8}}
    settings = replayable(auditor, data=data, aggregation={"kind": "ckks"})
    opened(settings, tmp_path / "opened")
    tossed(tmp_path / "opened", auditor)
    honest, found = in_process._statement, []
    for missed in (None, 1):
        run = shutil.copytree(tmp_path / "opened", tmp_path / f"missed-{missed}")

        def state(client, order, missed=missed):
            here = (client.market, order.round) != ("m0", missed)
            return honest(client, order) if here else Absence("a disk that fails")

        with mock.patch.object(in_process, "_statement", state):
            gone_on(settings, run)
        charges = read_ledger(RunDirectory(run).ledger("m0")).charges
        found.append(next(charge.key for charge in charges if charge.entry.stage == "ctr/0"))
    assert found[0] == found[1]
