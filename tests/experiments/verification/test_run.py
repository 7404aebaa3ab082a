"""Runs of other kinds than the session's: nothing is found where nothing is wrong."""

import shutil

import pytest

from experiments.verification import examine_run, verify_run
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.transcript import HELLO, STATEMENT
from fedmm_secure.results.metrics import communication, macro_figures
from tests.conftest import tiny
from tests.faults import configuration
from tests.forgery import Forgery
from tests.released import RELEASE, run_release

PRIVATE = {"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}}
FEW = {"baselines": ["popularity"]}


def texts(directory):
    return [f"{finding.where}: {finding.what}" for finding in verify_run(directory)]


KINDS = {
    "two seeds, plaintext": {"seed": [0, 3], "aggregation": {"kind": "plaintext"}, "ctr": FEW},
    "protect: federation, with a warm-up": {
        "privacy": {"epsilon": 4.0},
        "embedding": PRIVATE,
        "federation": {"warm_up_rounds": 1},
        "ctr": FEW,
    },
    "raw embeddings under a budget": {"privacy": {"epsilon": 4.0}, "embedding": {"kind": "svd"}, "ctr": FEW},
    "released, subspace iteration, two seeds": {
        "seed": [0, 1],
        "privacy": RELEASE,
        "embedding": {"kind": "dp-svd", "private": {**PRIVATE["private"], "method": "subspace"}},
        "ctr": {**FEW, "model": "dcnv2"},
    },
    "seeded, masked": {
        "privacy": {**RELEASE, "noise_seed": 7},
        "embedding": PRIVATE,
        "aggregation": {"kind": "masked-ckks"},
        "ctr": FEW,
    },
    "a discovered catalogue": {
        "data": {"synthetic": {"markets": 3, "users": 200, "items": 60, "mean_interactions": 25}},
        "privacy": {**RELEASE, "epsilon": 20.0, "catalogue": "discovered", "shares": {"catalogue": 5.0}},
        "embedding": PRIVATE,
        "ctr": FEW,
    },
}


@pytest.fixture(scope="module")
def without_privacy(tmp_path_factory):
    run = tmp_path_factory.mktemp("without") / "run"
    run_release(run, tiny(ctr=FEW))
    return run


@pytest.fixture
def plain(without_privacy, tmp_path):
    return shutil.copytree(without_privacy, tmp_path / "run")


def test_a_run_without_privacy_verifies(without_privacy):
    assert texts(without_privacy) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_verifies(tmp_path, kind):
    run_release(tmp_path / "run", tiny(**KINDS[kind]))
    assert texts(tmp_path / "run") == []


@pytest.mark.parametrize("aggregation", ["plaintext", "ckks"])
def test_a_run_with_a_market_that_fails_in_a_round_verifies(tmp_path, monkeypatch, aggregation):
    """The attempt is given up and charged, and the round comes again without the market."""
    honest = MarketClient.local_update

    def crash(client, order, send):
        if (client.plan.market, order.round) == ("m2", 1):
            raise OSError("disk full")
        honest(client, order, send)

    monkeypatch.setattr(MarketClient, "local_update", crash)
    run_release(tmp_path / "run", configuration(aggregation).model_copy(update={"workers": 1}))
    assert texts(tmp_path / "run") == []
    rounds = {record.attempt for record in Forgery(tmp_path / "run").records.values() if record.kind == "aggregate"}
    assert rounds == {0, 1}


def test_a_round_that_a_market_left_out_by_itself_is_found(plain):
    """The sum says who was in it: a ledger that lacks a round in which its market took part does not verify."""
    forgery = Forgery(plain)
    forgery.drop("m1", lambda line: line.body["entry"]["round"] == 1)
    forgery.remove(lambda record: record.sender == "m1" and record.round == 1)
    forgery.finish(owner=True)
    checks = {check for check, findings in examine_run(plain).checks.items() if findings}
    # bytes sent are those of the messages that are there; what the market kept is there too, named by its last line
    # and paid for by nothing
    assert checks == {"files", "plan", "messages", "transcript", "closing line"}


def test_one_market_of_a_deployment_is_no_missing_market(plain):
    """A deployed market has its own ledger and messages alone."""
    forgery = Forgery(plain)
    for market in ("m1", "m2"):
        forgery.markets.remove(market)
        (plain / "ledger" / f"{market}.jsonl").unlink()
        shutil.rmtree(plain / "private" / market)
        (plain / "private" / f"{market}.key").unlink()
        for path in (
            *(plain / "codes").glob(f"{market}.*"),
            *(plain / "predictions").glob(f"{market}.*"),
        ):
            path.unlink()
        for path in (plain / "models" / market).iterdir():
            path.unlink()
        (plain / "models" / market).rmdir()
    forgery.remove(lambda record: record.sender in ("m1", "m2") and record.kind not in (HELLO, STATEMENT))

    def only_m0(metrics):
        for section in (metrics["markets"], metrics["privacy"]["markets"], metrics["privacy"]["catalogue"]):
            for market in ("m1", "m2"):
                section.pop(market, None)
        metrics["communication"] = communication(list(forgery.records.values()), 3)
        metrics["macro"] = macro_figures(metrics["markets"], 1)

    forgery.json("metrics.json", only_m0)
    forgery.finish(owner=True)
    assert texts(plain) == []
