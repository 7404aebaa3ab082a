"""A sweep over markets, whose page says what all runs on the data of the worst market spend.

The markets of the last cell were asked for, and no others: of a market that it leaves out no run was on the page. So
were its δ, and the views that it claims.
"""

from unittest.mock import Mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from experiments.reports import sweep as reports
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.spendings import Spending

CELLS = {"all": ("m0", "m1", "m2", "m3"), "without-m0": ("m1", "m2", "m3")}
DELTA = 1e-3


@pytest.fixture
def swept(monkeypatch):
    """A sweep of some cells; of the first market, runs besides those of the sweep are known."""
    once = Spending("run", {"market": GaussianDpEvent(2.0), "release": GaussianDpEvent(1.0)}, markets=4)
    held = {market: [once] * (5 if market == "m0" else 2) for market in CELLS["all"]}
    told = {
        cell: {"privacy": {"markets": {market: {"market": {"delta": DELTA}} for market in markets}}}
        for cell, markets in CELLS.items()
    }
    told["careless"] = {"privacy": {"markets": {"m0": {"market": {"delta": 0.5}}}}}
    monkeypatch.setattr(reports, "read_metrics", told.__getitem__)
    monkeypatch.setattr(reports, "spent_on_same_data", lambda account, directory, market: held[market])
    worst = several_runs_epsilon(held["m0"], "market", DELTA)

    def made(*cells, protect=("federation", "federation")):
        kept = [
            Mock(config=Mock(privacy=Mock(epsilon=8.0, protect=level)), kept=cell)
            for cell, level in zip(cells, protect, strict=False)
        ]
        return Mock(finished=lambda: kept, path=lambda cell: cell.kept)

    return made, worst


def test_the_worst_market_may_be_one_that_the_last_cell_leaves_out(swept):
    made, worst = swept
    last = reports._spent(made("without-m0"))["market"]  # the attack works where that cell alone is asked
    assert last["runs"] == 2
    assert last["epsilon"] < worst / 1.5
    for order in (tuple(CELLS), tuple(reversed(CELLS))):
        assert reports._spent(made(*order))["market"] == {"runs": 5, "unbounded": 0, "epsilon": worst}


def test_the_last_cell_chooses_neither_delta_nor_views(swept):
    made, worst = swept
    careless = reports._spent(made("careless"))["market"]  # the attack works where that cell alone is asked
    assert careless["epsilon"] < worst / 3
    assert set(reports._spent(made("all"))) == {"market"}
    for order in (("all", "careless"), ("careless", "all")):
        for levels in (("release", "federation"), ("federation", "release")):
            found = reports._spent(made(*order, protect=levels))
            assert found["market"]["epsilon"] == worst
            assert found["release"]["epsilon"] > worst
