"""A server that asks for a run which cannot go on, without end: each answer was a line in the market's privacy account.

The account is read whole before anything is charged, and grows for good: a market that nobody has harmed charges in
seconds, then in minutes. The run that cannot go on is one whose key another run has burned, one that awaits its
auditor's coin for days, or one that was begun with another configuration.
"""

import gc
import itertools
import shutil

import pytest

from experiments.deploy.homes import prepare_homes
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.requests import Request
from fedmm_secure.service import attempts, market_service
from fedmm_secure.service.attempts import Attempts
from fedmm_secure.service.market_run import MarketRun
from privacy.aggregation.identities import Identity
from tests.conftest import STATE
from tests.dishonest import DishonestServer
from tests.faults import configuration
from tests.replayed import replayable

ASKED = 12


@pytest.fixture
def federation(founded, tmp_path, monkeypatch):
    monkeypatch.setenv(STATE, str(tmp_path / "machine"))
    server = DishonestServer.copy(founded, tmp_path / "f", max_runs=2)
    server.round(0, hellos=server.hellos())
    return server


def lines(server, market="m0"):
    directory = server.homes.market(market) / "runs" / server.run
    path = account_of(server.services[market]._config, directory, home=True).path
    return len(path.read_text().splitlines())


def asked(server, market="m0"):
    """Lines that a server has written into a market's account by asking; and the answers."""
    before = lines(server, market)
    found = {server.ask(market, "state", order=server.order(0)).absent for _ in range(ASKED)}
    return lines(server, market) - before, found


def reopened(server, market="m0"):
    """As it was: whatever came of it, the run was opened again at each request."""
    service, before = server.services[market], lines(server, market)
    directory = server.homes.market(market) / "runs" / server.run
    for _ in range(ASKED):
        with pytest.raises(Exception, match=r"\S"):
            MarketRun.open(service._config, service._data, market, service._member, directory, server.run)
    return lines(server, market) - before


def test_a_run_whose_key_is_gone(federation):
    member = federation.services["m0"]._member
    member.directory.burn(member.bundle)
    federation.restart("m0")
    assert asked(federation) == (0, {"this run is over at this market; going on takes new keys and another run"})
    assert reopened(federation) == ASKED


def test_a_run_of_another_configuration(federation):
    path = federation.homes.market("m0") / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    federation.restart("m0")
    assert asked(federation) == (0, {"failed; its operator's log says why"})
    assert reopened(federation) == 0  # it is compared with the ledger before an account is asked


class AsItWas(Attempts):
    """Each raise of a failure added the frames that it passed, with the request that they had in hand."""

    def of(self, name, attempt):
        if name not in self._failed:
            return super().of(name, attempt)
        raise self._failed[name][0]


def held(server, market="m0"):
    """Requests that are in memory once many were refused."""
    big = Request("state", server.run, order=server.order(0), aggregate=bytes(100_000)).to_bytes()
    for _ in range(ASKED):
        assert b"failed" in server.services[market].answer(big)
    gc.collect()
    return sum(isinstance(found, Request) for found in gc.get_objects())


def test_a_refusal_keeps_no_request_in_memory(federation):
    """A server that asked on filled a market's memory at 80 MB a second."""
    path = federation.homes.market("m0") / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    federation.restart("m0")
    before = held(federation)
    assert before <= 1  # that of the attempt itself
    federation.services["m0"]._opening = AsItWas()
    assert held(federation) >= ASKED


def test_a_run_that_awaits_a_coin(tmp_path, monkeypatch):
    monkeypatch.setenv(STATE, str(tmp_path / "machine"))
    Identity.generate("auditor").save(tmp_path / "auditor")
    data = configuration("masked-ckks").data.model_dump(mode="json")
    config = replayable(Identity.load(tmp_path / "auditor"), data=data, federation={"rounds": 2})
    prepare_homes(config, tmp_path / "f")
    server = DishonestServer(tmp_path / "f")
    order, hellos = server.order(0), server.hellos()
    statements = server.state(order, hellos=hellos)
    awaits = server.ask("m0", "update", order=order, statements=statements).absent
    assert awaits == "is open, and awaits the coin of its auditor"
    assert asked(server) == (0, {awaits})
    assert reopened(server) == ASKED


def test_a_failure_answers_for_a_while_and_then_longer(monkeypatch):
    now, tried = [0.0], itertools.count(1)
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    opening = Attempts()

    def fails():
        raise OSError(f"try {next(tried)}")

    for now[0] in range(0, 2 * 86_400, 60):
        with pytest.raises(OSError, match="try"):
            opening.of("run", fails)
    assert next(tried) < 70  # in two days
    now[0] += attempts.LONGEST_PAUSE
    assert opening.of("run", lambda: "open") == "open"
    with pytest.raises(OSError, match="try"):
        opening.of("run", fails)
    assert opening.of("another", lambda: "open") == "open"


def sent_before_and_after(server, root):
    """A market's update, and what it answers once its home is that before the update again."""
    hellos, order = server.hellos(), server.order(0)
    statements = server.state(order, hellos=hellos)
    home = server.homes.market("m0")
    shutil.copytree(home, root)
    first = server.ask("m0", "update", order=order, statements=statements)
    shutil.rmtree(home)
    shutil.copytree(root, home)
    server.restart("m0")
    return first.message, server.ask("m0", "update", order=order, statements=statements)


def test_a_home_that_is_put_back_sends_no_other_noise_under_the_same_masks(founded, tmp_path, monkeypatch):
    monkeypatch.setenv(STATE, str(tmp_path / "machine"))
    with monkeypatch.context() as patch:
        patch.setattr(market_service, "begin_account", lambda config, runs: None)  # as it was: there was no account yet
        server = DishonestServer.copy(founded, tmp_path / "f")
        first, again = sent_before_and_after(server, tmp_path / "kept-f")
    assert again.message
    assert again.message != first  # a market that draws noise drew other
    first, again = sent_before_and_after(DishonestServer.copy(founded, tmp_path / "g"), tmp_path / "kept-g")
    assert (bool(first), again.message) == (True, b"")
    assert again.absent == "failed; its operator's log says why"
