"""Models before a date, tested after it: nothing of a period is known before it, and refits add up."""

import json

import numpy as np
import pytest

from experiments.benchmarks.drift import candidates_of, measure_drift, period_edges, released_epsilon, until
from fedmm_secure.errors import DataError
from fedmm_secure.storage.layout import RunDirectory
from tests.conftest import tiny

CONFIG = tiny(
    ctr={"model": "logistic", "baselines": []}, federation={"rounds": 1}, data={"min_item_train": 3, "synthetic": {
        "markets": 3, "users": 80, "items": 30, "mean_interactions": 12}},
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    return measure_drift(CONFIG, folder, before=0.6, periods=2), folder


@pytest.fixture(scope="module")
def markets():
    from fedmm_secure.data.prepare import prepare_markets

    return prepare_markets(CONFIG.data)


def test_a_model_is_refitted_before_each_period_and_the_same_before_the_first(measured):
    points, _ = measured
    assert [(point.market, point.period) for point in points] == [(m, p) for m in ("m0", "m1", "m2") for p in (1, 2)]
    for point in points:
        assert point.positives > 0
        assert point.gain.mean == pytest.approx(point.refitted - point.frozen)
        assert (point.refitted == point.frozen) == (point.period == 1)
        assert point.epsilon == (None, None)


def test_no_run_knows_a_row_of_its_period_or_of_a_later_one(measured, markets):
    _, folder = measured
    edges = period_edges(markets, 0.6, 2)
    for period in (0, 1):
        metrics = json.loads(RunDirectory(folder / f"period-{period + 1}").metrics.read_text())
        for name, prepared in markets.items():
            assert metrics["markets"][name]["n_rows"] == (prepared.market.time < edges[period]).sum()


def test_what_is_tested_is_of_the_period_of_known_users_and_items(markets):
    edges = period_edges(markets, 0.6, 2)
    whole = markets["m0"]
    first = until(whole, CONFIG, int(edges[0]))
    drawn = candidates_of(whole, first, (int(edges[1]), int(edges[2])), CONFIG)
    market = whole.market
    later = {(u, i) for u, i, t in zip(market.user, market.item, market.time, strict=True) if edges[1] <= t < edges[2]}
    touched = set(zip(market.user.tolist(), market.item.tolist(), strict=True))
    for user, item, label in zip(drawn.user.tolist(), drawn.item.tolist(), drawn.label, strict=True):
        assert (label == 1) == ((user, item) in touched)
        assert label == 0 or (user, item) in later
        assert user in set(first.market.user.tolist())
        assert item in set(first.pool.items.tolist())


def test_periods_have_equally_many_rows(markets):
    edges = period_edges(markets, 0.5, 4)
    times = np.concatenate([prepared.market.time for prepared in markets.values()])
    counts = np.histogram(times, edges)[0]
    assert counts.max() - counts.min() <= 0.02 * len(times)
    with pytest.raises(DataError, match="ask for fewer"):
        period_edges(markets, 0.5, 10**6)


def test_refits_of_released_models_add_up(tmp_path):
    private = CONFIG.model_dump(mode="json", exclude={"ctr", "embedding"}, exclude_none=True)
    private["privacy"] = {"epsilon": 4, "protect": "release", "pseudo_users": 50}
    config = tiny(**{**private, "ctr": {"baselines": []}, "embedding": {}})
    points = measure_drift(config, tmp_path, before=0.6, periods=2)
    for point in points:
        once, refitted = point.epsilon
        assert 3 < once <= 4
        assert refitted == once if point.period == 1 else once < refitted < 2 * once
    runs = [tmp_path / "period-1", tmp_path / "period-2"]
    assert released_epsilon(runs, "m0") == points[1].epsilon[1]
