import json

import pytest
from dp_accounting.dp_event import ComposedDpEvent

from experiments.runs.budget import market_budget, planned_entries
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.multipliers import MarketSize, planned_stages
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.guarantees import composed_epsilon
from tests.command_line import fedmm
from tests.conftest import tiny

MARKETS = ("m0", "m1", "m2")


def plan(**privacy):
    settings = tiny(privacy={"epsilon": 4.0, **privacy})
    markets = load_markets(settings.data)
    return settings, markets[0], market_budget(settings, markets[0], markets)


@pytest.mark.parametrize("protect", ["federation", "release"])
def test_the_plan_is_what_a_run_would_spend(protect):
    settings, market, found = plan(protect=protect)
    stages = planned_stages(settings, market.n_items)
    composed = [stage.event(found["stages"][stage.name]["noise_multiplier"]) for stage in stages]
    plan_of_it = SpendingPlan.of(settings, "m0", {name: MarketSize(market.n_users, market.n_items) for name in MARKETS})
    spent = composed_epsilon([ComposedDpEvent(composed)], planned_entries(plan_of_it), found["delta"])
    assert 3.9 < spent <= 4.0
    bounded = "release" if protect == "release" else "market"
    assert spent <= found["views"][bounded] < spent * (1 + 1e-4)  # a coarser grid, rounded up
    assert (found["views"]["release"] is None) == (protect == "federation")
    assert set(found["stages"]) == {stage.name for stage in stages}


def test_raw_embeddings_leave_every_view_unbounded():
    settings = tiny(privacy={"epsilon": 4.0}, embedding={"kind": "svd"})
    markets = load_markets(settings.data)
    found = market_budget(settings, markets[0], markets)
    assert set(found["views"].values()) == {None}
    assert set(found["stages"]) == {"quantizer"}


def test_signal_grows_with_the_market_and_small_ones_are_named():
    _, _, small = plan(epsilon=0.2)
    assert "embedding" in small["too_small_for"]
    _, _, generous = plan(epsilon=50.0)
    for name, stage in generous["stages"].items():
        assert stage["signal_to_noise"] > small["stages"][name]["signal_to_noise"]
    assert generous["too_small_for"] == []


def test_the_command_prints_stages_and_views(capsys):
    status, out, err = fedmm(capsys, "budget", "synthetic", "--set", "privacy.epsilon=2")
    assert (status, err) == (0, "")
    for word in ("counts", "embedding", "quantizer", "collusion", "SNR"):
        assert word in out
    status, out, _ = fedmm(capsys, "budget", "synthetic", "--set", "privacy.epsilon=2", "--json")
    assert set(json.loads(out)) == {"m0", "m1", "m2"}


def test_both_ends_of_the_range_are_planned_within_their_budget_and_beyond_is_refused():
    _, _, found = plan(protect="release")
    least, most = found["plannable"]
    assert least < 0.01
    assert 40 < most < 60
    for epsilon in (1.0001 * least, 0.9999 * most):
        _, _, at_end = plan(protect="release", epsilon=epsilon)
        assert 0.9 * epsilon < at_end["views"]["release"] <= epsilon  # discrete noise included
    for epsilon in (0.5 * least, 1.01 * most, 1e4):
        with pytest.raises(ConfigError, match=r"market m0 of 80 users; from 0\.\d+ to \d+\.\d can"):
            plan(protect="release", epsilon=epsilon)
