import math

import pytest

from experiments.presentation.text import natural_key
from experiments.reports.accuracy import best_of, comparable_baselines, macro_gain, outcome, outcomes, spread
from tests.conftest import tiny

RELEASE = {"epsilon": 8.0, "protect": "release"}
BASELINES = ["popularity", "noisy-popularity", "noisy-recent-popularity"]


def gain(mean, half=None):
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def market(**gains):
    return {"baselines": {name: {"auc_gain_over_it": found} for name, found in gains.items()}}


def test_what_may_be_published_is_compared_with_what_may_be_too():
    released = tiny(privacy=RELEASE, embedding={"private": {"dim": 4}}, ctr={"baselines": BASELINES})
    inside = tiny(privacy={"epsilon": 8.0, "protect": "federation"}, embedding={"private": {"dim": 4}})
    assert comparable_baselines(released, BASELINES) == ["noisy-popularity", "noisy-recent-popularity"]
    assert comparable_baselines(inside, BASELINES) == ["popularity"]
    assert comparable_baselines(tiny(), ["popularity", "local-ids"]) == ["popularity", "local-ids"]


def test_the_gain_over_all_markets_is_the_mean_of_independent_ones():
    markets = {"a": market(x=gain(0.03, 0.03)), "b": market(x=gain(0.01, 0.04))}
    found = macro_gain(markets, "x")
    assert found["mean"] == pytest.approx(0.02)
    assert found["high"] - found["mean"] == pytest.approx(math.sqrt(0.03**2 + 0.04**2) / 2)
    assert found["mean"] - found["low"] == pytest.approx(0.025)
    assert macro_gain({**markets, "c": market(x=gain(0.02))}, "x") == {
        "mean": pytest.approx(0.02),
        "low": None,
        "high": None,
    }


def test_losing_is_told_from_winning_and_from_neither():
    assert [outcome(gain(*found)) for found in ((0.02, 0.01), (-0.02, 0.01), (0.02, 0.03), (0.5,))] == [
        "won",
        "lost",
        "undecided",
        "undecided",
    ]
    markets = {"a": market(x=gain(0.02, 0.01)), "b": market(x=gain(-0.02, 0.01)), "c": market(x=gain(0.0, 0.01))}
    assert outcomes(markets, "x") == {"won": 1, "undecided": 1, "lost": 1}


def test_the_best_baseline_is_the_most_accurate_that_has_a_figure():
    markets = {"a": market(x=gain(0.1, 0.01), y=gain(-0.1, 0.01), z=gain(0.0))}
    metrics = {"markets": markets, "macro": {"baselines": {"x": {"auc": 0.6}, "y": {"auc": 0.8}, "z": {"auc": None}}}}
    best = best_of(metrics, ["x", "y", "z"])
    assert (best.baseline, best.auc, best.outcome) == ("y", 0.8, "lost")
    assert best_of(metrics, ["z"]) is None
    assert best_of(metrics, []) is None


def test_a_spread_names_its_ends():
    found = spread("auc", {"a": 0.7, "b": None, "c": 0.5, "d": 0.9})
    assert (found.smallest, found.smallest_of, found.middle, found.largest, found.largest_of) == (
        0.5,
        "c",
        0.7,
        0.9,
        "d",
    )
    assert spread("auc", {"a": None}).middle is None


def test_names_are_ordered_as_people_do():
    assert sorted(["m10", "m2", "M1", "de", "m02"], key=natural_key) == ["de", "M1", "m02", "m2", "m10"]
