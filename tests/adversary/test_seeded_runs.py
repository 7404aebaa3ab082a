"""Noise from a seed of the configuration, and what is said of such a run, and of others on the same rows.

The seed is for tests. Whoever has the configuration, which is handed out, takes the noise off.
"""

import math
from unittest import mock

import numpy as np
import pytest

from experiments.presentation.text import epsilon_over_markets
from experiments.runs.outlook import refusal
from experiments.runs.tracking import scalars
from fedmm_secure.collaborative.dp_svd import contributions
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation import account_entries
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.account_entries import planned_spending
from fedmm_secure.federation.foresight import look_ahead
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.federation.releases import embed_privately
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from fedmm_secure.guarantee.statement import guarantees
from fedmm_secure.storage.encoding import read_arrays
from privacy.accounting.filters import noted_event
from privacy.accounting.guarantees import EARLIER_RUNS
from privacy.mechanisms.counts import integer_rows
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.meter import ENOUGH
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import TINY
from tests.people import as_files

SEED = 5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("markets")


def configuration(files, seed):
    budget = {"epsilon": 8, "protect": "release", "noise_seed": seed}
    return config_from_data(as_files(files, **TINY | {"privacy": budget}), source="test")


def begun(config, directory):
    markets = prepare_markets(config.data)
    return open_federation(config, markets, directory, account=account_of(config, directory)), markets


def with_earlier(federation):
    return guarantees(federation.config, federation.entries("m0"))["with_earlier_runs"]


def test_who_has_the_configuration_reads_exact_counts(files, tmp_path):
    """The attack: from what is published and the seed alone, every user's weight in every count, to the unit."""
    federation, markets = begun(configuration(files, SEED), tmp_path / "run")
    embed_privately(federation, markets["m0"])
    transcript, plan = federation.transcript, federation.plans["m0"]
    published = read_arrays(transcript.find(kind="publication", stage="counts", round=0, sender="m0"))["values"]

    key = NoiseSource.from_seed(SEED).derive("m0", *map(str, plan.counts().identity)).words(4).tobytes()
    grid, n = Grid.of(plan.noise["counts"]), len(published)
    noise, _ = NoiseSource(key, seeded=True).derive("noise").gaussian_with_spare(n, ENOUGH, levels=grid.levels)
    exact = np.rint(published / grid.step).astype(np.int64) - noise

    market, train = markets["m0"].market, markets["m0"].split.train
    rows = contributions(market, train, federation.config.privacy.contribution, plan.noise["counts"])
    np.testing.assert_array_equal(exact, integer_rows(rows, grid).sum(axis=0))


def test_what_it_notes_of_earlier_runs_has_no_seed(files, tmp_path, monkeypatch):
    """Verification takes a seeded note for none: whoever ran twice with a seed had two runs that did not verify."""
    monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "twice.account"))
    begun(configuration(files, SEED), tmp_path / "first")
    federation, _ = begun(configuration(files, SEED), tmp_path / "second")
    (note,) = [entry for entry in federation.entries("m0") if entry.stage == EARLIER_RUNS]
    assert (note.remark, note.event_for("market"), note.seeded) == ("1", noted_event([math.inf]), False)


def test_it_leaves_later_runs_on_the_same_rows_without_a_bound(files, tmp_path, monkeypatch):
    """As it was, ε of both was composed as if nobody could take the noise of the first off: 13 where there is none."""
    seeded, secret = configuration(files, SEED), configuration(files, None)

    def as_it_was(plan):
        privacy = plan.config.privacy.model_copy(update={"noise_seed": None})
        return observed_by_view(mock.Mock(wraps=plan, config=plan.config.model_copy(update={"privacy": privacy}),
                                          stages=plan.stages, stage_event=plan.stage_event))  # fmt: skip

    with mock.patch.object(account_entries, "observed_by_view", as_it_was):
        monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "as-it-was.account"))
        begun(seeded, tmp_path / "seeded")
        found = with_earlier(begun(secret, tmp_path / "after")[0])
        assert found["earlier_runs"] == 1
        assert found["market"]["epsilon"] is not None

    monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "now.account"))
    markets = prepare_markets(seeded.data)
    ahead = look_ahead(seeded, markets, tmp_path / "ahead", account_of(seeded, tmp_path / "ahead"))
    told = refusal({name: vars(found) for name, found in ahead.items()}, 8.0)
    assert "nothing bounds this run, as where noise follows from privacy.noise_seed" in told
    begun(seeded, tmp_path / "seeded-now")
    later = begun(secret, tmp_path / "later")[0]
    assert with_earlier(later)["market"]["epsilon"] is None
    ahead = look_ahead(secret, markets, tmp_path / "third", account_of(secret, tmp_path / "third"))
    assert {found.without_bound for found in ahead.values()} == {1}


def test_no_list_and_no_tracker_has_a_number_for_it():
    def told(seeded):
        views = {view: {"epsilon": 7.97} for view in ("market", "release")}
        markets = {"m0": {**views, "seeded": False}, "m1": {**views, "seeded": seeded}}
        figures = {"auc": 0.7, "logloss": 0.5}
        return {
            "macro": {**figures, "baselines": {}},
            "markets": dict.fromkeys(markets, figures),
            "privacy": {"markets": markets},
        }

    def tracked(seeded, of_persons=None):
        fields = told(seeded)
        if of_persons:
            fields["privacy"]["across_markets"] = {"epsilon": of_persons}
        return {name for name, *_ in scalars("finished", fields) if "epsilon" in name}

    assert epsilon_over_markets(told(seeded=False), "release") == 7.97
    assert epsilon_over_markets(told(seeded=True), "release") is None
    assert tracked(seeded=False) - tracked(seeded=True) == {"m1/epsilon-market", "m1/epsilon-release"}
    persons = tracked(seeded=False, of_persons={"release": 13.0}) - tracked(seeded=False)
    assert persons == {"person-in-all-markets/epsilon-release"}
    assert not persons & tracked(seeded=True, of_persons={"release": 13.0})


def test_what_it_plans_to_spend_is_unbounded(files, tmp_path):
    federation, _ = begun(configuration(files, SEED), tmp_path / "run")
    events = planned_spending("run", federation.plans["m0"]).events
    assert {type(events[view]).__name__ for view in DECRYPTED_VIEWS} == {"NonPrivateDpEvent"}
