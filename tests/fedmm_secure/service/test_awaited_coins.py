"""A toss and a replay in a deployed federation: each market's first line, its auditor's coin, and its noise again."""

import shutil

import pytest

from experiments.verification.replay import Replay
from experiments.verification.run import examine_run
from fedmm_secure.federation.run_keys import read_run_key
from fedmm_secure.federation.server import CohortTooSmallError
from fedmm_secure.service.market_service import run_directories
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import read_ledger
from privacy.aggregation.identities import Identity
from tests.command_line import fedmm
from tests.experiments.deploy.fleet import make_fleet
from tests.replayed import replayable

PRIVACY = {"epsilon": 8.0, "quantizer": {"steps_per_round": 1}, "pseudo_users": 50}


def run_of(homes, market):
    (directory,) = run_directories(homes.market(market) / "runs")
    return directory


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A federation whose run waits for coins, and its auditor."""
    folder = tmp_path_factory.mktemp("toss")
    Identity.generate("auditor").save(folder / "auditor")
    auditor = Identity.load(folder / "auditor")
    with pytest.MonkeyPatch.context() as patch:
        fleet = make_fleet(replayable(auditor, privacy=PRIVACY, federation={"rounds": 2}), folder / "f", patch)
        with pytest.raises(CohortTooSmallError, match="m0: is open, and awaits the coin of its auditor"):
            fleet.serve()
        yield fleet, auditor, folder


def test_markets_wait_toss_go_on_and_are_replayed_each_alone(federation, tmp_path, capsys):
    fleet, auditor, folder = federation
    homes = fleet.homes
    for market in homes.markets:
        home, directory = homes.market(market), run_of(homes, market)
        assert read_ledger(RunDirectory(directory).ledger(market)).charges == ()
        status, out, _ = fedmm(capsys, "deploy", "coins", home)
        assert (status, f"hand {directory / 'ledger'} to auditor, {auditor.card.fingerprint}" in out) == (0, True)
        # what travels to the auditor, and back, is the ledger's one line and a signature
        shutil.copytree(directory / "ledger", tmp_path / market / "ledger")
        answers = tmp_path / f"{market}.json"
        status, out, _ = fedmm(
            capsys, "keys", "coins", tmp_path / market, "--keys", folder / "auditor", "--out", answers
        )
        assert (status, f"asked for by {market} " in out, "other first lines" in out) == (0, True, False)
    status, _, err = fedmm(capsys, "deploy", "coins", homes.market("m0"), "--coins", tmp_path / "m1.json")
    assert (status, "has no coin of auditor" in err) == (2, True)
    for market in homes.markets:
        fleet.restart(market)  # as after a night
        status, out, _ = fedmm(capsys, "deploy", "coins", homes.market(market), "--coins", tmp_path / f"{market}.json")
        assert (status, f"--run {fleet.run}" in out) == (0, True)
    fleet.serve(fleet.run)
    for service in fleet.services.values():
        service.conclude_finished()
    for market in homes.markets:
        run, key = run_of(homes, market), tmp_path / f"{market}.key"
        assert fedmm(capsys, "keys", "run-key", run, "--out", key)[0] == 0
        examined = examine_run(run, replay=Replay(auditor, homes.market(market) / "data", read_run_key(key)))
        assert examined.findings == []
        assert [note for note in examined.notes if "drawn again" in note or "not compared" in note] == [
            f"replay: {market}: 4 releases drawn again and compared"
        ]
    assert "no run of market m0 waits for a coin" in fedmm(capsys, "deploy", "coins", homes.market("m0"))[2]
