"""Figures that follow from others: means, intervals, averages over markets. What follows is no place for another."""

import struct

import pytest

from experiments.verification import examine_run, figures
from tests.forgery import Forgery
from tests.manipulations import ROWS

FLOATS = [struct.unpack("<d", b"\0" + ROWS[start : start + 5] + b"\xe0\x3f")[0] for start in range(0, 3000, 5)]


def changed(run, change):
    forgery = Forgery(run)
    forgery.json("metrics.json", change)
    forgery.finish(owner=True)
    return {name: [found.what for found in findings] for name, findings in examine_run(run).checks.items() if findings}


@pytest.mark.parametrize("key", ["auc", "logloss", "gauc", "ndcg10"])
def test_a_macro_figure_that_its_markets_do_not_give(released_copy, key):
    """It is what tables and pages say of a run."""
    found = changed(released_copy, lambda metrics: metrics["macro"].update({key: 0.99}))
    assert list(found) == ["test figures"]
    assert f"macro, {key}: says 0.99, the markets give" in found["test figures"][0]


def test_a_mean_that_its_seeds_do_not_give(released_copy):
    found = changed(released_copy, lambda metrics: metrics["markets"]["m1"].update(auc=0.99))
    assert any("market m1, auc: says 0.99, its seeds give" in what for what in found["test figures"])


def test_an_interval_of_one_seed(released_copy):
    def change(metrics):
        interval = metrics["markets"]["m0"]["baselines"]["popularity"]["auc_interval"]
        interval.update(low=FLOATS[0], high=FLOATS[1])

    found = changed(released_copy, change)
    assert [what[:40] for what in found["test figures"]] == [
        "market m0, popularity, auc_interval.high",
        "market m0, popularity, auc_interval.low:",
    ]


BETTER = {"mean": 0.4, "low": 0.35, "high": 0.45}  # than every baseline, beside AUCs that say otherwise


@pytest.fixture
def better_by_word(released_copy):
    def change(metrics):
        market = metrics["markets"]["m0"]
        assert abs(market["auc"] - market["baselines"]["popularity"]["auc"] - BETTER["mean"]) > 0.01
        market["baselines"]["popularity"]["auc_gain_over_it"] = BETTER

    return lambda: changed(released_copy, change)


def test_a_difference_from_a_baseline_that_the_aucs_do_not_give(better_by_word):
    (what,) = better_by_word()["test figures"]
    assert what.startswith("market m0, auc_gain_over_it of popularity: says 0.4, the AUCs give ")


def test_it_verified(better_by_word, monkeypatch):
    monkeypatch.setattr(figures, "_gains", lambda *_: ())
    assert better_by_word() == {}


def test_a_difference_that_is_left_out(released_copy):
    def change(metrics):
        metrics["markets"]["m0"]["baselines"]["popularity"]["auc_gain_over_it"] = None

    assert ["says None" in what for what in changed(released_copy, change)["test figures"]] == [True]


@pytest.mark.parametrize("section", ["markets", "macro"])
def test_tasks_that_were_not_configured(released_copy, section):
    """A thousand figures by a key each, and every one of them free: as it was, they verified."""

    def change(metrics):
        figures = {str(number): value for number, value in enumerate(FLOATS)}
        place = metrics["macro"] if section == "macro" else metrics["markets"]["m0"]
        place["short_histories"] = figures

    found = changed(released_copy, change)
    assert found["files"] == ["short_histories: other lengths than were configured"]


def test_traffic_of_a_baseline_that_each_market_trains(released_copy):
    def change(metrics):
        traffic = {"bytes_up": 1, "bytes_down": int.from_bytes(ROWS[-4:], "big"), "rounds": 3}
        metrics["macro"]["baselines"]["popularity"]["communication"] = traffic

    assert "has no communication" in changed(released_copy, change)["files"][0]
