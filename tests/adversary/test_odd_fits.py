"""``FedMM.fit`` in odd order: markets under other names, fits that fail, a directory that a fit left half done."""

from dataclasses import replace

import pytest

from fedmm_secure import FedMM, api
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.prepare import prepare
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.multipliers import market_noise
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import read_config

SECTIONS = {
    "federation": {"rounds": 2},
    "embedding": {"private": {"dim": 4, "max_items": 20}},
    "ctr": {"baselines": []},
    "privacy": {"epsilon": 8.0, "protect": "release", "ctr": {"steps": 4}},
}


class KilledError(Exception):
    """Where a fit would end."""


def markets(users=60):
    return [found.market for found in synthesize(SyntheticSpec(users=users, items=40, mean_interactions=8))]


@pytest.fixture
def fitted(monkeypatch):
    """What pipelines are given; nothing is trained."""
    given = []

    def pipeline(config, prepared, directory, listener):
        given.append((config, prepared, directory))
        return {"epsilon": config.privacy.epsilon}

    monkeypatch.setattr(api, "run_pipeline", pipeline)
    return given


def test_rows_are_charged_to_the_market_that_they_are_given_as(fitted, tmp_path):
    """A file's name is a market's first one: who gives it another had its rows charged to whoever is called so."""
    small, large = markets(30), markets(600)
    given = {"m0": large[1], "m1": small[0], "m2": small[2]}
    model = FedMM(**SECTIONS).fit(given, tmp_path / "run")
    config, prepared = model.config_, fitted[0][1]
    assert {name: found.market.name for name, found in prepared.items()} == {name: name for name in given}
    # as it was, the large market's counts were drawn by the plan of the small one that is called m1
    as_it_was = {name: prepare(market, config.data) for name, market in given.items()}
    sizes = market_sizes(config, sorted(given), as_it_was)
    own, taken = (market_noise(config, name, sizes)["counts"] for name in ("m0", as_it_was["m0"].market.name))
    assert taken < 0.8 * own
    with pytest.raises(ValueError, match="market m0: is called m1 in its rows"):
        run_pipeline(config, as_it_was, tmp_path / "other")


def test_a_fit_that_fails_leaves_no_figure_of_the_one_before(fitted, tmp_path, monkeypatch):
    given = {market.name: market for market in markets()}
    model = FedMM(**SECTIONS).fit(given, tmp_path / "run")
    assert model.metrics_ == {"epsilon": 8.0}

    def killed(*_):
        raise KilledError

    monkeypatch.setattr(api, "run_pipeline", killed)
    model.sections = {**SECTIONS, "privacy": {**SECTIONS["privacy"], "epsilon": 50.0}}
    with pytest.raises(KilledError):
        model.fit(given, tmp_path / "again")
    assert not hasattr(model, "metrics_")
    assert not hasattr(model, "directory_")


def test_a_directory_that_was_begun_takes_no_other_configuration(fitted, tmp_path):
    """Before a ledger's first line nothing else compared them: the run spent 8 in a directory that said 1."""
    given, run = {market.name: replace(market) for market in markets()}, tmp_path / "run"
    FedMM(**{**SECTIONS, "privacy": {**SECTIONS["privacy"], "epsilon": 1.0}}).fit(given, run)
    assert read_config(run).privacy.epsilon == 1.0
    with pytest.raises(RunDirectoryError, match="another configuration"):
        FedMM(**SECTIONS).fit(given, run)
    assert [config.privacy.epsilon for config, _, _ in fitted] == [1.0]
